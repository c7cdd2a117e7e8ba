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

    Args:
        path: The database, with a rollback journal.
        wait_s: How long readers may keep us waiting; they wait for us for as long.

    Raises:
        DatabaseError: Another process follows a replica with it, or it cannot be opened.
    """

    def __init__(self, path: Path, *, wait_s: float = 2.0) -> None:
        self.path = path
        self._journal = Path(f"{path}-journal")
        self._wait_s = wait_s
        self._descriptor = os.open(
            path, os.O_RDWR | os.O_CLOEXEC
        )  # closed last: it would take our locks along
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.recover()
            flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
            self._locks = apsw.VFSFile("", str(path), flags)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise DatabaseError(f"another process keeps {path} up to date: stop one of them") from error
        except BaseException:
            os.close(self._descriptor)
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
        self.recover()
        touched = False
        try:
            self._lock(apsw.SQLITE_LOCK_SHARED)
            self._lock(apsw.SQLITE_LOCK_RESERVED)
            head = self.head()
            check(head)
            old_size = page_size_of(head)
            counter = int.from_bytes(head[COUNTER], "big") + 1
            changed = self._write_journal(new, old_size, counter)
            self._lock(apsw.SQLITE_LOCK_EXCLUSIVE)
            touched = True
            self._write_pages(new, changed, counter)
            os.unlink(self._journal)  # this is the commit
            touched = False
            sync_folder(self.path.parent)
            return len(changed)
        except BaseException:
            if not touched:
                with suppress(FileNotFoundError):
                    os.unlink(self._journal)
            raise
        finally:
            self._locks.xUnlock(apsw.SQLITE_LOCK_NONE)
            if touched:
                self.recover()

    def _lock(self, level: int) -> None:
        """Take a lock. While we wait for the exclusive one nobody new may begin to read, as SQLite has it."""
        end = time.monotonic() + self._wait_s
        while True:
            try:
                self._locks.xLock(level)
            except apsw.BusyError as error:
                if time.monotonic() >= end:
                    raise Busy(f"{self.path} is in use by others: waits for them") from error
                time.sleep(_STEP_S)
            else:
                return

    def _write_journal(self, new: Pages, old_size: int, counter: int) -> set[int]:
        """Keep the pages that will be overwritten or cut off, durably; return which ones will be written."""
        old_commit = os.fstat(self._descriptor).st_size // old_size
        same_size = new.page_size == old_size
        changed: set[int] = set()
        skipped = lock_page(old_size)
        with suppress(FileNotFoundError):
            os.unlink(self._journal)  # nobody needs it: `recover` was here, and nobody else may write
        descriptor = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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
            os.fsync(descriptor)
            os.pwrite(descriptor, count.to_bytes(4, "big"), len(_MAGIC))
            os.fsync(descriptor)
        sync_folder(self.path.parent)
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
        os.close(self._descriptor)


def _record(journal: BinaryIO, pgno: int, page: bytes, nonce: int) -> int:
    checksum = (nonce + sum(page[len(page) - 200 : 0 : -200])) & 0xFFFFFFFF
    journal.write(_PGNO.pack(pgno) + page + _PGNO.pack(checksum))
    return 1
