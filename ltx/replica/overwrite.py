"""Changing pages of a SQLite database as SQLite itself does: its locks, its rollback journal, its change counter.

Other processes may read the database all the while. They see the old state or the new one, whenever this process is
killed: what it leaves is a hot journal, which the next one who opens the database rolls back. The format of the journal
is that of https://sqlite.org/fileformat2.html, section 3.
"""

import errno
import fcntl
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import apsw

from ltx.errors import DatabaseError
from ltx.format import lock_page
from ltx.sqlite import sync_folder

__all__ = ["COUNTER", "Busy", "Pages", "WritableCopy", "as_rollback_journal", "page_size_of"]

COUNTER = slice(24, 28)
"""Where page 1 has the change counter: whoever writes with a rollback journal adds one."""

_VERSION_VALID_FOR = slice(92, 96)
_PAGE_COUNT = slice(28, 32)
_FORMATS = slice(18, 20)
_ROLLBACK = b"\x01\x01"
_MAGIC = bytes.fromhex("d9d505f920a163d7")
_HEAD = struct.Struct(">8sIIIII")
_SECTOR_SIZE = 4096
_PGNO = struct.Struct(">I")
_STEP_S = 0.005

_OPEN: set[tuple[int, int]] = set()
"""The files that this process keeps up to date: another descriptor of one of them, closed, would take its locks along."""
_OPENING = threading.Lock()


class Busy(DatabaseError):
    """Others read or write the database for so long that we gave up; it is as it was."""


