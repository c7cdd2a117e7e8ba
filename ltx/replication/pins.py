"""A chain of read transactions on one database that never lapses: each begins before the one before it ends.

While a pin is held SQLite keeps from the WAL nothing that was committed after the pin began: a checkpoint brings no
later frame into the database file, and the WAL can begin anew only where all its frames were in the file when the
pin began, and then once (docs/design/0006-capture.md has the argument).
"""

import os
import time
from pathlib import Path

import apsw

from ltx.errors import DatabaseError
from ltx.replication.locks import blocking_checkpoint, descriptor_of, descriptors_of
from ltx.replication.source import DATABASE, WAL, begin_reading, open_beside, unreadable
from ltx.sqlite import leave_wal_on_close

__all__ = ["PIN_BUSY_MS", "DiskError", "Doubt", "Pins"]

PIN_BUSY_MS = 1000
"""How long a pin waits for a lock."""

_FRUGAL = "PRAGMA cache_size = 2; PRAGMA shrink_memory"
"""Without it SQLite keeps 20 pages for a connection from its first page on: a quarter remains of its memory."""


class Doubt(DatabaseError):
    """Something may have been written that was not seen: only comparing all pages tells what."""


class DiskError(DatabaseError):
    """The disk may not have kept what was written into a database."""


class Pins:
    """Two connections to one database, of which one holds a read transaction at any time.

    Nothing is ever written through them, and closing them leaves the WAL as it is. Not for use by two threads at once.

    Attributes:
        path: The database.
        wal: The WAL's file, which lies beside what a link leads to.
        mode: Its journal mode when the first pin began: "wal", or one of the others, which all are alike here.
        is_kept: Whether the pin stays where it is, so that no frame that it was on is ever overwritten.

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
        self.is_kept = False
        self._shared: int | None = None
        self._own: frozenset[int] | None = None
        try:
            self.wal = Path(self._held.filename_wal)
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
    def held(self) -> apsw.Connection:
        """The connection whose read transaction is the pin."""
        return self._held

    @property
    def idle(self) -> apsw.Connection:
        """The other one, in no transaction."""
        assert self._idle is not None
        return self._idle

    def slide(self) -> None:
        """Begin a pin at the last commit, then end the one before it; not where that one is kept.

        Raises:
            DatabaseError: No new pin could begin; the old one holds.
        """
        if self.is_kept:
            return
        mode = begin_reading(self.idle, self.path)
        if mode != self.mode:  # cannot be while the old pin held
            self.idle.execute("ROLLBACK")
            raise Doubt(f"{self.path} changed its journal mode under a read transaction")
        self._held.execute("ROLLBACK")
        self._held, self._idle = self.idle, self._held

    def keep(self) -> None:
        """Let the pin stay where it is from now on; what is committed later can be read nevertheless."""
        self.is_kept = True

    def must_stay(self) -> bool:
        """Whether the pin is kept, and holds still."""
        if not self.is_kept:
            return False
        try:
            self.prove()
        except (DatabaseError, apsw.Error, OSError):
            return False
        return True

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

        Any thread may ask at any time, after `close` too; no lock is taken, nothing is opened, no connection is used.

        Returns:
            When the WAL was last written to, in nanoseconds; None where there is no such checkpoint, or the pin is kept.
        """
        if self.mode != "wal" or self.is_kept:
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

    def beside(self) -> apsw.Connection:
        """Open one more connection, which is to checkpoint nothing: `sync_database` goes through its descriptor."""
        if self._own is None:
            self._own = descriptors_of(self._inodes[0])
        connection = open_beside(self.path)
        leave_wal_on_close(connection)
        return connection

    def sync_database(self) -> None:
        """Make durable what was written into the database file, as far as that can be done from here.

        A system tells each open file once that something could not be written. So this goes through none that a
        checkpoint syncs: SQLite is to hear of it too, whatever becomes of us.

        Raises:
            DiskError: The disk failed, now or earlier: what of the file is on it is not known.
        """
        if not self._own or len(self._own) < 2:  # it cannot be told which ones checkpoints sync
            return
        descriptor = descriptor_of(self._inodes[0], but=self._own)
        if descriptor is not None:
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise DiskError(error.strerror or str(error)) from error

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
