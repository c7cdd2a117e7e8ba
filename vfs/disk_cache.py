"""Pages and indexes kept on disk between runs, for all processes of a machine: one SQLite database in a folder.

Nothing in it is believed: a frame comes back only with a checksum over itself, its page number, its file and that
file's own checksum; what opens a file is checked as if it came from the storage. Whatever goes wrong with the disk,
queries go on without it (docs/design/0008-disk-cache.md).
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet, WeakValueDictionary

import apsw

from backends import ConfigError
from ltx.format.checksum import crc
from vfs.cache import Frame
from vfs.waiting import ForkedLock

__all__ = [
    "APPLICATION_ID",
    "DEFAULT_DISK_SIZE",
    "DIR_VARIABLE",
    "DiskCache",
    "FileName",
    "open_disk_cache",
    "taken",
]

DIR_VARIABLE = "LITESTREAM_CACHE_DIR"
DEFAULT_DISK_SIZE = 1 << 30
_LEAST_SIZE = 16 << 20

FileName = tuple[str, bytes]
"""A file by its place and size, and by its last bytes, which hold its checksum: a recreated replica reuses places."""

_NAME = "litestream-pages.db"
APPLICATION_ID = 0x4C545831
_WAL_SIZE = 2 << 20
_PUT_SIZE = 1 << 20
_PART = 16
"""This part of the room is made at once where there is none."""

_TOUCH_S = 60
"""How exactly it is kept when an entry was last used."""

_MOST_TOUCHED = 1000
_PAUSE_S = 30.0
"""How long the disk is left alone after it failed."""

_BUSY_MS = 200
_FORK_S = 10.0
"""How long a fork waits at most for what is written."""

_SCHEMA = """
PRAGMA page_size = 8192;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = 2097152;
PRAGMA wal_autocheckpoint = 256;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT, trailer BLOB, used INTEGER, sum INTEGER, ends BLOB, UNIQUE (place, trailer)
);
CREATE TABLE IF NOT EXISTS frames (id INTEGER PRIMARY KEY, used INTEGER, sum INTEGER, frame BLOB);
CREATE INDEX IF NOT EXISTS frames_by_use ON frames (used);
CREATE TABLE IF NOT EXISTS verified (file INTEGER PRIMARY KEY);
COMMIT;
"""

_REMOVE_FILES = """
DELETE FROM files WHERE used < (SELECT min(used) FROM frames)
AND NOT EXISTS (SELECT 1 FROM frames WHERE frames.id BETWEEN files.id << 32 AND files.id << 32 | 0xFFFFFFFF)
"""

_T = TypeVar("_T")


class DiskCache:
    """A bounded map on disk. Safe to use from several threads and processes; a forked child goes on without it.

    Every method does nothing, or returns nothing, where the disk fails.

    Args:
        path: The database.
        max_size: Bytes that it may take, its write-ahead log included.

    Attributes:
        failure: Why the disk is left alone for a while; empty while it is not.
    """

    def __init__(self, path: Path, max_size: int) -> None:
        self.path = path
        self.max_size = max_size
        self._process = os.getpid()
        self._connection: apsw.Connection | None = None
        self._ids: dict[FileName, int] = {}
        self._touched: set[int] = set()
        self._touched_files: set[int] = set()
        self.failure = ""
        self._not_before = 0.0
        self._lock = ForkedLock()
        _caches.add(self)

    def ends(self, place: str) -> Mapping[bytes, bytes]:
        """Return what opens the files that lay in a place, by the last bytes of each."""

        def read(db: apsw.Connection) -> dict[bytes, bytes]:
            found: dict[bytes, bytes] = {}
            asked = "SELECT id, used, trailer, ends, sum FROM files WHERE place = ? AND ends IS NOT NULL"
            for key, used, trailer, ends, known in db.execute(asked, (place,)):
                if _sum((place, trailer), 0, ends) == known:
                    found[trailer] = ends
                    if used < _now() - _TOUCH_S:
                        self._touched_files.add(key)
            return found

        return self._guarded(read, {})

    def keep_ends(self, name: FileName, ends: bytes) -> None:
        """Keep what opens a file."""

        def write(db: apsw.Connection) -> None:
            self._make_room(db, len(ends))
            db.execute(
                "UPDATE files SET used = ?, sum = ?, ends = ? WHERE id = ?",
                (_now(), _sum(name, 0, ends), ends, self._id(db, name, make=True)),
            )

        self._written(write)

    def get(self, name: FileName, pgnos: Sequence[int], *, touch: bool = True) -> Mapping[int, Frame]:
        """Return those frames of a file that are kept.

        Args:
            name: The file.
            pgnos: Ascending.
            touch: Take them for used now.
        """

        def read(db: apsw.Connection) -> dict[int, Frame]:
            file = self._id(db, name)
            if not file:
                return {}
            wanted, old = set(pgnos), _now() - _TOUCH_S
            found: dict[int, Frame] = {}
            for key, used, known, frame in db.execute(
                "SELECT id, used, sum, frame FROM frames WHERE id BETWEEN ? AND ?",
                (file << 32 | pgnos[0], file << 32 | pgnos[-1]),
            ):
                pgno = key & 0xFFFFFFFF
                if pgno in wanted and isinstance(frame, bytes) and _sum(name, pgno, frame) == known:
                    found[pgno] = Frame(frame)
                    if touch and used < old:
                        self._touched.add(key)
            return found

        found: dict[int, Frame] = self._guarded(read, {})
        if len(self._touched) >= _MOST_TOUCHED:
            self._written(self._touch)
        return found

    def put(self, name: FileName, frames: Iterable[tuple[int, bytes]]) -> bool:
        """Keep frames of a file; those that were not used for longest go.

        Returns:
            Whether all of them are kept now.
        """
        some: list[tuple[int, bytes]] = []
        size, is_kept = 0, True
        for pgno, frame in frames:
            some.append((pgno, frame))
            size += len(frame)
            if size >= _PUT_SIZE:
                is_kept &= self._put(name, some, size)
                some, size = [], 0
        if some:
            is_kept &= self._put(name, some, size)
        return is_kept

    def _put(self, name: FileName, frames: Sequence[tuple[int, bytes]], size: int) -> bool:
        def write(db: apsw.Connection) -> None:
            self._touch(db)
            self._make_room(db, size)
            file, now = self._id(db, name, make=True), _now()
            db.executemany(
                "INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?)",
                [(file << 32 | pgno, now, _sum(name, pgno, frame), frame) for pgno, frame in frames],
            )

        return self._written(write)

    def count(self, name: FileName) -> int:
        """Return how many frames of a file are kept."""

        def read(db: apsw.Connection) -> int:
            file = self._id(db, name)
            asked = "SELECT count(*) FROM frames WHERE id BETWEEN ? AND ?"
            return int(db.execute(asked, (file << 32, file << 32 | 0xFFFFFFFF)).get) if file else 0

        return self._guarded(read, 0)

    def _id(self, db: apsw.Connection, name: FileName, *, make: bool = False) -> int:
        known = self._ids.get(name)
        if known:
            return known
        if make:
            db.execute("INSERT OR IGNORE INTO files (place, trailer, used) VALUES (?, ?, ?)", (*name, _now()))
        found = db.execute("SELECT id FROM files WHERE place = ? AND trailer = ?", name).get
        if found and not make:  # one that was made just now may be rolled back
            self._ids[name] = int(found)
        return int(found or 0)

    def _touch(self, db: apsw.Connection) -> None:
        touched, self._touched = self._touched, set()
        now = _now()
        db.executemany("UPDATE frames SET used = ? WHERE id = ?", [(now, key) for key in touched])
        files, self._touched_files = self._touched_files, set()
        db.executemany("UPDATE files SET used = ? WHERE id = ?", [(now, key) for key in files])

    def _make_room(self, db: apsw.Connection, size: int) -> None:
        """Remove what was not used for longest, and files of which nothing is left and that are as old."""
        room = self.room - size * 5 // 4
        while taken(db) > room:
            total = int(db.execute("SELECT count(*) FROM frames").get)
            if not total:
                db.execute("DELETE FROM files")
                self._ids.clear()
                return
            db.execute(
                "DELETE FROM frames WHERE id IN (SELECT id FROM frames ORDER BY used, id LIMIT ?)",
                (1 + total // _PART,),
            )
            db.execute(_REMOVE_FILES)
            self._ids.clear()

    @property
    def room(self) -> int:
        """Bytes for entries: what the write-ahead log may take is left free."""
        return self.max_size - 3 * _WAL_SIZE

    def _written(self, write: Callable[[apsw.Connection], None]) -> bool:
        def transaction(db: apsw.Connection) -> bool:
            db.execute("BEGIN IMMEDIATE")
            try:
                write(db)
                db.execute("COMMIT")
            except BaseException:
                with suppress(apsw.Error):
                    db.execute("ROLLBACK")
                raise
            return True

        return self._guarded(transaction, False)

    def _guarded(self, work: Callable[[apsw.Connection], _T], otherwise: _T) -> _T:
        if os.getpid() != self._process or time.monotonic() < self._not_before:
            return otherwise
        with self._lock.now:
            self.failure = ""
            try:
                return work(self._opened())
            except apsw.BusyError:  # another process writes: what it keeps does as well
                return otherwise
            except (apsw.CorruptError, apsw.NotADBError):
                self._begin_anew()
            except (apsw.Error, OSError, TypeError, ValueError) as error:  # no room, no rights, other values
                self.failure = str(error)
                self._not_before = time.monotonic() + _PAUSE_S
            return otherwise

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            import ctypes  # noqa: F401 - a forked child needs it, and must not load anything

            db = apsw.Connection(str(self.path))
            db.set_busy_timeout(_BUSY_MS)
            if not db.pragma("application_id"):
                db.pragma("application_id", APPLICATION_ID)
            db.execute(_SCHEMA).fetchall()
            db.pragma("max_page_count", (self.max_size - 2 * _WAL_SIZE) // int(db.pragma("page_size")))
            self._connection = db
        return self._connection

    def _begin_anew(self) -> None:
        """Throw a damaged database away. Other processes go on with the one that they have open."""
        if self._connection is not None:
            with suppress(apsw.Error):
                self._connection.close(True)
        self._connection = None
        self._ids.clear()
        self._touched.clear()
        self._touched_files.clear()
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{self.path}{suffix}")


def open_disk_cache(folder: str, max_size: int) -> DiskCache:
    """Return the cache in a folder, which is made; the same one for the same folder while it is in use.

    Raises:
        ConfigError: The folder cannot be made or written to, or the bound is too small.
    """
    if not _LEAST_SIZE <= max_size < 1 << 53:
        raise ConfigError(f"a cache on disk takes at least {_LEAST_SIZE} bytes, not {max_size}")
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"no cache can be kept at {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"no cache can be kept at {path}: the folder cannot be written to")
    with _known_lock.now:
        cache = _known.get(str(path))
        if cache is None or cache.max_size != max_size:
            cache = _known[str(path)] = DiskCache(path / _NAME, max_size)
        return cache


def taken(db: apsw.Connection) -> int:
    """Return how many bytes the entries of a cache take."""
    pages = int(db.pragma("page_count")) - int(db.pragma("freelist_count"))
    return pages * int(db.pragma("page_size"))


def _sum(name: FileName, pgno: int, data: bytes) -> int:
    place, trailer = name
    value = crc(b"%s\n%s%d\n%s" % (place.encode(), trailer, pgno, data))
    return value - (1 << 64) if value >> 63 else value


def _now() -> int:
    return int(time.time())


def _hold() -> None:
    """Let no other thread be within SQLite on our behalf while the process forks: a child would never get its mutexes."""
    _fork.held = [lock for cache in list(_caches) if (lock := cache._lock.now).acquire(timeout=_FORK_S)]


def _release() -> None:
    for lock in _fork.held:
        lock.release()


def _leave_to_parent() -> None:
    """Keep a child from closing its parent's databases: SQLite must not cross a fork."""
    for cache in _caches:
        if cache._connection is not None:
            import ctypes  # it is there: whoever opened the connection saw to it

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(cache._connection))
            cache._connection = None
    _known.clear()


_caches: WeakSet[DiskCache] = WeakSet()
_known: WeakValueDictionary[str, DiskCache] = WeakValueDictionary()
_known_lock = ForkedLock()
_fork = threading.local()
os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_leave_to_parent)
