"""A chain of read transactions on one database that never lapses: each begins before the one before it ends.

While a pin is held SQLite keeps from the WAL nothing that was committed after the pin began: a checkpoint brings no
later frame into the database file, and the WAL can begin anew only where all its frames were in the file when the
pin began, and then once (docs/design/0006-capture.md has the argument).
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import apsw

from ltx.errors import DatabaseError
from ltx.replication.locks import blocking_checkpoint, descriptor_of
from ltx.replication.source import DATABASE, WAL, begin_reading, open_beside, unreadable
from ltx.sqlite import leave_wal_on_close

__all__ = ["PIN_BUSY_MS", "Doubt", "Pins"]

PIN_BUSY_MS = 1000
"""How long a pin waits for a lock."""

_FRUGAL = "PRAGMA cache_size = 2; PRAGMA shrink_memory"
"""Without it SQLite keeps 20 pages for a connection from its first page on: a quarter remains of its memory."""


class Doubt(DatabaseError):
    """Something may have been written that was not seen: only comparing all pages tells what."""


class Pins:
    """Two connections to one database, of which one holds a read transaction at any time.

    Nothing is ever written through them, and closing them leaves the WAL as it is. Not for use by two threads at once.

    Attributes:
        path: The database.
        mode: Its journal mode when the first pin began: "wal", or one of the others, which all are alike here.

    Args:
        path: The database; it must exist.

    Raises:
        DatabaseError: There is no database, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        before = _inode(path)
        self._held = open_beside(path)
        self._idle = None
        self._shared: int | None = None
        try:
            self._held.set_busy_timeout(PIN_BUSY_MS)
            self._held.execute(_FRUGAL)
            self.mode = begin_reading(self._held, path)
            if self.mode == "wal":
                leave_wal_on_close(self._held)
            self._idle = open_beside(path)
            self._idle.set_busy_timeout(PIN_BUSY_MS)
            self._idle.execute(_FRUGAL)
            if self.mode == "wal":
                # It must have read once: until then it does not know that there is a WAL.
                self._idle.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
                leave_wal_on_close(self._idle)
            self._inodes = self._inodes_now()
            if self._inodes[0] != before:
                raise Doubt(f"{path} was replaced while it was opened: try again")
            if self.mode == "wal":
                self._shared = descriptor_of(self._inodes[2], recent=True)
        except BaseException as error:
            self.close()
            if isinstance(error, apsw.Error):
                raise unreadable(path, error) from error
            raise

    @property
    def wal(self) -> Path:
        """The WAL's file, which lies beside what a link leads to."""
        return Path(self._held.filename_wal)

    @property
    def held(self) -> apsw.Connection:
        """The connection whose read transaction is the pin."""
        return self._held

    @property
    def idle(self) -> apsw.Connection:
        """The other one, in no transaction."""
        assert self._idle is not None
        return self._idle

    def slide(self) -> None:
        """Begin a pin at the last commit, then end the one before it.

        Raises:
            DatabaseError: No new pin could begin; the old one holds.
        """
        mode = begin_reading(self.idle, self.path)
        if mode != self.mode:  # cannot be while the old pin held
            self.idle.execute("ROLLBACK")
            raise Doubt(f"{self.path} changed its journal mode under a read transaction")
        self._held.execute("ROLLBACK")
        self._held, self._idle = self.idle, self._held

    def prove(self) -> None:
        """Raise `Doubt` unless the pin has held, on the files that lie at the database's path now."""
        if self._held.txn_state("main") != apsw.SQLITE_TXN_READ:
            raise Doubt(f"the read transaction on {self.path} ended by itself")
        if self._inodes_now() != self._inodes:
            raise Doubt(f"{self.path} or its WAL was replaced by another file")

    def read_wal(self, offset: int, size: int) -> bytes:
        """Read bytes of the WAL, zeros where it has ended."""
        return self._held.read("main", WAL, offset, size)[1]

    def read_database(self, offset: int, size: int) -> bytes:
        """Read bytes of the database file, past the WAL."""
        return self._held.read("main", DATABASE, offset, size)[1]

    def frame_counts(self) -> tuple[int, int]:
        """Return how many frames of the WAL are committed, and how many of them are in the database file.

        This is what SQLite itself shows to readers: a frame beyond it may look committed and still be given up,
        where its writer was killed between writing and telling.
        """
        until = time.monotonic() + PIN_BUSY_MS / 1000
        while True:
            try:
                counts: tuple[int, int] = self.idle.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_NOOP)
            except apsw.BusyError:  # met within a commit; SQLite itself does not wait here as readers do
                if time.monotonic() >= until:
                    raise
                time.sleep(0.0001)  # whoever commits needs the processor
                continue
            if counts[0] < 0:
                raise Doubt(f"{self.path} has no WAL any more")
            return counts

    def is_wal(self, descriptor: int) -> bool:
        """Whether a descriptor is of the WAL that the pin is on."""
        found = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == self._inodes[1]

    def waiting(self) -> int | None:
        """Tell whether another process is in a checkpoint that keeps writers out: it may wait for the pin to slide.

        Any thread may ask at any time; no lock is taken, and nothing is opened.

        Returns:
            When the WAL was last written to, in nanoseconds; None where there is no such checkpoint.
        """
        if self.mode != "wal":
            return None
        if self._shared is None:
            found = descriptor_of(self._inodes[2])
            self._shared = -1 if found is None else found  # it is SQLite's, and stays as long as we do
        if self._shared < 0 or not blocking_checkpoint(self._shared):
            return None
        try:
            return os.stat(self.wal).st_mtime_ns
        except FileNotFoundError:
            return None

    def sync_database(self) -> None:
        """Make durable what was written into the database file, as far as that can be done from here."""
        descriptor = descriptor_of(self._inodes[0])
        if descriptor is not None:
            with suppress(OSError):  # SQLite syncs it once more, and tells
                os.fsync(descriptor)

    def close(self) -> None:
        """End the pin and close both connections. Idempotent."""
        self._shared = -1
        for connection in (self._held, self._idle):
            if connection is not None:
                connection.close()

    def _inodes_now(self) -> list[tuple[int, int] | None]:
        wal = self.wal
        sides = [wal, Path(f"{str(wal).removesuffix('-wal')}-shm")] if self.mode == "wal" else []
        return [_inode(path) for path in (self.path, *sides)]


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
