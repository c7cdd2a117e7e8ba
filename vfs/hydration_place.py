"""Where hydration keeps pages, and whose turn it is where several processes keep the same ones."""

import fcntl
import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet, WeakValueDictionary, finalize

import apsw

from backends import ConfigError
from ltx.format.checksum import crc
from vfs.disk_cache import APPLICATION_ID, DIR_VARIABLE, DiskCache, open_disk_cache
from vfs.waiting import ForkedLock

__all__ = [
    "ENABLED_VARIABLE",
    "PATH_VARIABLE",
    "UNBOUNDED",
    "Private",
    "Turn",
    "is_on",
    "place_of",
    "remove_private",
    "turn_of",
]

ENABLED_VARIABLE = "LITESTREAM_HYDRATION_ENABLED"
PATH_VARIABLE = "LITESTREAM_HYDRATION_PATH"
_OFF = frozenset({"", "0", "false", "no", "off"})

UNBOUNDED = 1 << 45
"""Bytes that a file may take which holds what is hydrated and nothing else."""

_PREFIX = "ltx-hydration-"
_LOCK = "lock"
_LEFT_S = 60.0
"""How old a private folder must be before it can have been left behind."""


@dataclass(frozen=True)
class Private:
    """A folder for one process, which goes with it: where nobody named one.

    Attributes:
        process: Which.
    """

    process: int

    def open(self) -> DiskCache:
        """Make a cache in a new folder; it is removed when the cache is used no more, or the process ends.

        Raises:
            ConfigError: No folder can be made.
        """
        import tempfile  # what is not hydrated does without

        _sweep()
        _left[:] = [each for each in _left if each.alive]
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        except OSError as error:
            raise ConfigError(
                f"a hydrated database needs a place on disk, and none can be made: {error}"
            ) from error
        lock = Turn(folder / _LOCK)
        lock.take()
        disk = DiskCache(folder / "litestream-pages.db", UNBOUNDED)
        _left.append(finalize(disk, _remove, folder, lock, self.process))
        return disk


class Turn:
    """A lock between processes, by a file; it goes with the process that has it. Its threads take it as one.

    Args:
        path: The file, which stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        _turns.add(self)

    def take(self) -> bool:
        """Take the lock if nobody else has it; return whether it is ours."""
        if self._fd is None:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except (
                OSError
            ):  # no room for an empty file: then two processes may fetch the same, which harms nobody
                return True
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            except OSError:  # a file system without locks: as above
                pass
            self._fd = fd
        return True

    def release(self) -> None:
        """Let others have it."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def is_on(given: str | bool | None) -> bool:
    """Whether hydration is asked for: by an argument or a parameter, else by the environment."""
    if isinstance(given, bool):
        return given
    return (os.environ.get(ENABLED_VARIABLE, "") if given is None else given).strip().lower() not in _OFF


def place_of(
    cache_dir: str | None, cache_dir_size: int, hydrates: bool, hydration_path: str | None
) -> DiskCache | Private | None:
    """Return where pages are kept on disk.

    Args:
        cache_dir: A folder; None where only the environment may name one, "" for none.
        cache_dir_size: Bytes that all together may take there.
        hydrates: Whether the whole database is to be kept.
        hydration_path: A file for that; None where only the environment may name one, "" for none.

    Raises:
        ConfigError: Nothing can be kept there, or something else lies there.
    """
    named = hydration_path
    if named is None and not cache_dir:
        named = os.environ.get(PATH_VARIABLE)
    if hydrates and named:
        return _open_file(named)
    folder = os.environ.get(DIR_VARIABLE, "") if cache_dir is None else cache_dir
    if folder:
        return open_disk_cache(folder, cache_dir_size)
    return Private(os.getpid()) if hydrates else None


def remove_private() -> None:
    """Remove the private folders of this process: it is about to end without its usual last steps."""
    for each in _left:
        each()


def turn_of(disk: DiskCache, prefix: str) -> Turn:
    """Return the turn of whoever hydrates a replica into a cache."""
    return Turn(disk.path.with_name(f"{disk.path.name}-{crc(prefix.encode()):016x}.turn"))


def _open_file(named: str) -> DiskCache:
    path = Path(named).expanduser().absolute()
    with _files_lock.now:
        disk = _files.get(str(path))
        if disk is None:
            _check(path)
            disk = _files[str(path)] = DiskCache(path, UNBOUNDED)
        return disk


def _check(path: Path) -> None:
    """See that a cache can be kept in a file: that it is one, or that there is none yet."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"nothing can be kept at {path}: {error.strerror}") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"nothing can be kept at {path}: it cannot be written to")
    if not path.exists():
        with suppress(FileExistsError):  # pages of a private database are private
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    elif path.stat().st_size:
        try:  # by SQLite: whoever else closes a database takes the locks of its other users in this process away
            with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
                if db.pragma("application_id") == APPLICATION_ID:
                    return
        except apsw.BusyError:
            return
        except apsw.Error:
            pass
        raise ConfigError(
            f"{path} is not a file that pages are kept in here: remove it if it is a database that Litestream hydrated, "
            "or let hydration_path name another one"
        )


def _sweep() -> None:
    """Remove the folders of processes that were killed."""
    import tempfile

    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _LEFT_S:
                continue
            lock = Turn(folder / _LOCK)
            if lock.take():
                _remove_folder(folder)
                lock.release()


def _remove(folder: Path, lock: Turn, process: int) -> None:
    if os.getpid() == process:
        _remove_folder(folder)
        lock.release()


def _remove_folder(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _leave_to_parent() -> None:
    """Keep a child from having its parent's turns: they would outlast the parent."""
    for turn in _turns:
        turn.release()
    _files.clear()


_left: "list[finalize[[Path, Turn, int], DiskCache]]" = []
_turns: WeakSet[Turn] = WeakSet()
_files: WeakValueDictionary[str, DiskCache] = WeakValueDictionary()
_files_lock = ForkedLock()
os.register_at_fork(after_in_child=_leave_to_parent)
