"""Databases in rollback-journal mode: all pages are compared whenever something was committed.

A SHARED lock is held for the length of the comparison, so that writers wait for it; between two comparisons none is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from ltx.errors import DatabaseError
from ltx.replication.pins import Doubt
from ltx.replication.source import PinnedDatabase, begin_reading, hold, open_beside
from ltx.sqlite import leave_wal_on_close

__all__ = ["RollbackSource", "bring_into_wal_mode"]

_CONVERT_MS = 100


class RollbackSource:
    """One database in rollback-journal mode.

    Args:
        path: The database.

    Raises:
        DatabaseError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = os.stat(path).st_ino
        self._connection = open_beside(path)
        self._seen: object = None
        self._next: object = None

    @contextmanager
    def changed(self, *, always: bool = False) -> Iterator[PinnedDatabase | None]:
        """Hold the database, if it changed since `accept`; else yield None.

        Args:
            always: Hold it in any case.

        Raises:
            Doubt: It was replaced, or is in WAL mode now.
            DatabaseError: It stays locked.
        """
        if os.stat(self.path).st_ino != self._inode:
            raise Doubt(f"{self.path} was replaced by another file")
        if not always and self._seen is not None and self._version() == self._seen:
            yield None
            return
        mode = begin_reading(self._connection, self.path)
        try:
            if mode == "wal":
                leave_wal_on_close(self._connection)
                raise Doubt(f"{self.path} went over to WAL mode")
            self._next = self._version()
            yield hold(self._connection, self.path, mode)
        finally:
            self._connection.execute("ROLLBACK")

    def accept(self) -> None:
        """State that what was held last is durable elsewhere."""
        self._seen = self._next

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _version(self) -> object:
        try:
            return self._connection.execute("PRAGMA data_version").fetchall()[0][0]
        except apsw.BusyError as error:
            raise DatabaseError(f"{self.path} is locked: try again") from error


def bring_into_wal_mode(path: Path) -> bool:
    """Let a database have a WAL from now on; False where somebody holds a lock on it, or it cannot have one.

    This is the one thing that we ever write to a database, and only where it is asked for. Whoever has it open notices with
    the next transaction.
    """
    connection = open_beside(path)
    try:
        connection.set_busy_timeout(_CONVERT_MS)
        found = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        leave_wal_on_close(connection)
    except (apsw.BusyError, apsw.LockedError):
        return False
    finally:
        connection.close()
    return found == [("wal",)]