class Pages(Protocol):
    """What is to be written.

    Attributes:
        page_size: Bytes of a page.
        commit: Pages of the database afterwards.
    """

    @property
    def page_size(self) -> int: ...  # noqa: D102
    @property
    def commit(self) -> int: ...  # noqa: D102
    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield page numbers, ascending, and pages; page 1 among them."""


def page_size_of(head: bytes) -> int:
    """Return the size of a page from the first bytes of a database: 1 stands for 65,536."""
    size = int.from_bytes(head[16:18], "big")
    return 1 << 16 if size == 1 else size


def as_rollback_journal(page: bytes, commit: int, counter: int) -> bytes:
    """Return page 1 as a database has it that is in no WAL mode, of that size, and changed so often."""
    head = bytearray(page[:100])
    head[_FORMATS] = _ROLLBACK
    head[COUNTER] = head[_VERSION_VALID_FOR] = (counter & 0xFFFFFFFF).to_bytes(4, "big")
    head[_PAGE_COUNT] = commit.to_bytes(4, "big")
    return bytes(head) + page[100:]


class WritableCopy:
    """A database that this process alone writes to, and that any may read. Not for several threads.

    No other SQLite library in this process may have it open: the system's locks are a process's, not a library's.

    Readers are never kept out for long: while one that was there before keeps us waiting, new ones are held up for a
    twentieth of `wait_s` at a time, with twice as long in between. Where there always is one, it is a twentieth of the time
    that we have been waiting for, at most `wait_s`: then those come to their end that take no longer.

    Args:
        path: The database, with a rollback journal.
        wait_s: How long one call may wait for readers.

    Raises:
        DatabaseError: Somebody else follows a replica with it, or it cannot be opened.
    """

    def __init__(self, path: Path, *, wait_s: float = 2.0) -> None:
        self.path = path
        self._journal, self._aside = Path(f"{path}-journal"), Path(f"{path}-follow.journal")
        self._wait_s = wait_s
        self._waiting_since: float | None = None
        with _OPENING:
            found = os.stat(path)
            self._identity = found.st_dev, found.st_ino
            if self._identity in _OPEN:
                raise DatabaseError(f"another part of this program keeps {path} up to date: stop one of them")
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            _OPEN.add(self._identity)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._aside.unlink(missing_ok=True)
            self.recover()
            flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
            self._locks = apsw.VFSFile("", str(path), flags)
        except BlockingIOError as error:
            self._give_back()
            raise DatabaseError(f"another process keeps {path} up to date: stop one of them") from error
        except BaseException:
            self._give_back()
            raise

    @property
    def inode(self) -> int:
        """Tells one file from another one of the same name."""
        return os.fstat(self._descriptor).st_ino

    def head(self) -> bytes:
        """Return the first 100 bytes of the file."""
        return os.pread(self._descriptor, 100, 0)

    @property
    def counter(self) -> int:
        """How often it was changed."""
        return int.from_bytes(self.head()[COUNTER], "big")

    def recover(self) -> None:
        """Let SQLite roll back what a killed process left half done.

        Raises:
            DatabaseError: It cannot.
        """
        if not self._journal.exists():
            return
        try:
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.set_busy_timeout(5000)
                connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
            finally:
                connection.close()
        except apsw.Error as error:
            raise DatabaseError(f"{self.path} cannot be recovered: {error}") from error

    def write(self, new: Pages, check: Callable[[bytes], None]) -> int:
        """Bring pages into the database, as one transaction.

        Args:
            new: The pages. Those that are there already are passed over.
            check: Called with the first 100 bytes when nobody else can write any more; it may raise.

        Returns:
            How many pages changed.

        Raises:
            Busy: Readers would not go, or somebody else writes.
        """
        written = False
        try:
            changed, counter = self._begin(new, check)
            written = True
            os.rename(self._aside, self._journal)  # before that nobody takes it for what a killed writer left
            sync_folder(self.path.parent)
            self._write_pages(new, changed, counter)
            os.unlink(self._journal)  # this is the commit
            written = False
            sync_folder(self.path.parent)
            return len(changed)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self._aside)
            self._locks.xUnlock(apsw.SQLITE_LOCK_NONE)
            if written:
                self.recover()

    def _begin(self, new: Pages, check: Callable[[bytes], None]) -> tuple[set[int], int]:
        """Be alone with the database, and have a journal ready; return what is to be written, and the counter."""
        end = time.monotonic() + self._wait_s
        head: bytes | None = None
        while True:
            self.recover()
            self._lock(apsw.SQLITE_LOCK_SHARED)
            self._lock(apsw.SQLITE_LOCK_RESERVED)
            if self._is_hot():
                raise self._busy()  # a writer was killed just now: the next call recovers what it left
            found = self.head()
            if found != head:  # at first; later somebody wrote while we had no lock, and `check` says so
                check(found)
                head, counter = found, int.from_bytes(found[COUNTER], "big") + 1
                changed = self._write_journal(new, page_size_of(head), counter)
            if self._is_alone():
                return changed, counter
            self._locks.xUnlock(apsw.SQLITE_LOCK_NONE)
            if time.monotonic() >= end:
                raise self._busy()
            time.sleep(min(2 * self._patience_s(), max(0.0, end - time.monotonic())))

    def _is_alone(self) -> bool:
        """Try to get the exclusive lock. While it tries nobody new may begin to read, as SQLite has it."""
        began = time.monotonic()
        while True:
            try:
                self._locks.xLock(apsw.SQLITE_LOCK_EXCLUSIVE)
            except apsw.BusyError:
                self._waiting_since = self._waiting_since or began
                if time.monotonic() - began >= self._patience_s():
                    return False
                time.sleep(_STEP_S)
            else:
                self._waiting_since = None
                return True

    def _patience_s(self) -> float:
        """Return for how long new readers may be kept out now."""
        waited_s = time.monotonic() - (self._waiting_since or time.monotonic())
        return min(self._wait_s, max(self._wait_s, waited_s) / 20)

    def _is_hot(self) -> bool:
        """Whether there is a journal that would be rolled back; one that begins with a zero is done with."""
        try:
            with open(self._journal, "rb") as journal:
                return journal.read(1) not in (b"", b"\0")
        except FileNotFoundError:
            return False

    def _lock(self, level: int) -> None:
        end = time.monotonic() + self._wait_s
        while True:
            try:
                self._locks.xLock(level)
            except apsw.BusyError as error:
                if time.monotonic() >= end:
                    raise self._busy() from error
                time.sleep(_STEP_S)
            else:
                return

    def _busy(self) -> Busy:
        return Busy(f"{self.path} is in use by others: waits for them")

    def _write_journal(self, new: Pages, old_size: int, counter: int) -> set[int]:
        """Keep the pages that will be overwritten or cut off, durably, aside; return which ones will be written."""
        old_commit = os.fstat(self._descriptor).st_size // old_size
        same_size = new.page_size == old_size
        changed: set[int] = set()
        skipped = lock_page(old_size)
        self._aside.unlink(missing_ok=True)
        descriptor = os.open(self._aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w+b") as journal:
            os.fchmod(descriptor, os.fstat(self._descriptor).st_mode & 0o7777)
            nonce = secrets.randbits(32)
            fields = (_MAGIC, 0, nonce, old_commit, _SECTOR_SIZE, old_size)
            journal.write(_HEAD.pack(*fields).ljust(_SECTOR_SIZE, b"\0"))
            count = 0
            for pgno, page in new.pages():
                old = self.page(pgno, old_size) if same_size and pgno <= old_commit else b""
                wanted = as_rollback_journal(page, new.commit, counter) if pgno == 1 else page
                if old == wanted:
                    continue
                changed.add(pgno)
                if old:
                    count += _record(journal, pgno, old, nonce)
            first = new.commit + 1 if same_size else 1  # pages of another size: all of them go
            for pgno in range(first, old_commit + 1):
                if pgno != skipped:
                    count += _record(journal, pgno, self.page(pgno, old_size), nonce)
            journal.flush()
            os.pwrite(descriptor, count.to_bytes(4, "big"), len(_MAGIC))
            os.fsync(descriptor)
        return changed

    def page(self, pgno: int, size: int) -> bytes:
        """Return a page as it is now; only we change it."""
        return os.pread(self._descriptor, size, (pgno - 1) * size)

    def _write_pages(self, new: Pages, changed: set[int], counter: int) -> None:
        size = new.page_size
        for pgno, page in new.pages():
            if pgno in changed:
                data = as_rollback_journal(page, new.commit, counter) if pgno == 1 else page
                if os.pwrite(self._descriptor, data, (pgno - 1) * size) != size:
                    raise OSError(errno.ENOSPC, f"{self.path}: {os.strerror(errno.ENOSPC)}")
        os.ftruncate(self._descriptor, new.commit * size)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let others follow with it."""
        self._locks.xClose()
        self._give_back()

    def _give_back(self) -> None:
        with _OPENING:
            os.close(self._descriptor)  # after all locks are given back: it would take them along
            _OPEN.discard(self._identity)


def _record(journal: BinaryIO, pgno: int, page: bytes, nonce: int) -> int:
    checksum = (nonce + sum(page[len(page) - 200 : 0 : -200])) & 0xFFFFFFFF
    journal.write(_PGNO.pack(pgno) + page + _PGNO.pack(checksum))
    return 1
