"""What the contract's tests are made of: keys, contents, files that misbehave, threads and forks."""

import io
import os
import random
import signal
import threading
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, ClassVar

import pytest

from backends.base import Backend

__all__ = [
    "BAD_KEYS",
    "BAD_PREFIXES",
    "MIB",
    "UNUSUAL_KEYS",
    "BrokenFile",
    "Needs",
    "WatchedFile",
    "at_once",
    "content",
    "in_child",
    "list_keys",
]

MIB = 1 << 20
PATIENCE_S = 50

UNUSUAL_KEYS = (
    "%2F", "..a", "a b", 'a"b', "a#b", "a%", "a%20b", "a&b=c", "a'b", "a*b", "a+b", "a,b@$!()[]{}^`", "a..b", "a::b",
    "a;b", "a<b>", "a=b", "a?b", "a?versionId=3", "a|b", "x/" + "l" * 255, "~x", "~", "-", "ü/é/日本", "\uff5a", "😀/x",
    "/".join(["k" * 99] * 9),
)  # fmt: skip
"""Legal, and in the wrong place something else: an escape, a query, a pattern, a home, another order in UTF-16."""

BAD_KEYS = (
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "a\nb", "a\x00", "a\x7f", "\x85",
    "\ud800", "\ufffe", "a.", "a./b", " a", "a ", "a /b", ".tmp-1", "a/.tmp-1", "l" * 256, "/".join(["k" * 99] * 10),
)  # fmt: skip
"""Refused by every backend, since some storage cannot hold them."""

BAD_PREFIXES = ("/", "/a", "../", "a//", "a/../", "\\", "\x00", ".tmp-", "a/.tmp-1")


class Needs(ABC):
    """What a subclass of the contract must give it."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """The URL schemes whose backend this is; none for a wrapper."""

    part_size: ClassVar[int] = 8 * MIB
    """Above this size the backend writes an object in several requests, where it does so at all."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """What was given to the backend and must not be seen again."""

    @abstractmethod
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        """An open backend with no objects in it."""

    @abstractmethod
    def reopen(self, backend: Backend) -> Backend:
        """Return a second instance on the same root, as another process would have it."""

    @abstractmethod
    def raw_get(self, backend: Backend, key: str) -> bytes:
        """Read an object past the backend: with the storage's own library, or from the disk."""


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes in which no two places look alike."""
    return random.Random(seed).randbytes(size)


class BrokenFile(io.RawIOBase):
    """A file that gives `size` bytes, a few at a time, and then cannot be read on."""

    def __init__(self, size: int) -> None:
        """Break after this many bytes."""
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read again."""
        return True

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Move; the end is where a whole file would have it, beyond the break."""
        self._place = place if whence == os.SEEK_SET else self._size * 2 + place
        return self._place

    def tell(self) -> int:
        """Say where reading goes on."""
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read at most 64 KiB, or break."""
        if self._place >= self._size:
            raise RuntimeError("the source broke")
        data = bytes(min(size if size >= 0 else self._size, 1 << 16, self._size - self._place))
        self._place += len(data)
        return data


def in_child(work: Callable[[], str]) -> str:
    """Run something in a forked child, and return what it returned, or the traceback of what it raised."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and fork
        pid = os.fork()
    if pid == 0:
        try:
            answer = work()
        except BaseException:  # noqa: BLE001 - the parent reports it
            answer = traceback.format_exc()
        os.write(writer, answer.encode()[-60_000:])
        os._exit(0)
    os.close(writer)
    killer = threading.Timer(PATIENCE_S, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        with open(reader, encoding="utf-8") as pipe:
            return pipe.read() or "the child died or hung"
    finally:
        killer.cancel()
        os.waitpid(pid, 0)


class WatchedFile:
    """A file that remembers the largest read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        """Read, and remember how much was asked for."""
        self.largest = max(self.largest, size if size >= 0 else 1 << 60)
        return self._file.read(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def list_keys(backend: Backend, prefix: str = "", start_after: str = "") -> list[str]:
    """List keys only."""
    return [info.key for info in backend.list(prefix, start_after=start_after)]


def at_once(count: int, work: Callable[[int], object]) -> list[Exception | None]:
    """Run `work` in so many threads that begin together, and return what each of them raised."""
    together = threading.Barrier(count)

    def run(number: int) -> Exception | None:
        together.wait(PATIENCE_S)
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error
        return None

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
