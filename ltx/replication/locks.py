"""Who holds the locks of a database's shared memory: asked without taking any, and without opening the file.

POSIX locks vanish with any closed descriptor of their file, whoever opened it. So what is asked here, or synced, goes
through the descriptors that SQLite itself has open.
"""

import fcntl
import os
import struct
import sys
from collections.abc import Container, Iterator

__all__ = ["blocking_checkpoint", "descriptor_of", "descriptors_of"]

_WRITE, _CHECKPOINT = 120, 121
"""The bytes of the -shm file that whoever writes and whoever checkpoints has locked: a part of SQLite's file format."""

_RECENT = 16

_LINUX, _BSD = struct.Struct("hhqqi"), struct.Struct("qqihh")
_IS_LINUX = sys.platform.startswith("linux")


def _question(byte: int) -> bytes:
    """Return a `struct flock` that asks who keeps others from locking a byte."""
    if _IS_LINUX:
        return _LINUX.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    return _BSD.pack(byte, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)


_QUESTIONS = {byte: _question(byte) for byte in (_WRITE, _CHECKPOINT)}


def descriptor_of(
    inode: tuple[int, int] | None, *, recent: bool = False, but: Container[int] = ()
) -> int | None:
    """Return a descriptor that this process has open on a file; None where there is none, or it cannot be told.

    It belongs to somebody else: never close it, and expect it to be gone when its owner is.

    Args:
        inode: The file's device and inode.
        recent: Whether to look only where it most likely is if it was opened just now.
        but: Descriptors that will not do.
    """
    found = (each for each in _descriptors_of(inode, recent=recent) if each not in but)
    return next(found, None)


def descriptors_of(inode: tuple[int, int] | None) -> frozenset[int]:
    """Return all descriptors that this process has open on a file; none where it cannot be told."""
    return frozenset(_descriptors_of(inode))


def _descriptors_of(inode: tuple[int, int] | None, *, recent: bool = False) -> Iterator[int]:
    try:
        descriptors = _recent() if recent else sorted(map(int, os.listdir("/dev/fd")), reverse=True)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            found = os.fstat(descriptor)
        except OSError:  # closed meanwhile
            continue
        if (found.st_dev, found.st_ino) == inode:
            yield descriptor


def _recent() -> list[int]:
    """Return the numbers below the lowest that is free, which are mostly those given last."""
    free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(free)
    return list(range(free - 1, max(-1, free - 1 - _RECENT), -1))


def blocking_checkpoint(descriptor: int) -> bool:
    """Whether another process has both locks: what only a FULL, RESTART or TRUNCATE checkpoint holds together.

    Where two of its threads have one each, that looks alike.

    Args:
        descriptor: One of the -shm file.
    """
    try:
        checkpointer = _holder(descriptor, _CHECKPOINT)
        return checkpointer is not None and checkpointer == _holder(descriptor, _WRITE)
    except OSError:  # SQLite closed it meanwhile, or the file system has no locks
        return False


def _holder(descriptor: int, byte: int) -> int | None:
    """Return the process that locked a byte; None where no other one has. It is 0 for one in another container."""
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _QUESTIONS[byte])
    if _IS_LINUX:
        kind, _, _, _, process = _LINUX.unpack(answer)
    else:
        _, _, process, kind, _ = _BSD.unpack(answer)
    return None if kind == fcntl.F_UNLCK else int(process)
