"""A live database held still: its committed pages under a read transaction, and nothing written to it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from ltx.errors import DatabaseError
from ltx.format import lock_page
from ltx.sqlite import leave_wal_on_close

if TYPE_CHECKING:
    from ltx.replication.wal import CommittedFrames, WALHeader

__all__ = [
    "DATABASE",
    "WAL",
    "MovedError",
    "NoDatabaseError",
    "PinnedDatabase",
    "begin_reading",
    "hold",
    "open_beside",
    "pinned",
    "unreadable",
]

_BUSY_TIMEOUT_MS = 5000
_WAL_MAGIC_SIZE = 4
_READ_SIZE = 1 << 20
DATABASE, WAL = 0, 1
"""The two files that `apsw.Connection.read` reads."""


_LASTING = (
    apsw.NotADBError,
    apsw.CorruptError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
)


class NoDatabaseError(DatabaseError):
    """No database can be read at a path, and waiting alone does not change that."""


class MovedError(DatabaseError):
    """What was read does not belong together: the WAL began anew meanwhile. Pin again."""


@dataclass(frozen=True, slots=True)
class PinnedDatabase:
    """One committed state of a database, readable as long as the pin is held.

    Attributes:
        path: The database.
        page_size: Bytes of a page.
        commit: Its size in pages.
        timestamp_ms: When it was pinned: no transaction in it is younger.
    """

    path: Path
    page_size: int
    commit: int
    timestamp_ms: int
    wal: "PinnedWAL | None"
    _connection: apsw.Connection
    _inode: tuple[int, int]

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield every page but the lock page, in order.

        Only when the iteration ends without an error do the pages belong together.

        Raises:
            MovedError: The WAL began anew meanwhile.
            DatabaseError: The file was replaced, or the read transaction is gone.
        """
        size, skipped = self.page_size, lock_page(self.page_size)
        from_wal = iter(self.wal.frames() if self.wal else ())
        in_wal, offset = next(from_wal, (0, 0))
        run = max(1, _READ_SIZE // size)
        for first in range(1, self.commit + 1, run):
            count = min(run, self.commit + 1 - first)
            data = self._read(DATABASE, (first - 1) * size, count * size)
            for place in range(count):
                pgno = first + place
                page = data[place * size : (place + 1) * size]
                if pgno == in_wal:
                    page = self._read(WAL, offset, size)
                    in_wal, offset = next(from_wal, (0, 0))
                if pgno != skipped:
                    yield pgno, page
        self.check()

    def check(self) -> None:
        """Raise unless the pin has held since it began."""
        if self._connection.txn_state("main") != apsw.SQLITE_TXN_READ:
            raise DatabaseError(f"the read transaction on {self.path} ended by itself: try again")
        if _inode_of(self.path) != self._inode:
            raise DatabaseError(f"{self.path} was replaced by another file while it was read: try again")
        if self.wal and self._read(WAL, 0, len(self.wal.raw_header)) != self.wal.raw_header:
            raise MovedError(f"the WAL of {self.path} began anew while it was read: try again")

    def _read(self, which: int, offset: int, size: int) -> bytes:
        return self._connection.read("main", which, offset, size)[1]


@dataclass(frozen=True, slots=True)
class PinnedWAL:
    """The WAL of a pinned database.

    Attributes:
        raw_header: Its first 32 bytes.
        header: What they say.
        committed: The frames that belong to the pinned state.
    """

    raw_header: bytes
    header: "WALHeader"
    committed: "CommittedFrames"

    def frames(self) -> Iterator[tuple[int, int]]:
        for pgno, offset in zip(self.committed.pgnos, self.committed.offsets, strict=True):
            yield int(pgno), int(offset)


@contextmanager
def pinned(path: str | os.PathLike[str]) -> Iterator[PinnedDatabase]:
    """Hold a database at its last commit, in WAL or rollback-journal mode, without writing to it.

    In WAL mode writers go on meanwhile; in rollback-journal mode they wait, since readers hold a SHARED lock.

    Raises:
        DatabaseError: There is no database, it is empty, or it stays locked for 5 seconds.
    """
    database = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
    connection = open_beside(database)
    try:
        yield hold(connection, database, begin_reading(connection, database))
    finally:
        connection.close()


def begin_reading(connection: apsw.Connection, path: Path) -> str:
    """Begin a read transaction at the last commit, and return the journal mode.

    Raises:
        DatabaseError: It is no database, or it stays locked for as long as the connection waits.
    """
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        return str(connection.execute("PRAGMA journal_mode").fetchall()[0][0])
    except apsw.Error as error:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        raise unreadable(path, error) from error


def unreadable(path: Path, error: apsw.Error) -> DatabaseError:
    """Return what an error of SQLite in reading a database comes to."""
    if isinstance(error, apsw.NotADBError):
        return NoDatabaseError(f"{path} is not a SQLite database")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return DatabaseError(f"{path} stayed locked for {_BUSY_TIMEOUT_MS // 1000} s: try again")
    kind = NoDatabaseError if isinstance(error, _LASTING) else DatabaseError
    return kind(f"{path} cannot be read: {error}")


def hold(
    connection: apsw.Connection, path: Path, mode: str, limit: Callable[[int], int] | None = None
) -> PinnedDatabase:
    """Describe the state that a read transaction holds, with what was committed after it began, if anything.

    Args:
        connection: Its read transaction began.
        path: The database.
        mode: Its journal mode.
        limit: Called, after the header of the WAL was read, with the bytes of a frame: where to end in the WAL.

    Raises:
        DatabaseError: The database is empty.
    """
    page_size, page_count = _size(connection)
    if page_count == 0:
        raise NoDatabaseError(f"{path} is empty: there is nothing to replicate before its first table")
    wal = None
    if mode == "wal":
        wal = _pin_wal(lambda offset, size: connection.read("main", WAL, offset, size)[1], limit)
    commit = wal.committed.commit if wal and wal.committed.commit else page_count
    timestamp_ms = time.time_ns() // 1_000_000  # no transaction in it is younger
    return PinnedDatabase(path, page_size, commit, timestamp_ms, wal, connection, _inode_of(path))


def check_is_file(path: Path) -> None:
    """Raise `NoDatabaseError` where no database can be."""
    if path.is_dir():
        raise NoDatabaseError(f"{path} is a folder: name the database in it")
    if not path.is_file():
        raise NoDatabaseError(f"there is no database {path}")


def open_beside(path: Path) -> apsw.Connection:
    """Open a database so that closing it changes nothing: no checkpoint, and the WAL stays where one was.

    Raises:
        DatabaseError: There is no database, or it cannot be opened.
    """
    check_is_file(path)
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        why = error if os.access(path, os.R_OK) else "this user may not read it; check its owner and its mode"
        raise NoDatabaseError(f"{path} cannot be opened: {why}") from error
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    wal = Path(connection.filename_wal)  # beside what a link leads to
    if wal.exists() and wal.stat().st_size > 0:
        leave_wal_on_close(connection)
    return connection


def _pin_wal(read: Callable[[int, int], bytes], limit: Callable[[int], int] | None) -> PinnedWAL | None:
    """Find the committed frames. The read transaction must have begun: what is read here cannot be lost then."""
    if not any(read(0, _WAL_MAGIC_SIZE)):
        return None  # and numpy need not be loaded
    from ltx.replication.wal import WAL_HEADER_SIZE, WALHeader, committed_frames

    while True:
        raw = read(0, WAL_HEADER_SIZE)
        header = WALHeader.unpack(raw)
        if header is None:
            return None
        found = committed_frames(read, header, limit=limit(header.frame_size) if limit else None)
        if read(0, WAL_HEADER_SIZE) == raw:  # else it began anew while it was scanned
            return PinnedWAL(raw, header, found)


def _size(connection: apsw.Connection) -> tuple[int, int]:
    [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
    [(page_count,)] = connection.execute("PRAGMA page_count").fetchall()
    if not isinstance(page_size, int) or not isinstance(page_count, int):
        raise DatabaseError("SQLite does not tell the size of the database")
    return page_size, page_count


def _inode_of(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
