"""A replica as the file that SQLite reads: one connection's or one attached database's."""

from datetime import UTC, datetime
from typing import NoReturn

import apsw

from backends import NotFoundError
from ltx import LTXFile, NotReachableError
from ltx.format import format_txid
from ltx.replica import format_time
from ltx.replica.apply import FileError
from vfs.errors import QueryError, ReadOnlyError, coded
from vfs.hydration_pragmas import told
from vfs.meter import Meter
from vfs.readahead import ReadAhead
from vfs.source import Source
from vfs.view import View
from vfs.waiting import Interrupted

__all__ = ["LATEST", "ReplicaFile"]

LATEST = "latest"
"""In place of a time: follow the newest state."""

_HEADER_SIZE = 100
_REPLANS = 3
_UNLOCKED, _SHARED = apsw.SQLITE_LOCK_NONE, apsw.SQLITE_LOCK_SHARED
_AHEAD = 2
"""Pages that a read gets which belongs to no scan: the next one is often wanted too."""

_LINEAGE_STEP = 0x9E3779B9
"""Keeps the counters of one replica away from those of the next one in the same place."""


class ReplicaFile:
    """The methods that SQLite calls on an open database, of which every one that writes raises.

    While SQLite holds a lock the file shows one view, whatever happens on the storage. A new lock looks for a
    newer one when the last look is older than `poll_interval_s`, unless a time was set.

    Args:
        source: The replica.
        poll_interval_s: How old a look at the storage may be when a transaction begins.
        at: A time to stay at; None and `latest` follow.
        txid: A TXID to stay at; None follows.
        interrupted: Says whether to give up waiting; by default whether the connection was interrupted.
        pin: Fetch what a held view still needs before its files go.
        hydrate: Have the source's hydrator fetch all of the database while this is open.
    """

    def __init__(
        self,
        source: Source,
        *,
        poll_interval_s: float,
        at: str | datetime | None = None,
        txid: int | str | None = None,
        interrupted: Interrupted | None = None,
        pin: bool = False,
        hydrate: bool = False,
    ) -> None:
        self.source = source
        self._poll_interval_s = poll_interval_s
        self._lock_level = _UNLOCKED
        self._front = source.cache.front()
        self._is_kept = True
        self._fixed: View | None = None
        self.meter = Meter(interrupted)
        self._ahead = ReadAhead(source.pages, self.meter)
        if (at is not None and not _is_latest(at)) or txid is not None:
            self._fixed = source.at(self.meter, time=at, txid=txid)
        self._view = self._fixed or source.latest(poll_interval_s, self.meter, listed=True)
        self._show(self._view)
        if pin:
            source.keeper.watch(self)
        if hydrate and source.hydrator:
            source.hydrator.join(self)

    @property
    def view(self) -> View:
        """What is visible now: during a transaction its view, else what the last one saw."""
        return self._view

    @property
    def held(self) -> View | None:
        """What must go on being visible: a time that was set, or the view of a transaction."""
        return self._view if self.is_fixed or self._lock_level != apsw.SQLITE_LOCK_NONE else None

    @property
    def is_fixed(self) -> bool:
        """Whether a time was set."""
        return self._fixed is not None

    def travel(self, to: str) -> None:
        """Stay at a time, or follow again at `latest`. Outside a transaction only.

        Raises:
            QueryError: A transaction is open: it must go on seeing what it saw.
            NotReachableError: The time cannot be had; the error says which can.
            ValueError: The text is no time.
        """
        if self._lock_level != _UNLOCKED:
            raise QueryError(
                "the time cannot change inside a transaction: end it first (COMMIT), then set the time"
            )
        if _is_latest(to):
            view = self.source.latest(self._poll_interval_s, self.meter, listed=True)
            self._fixed = None
        else:
            view = self._fixed = self.source.at(self.meter, time=to)
        self._show(view)

    # What SQLite calls: https://sqlite.org/c3ref/io_methods.html

    def xRead(self, amount: int, offset: int) -> bytes:
        """Return bytes of the database; SQLite fills what lies beyond its end with zeros."""
        page = self._front.get(offset)
        if page is not None and len(page) == amount:
            self.meter.hits += 1
            return page
        try:
            return self._read(amount, offset)
        except BaseException as error:
            coded(error)
            raise

    def xFileSize(self) -> int:
        """Return the size of the view: commit times page size."""
        return self._size

    def xLock(self, level: int) -> None:
        """Pin a view at the first lock; refuse any lock that is taken to write."""
        try:
            if level > _SHARED:
                self._refuse()
            if level == _SHARED:
                self._lock_level = _UNLOCKED  # also where Ctrl-C came into the last unlock
                view = self._fixed or self.source.fresh(self._poll_interval_s)
                if view is None:
                    view = self.source.latest(self._poll_interval_s, self.meter)
                if view is not self._view:
                    self._show(view)
                self._lock_level = level
        except BaseException as error:
            coded(error)
            raise

    def xUnlock(self, level: int) -> None:
        """Release the view; until the next lock it stays what is visible."""
        if level < self._lock_level:
            self._lock_level = level
        if level == _UNLOCKED and self._ahead.is_active:
            self._ahead.stop()

    def xCheckReservedLock(self) -> bool:
        """Nobody writes here."""
        return False

    def xSectorSize(self) -> int:
        """Return what SQLite takes for a sector; nothing is written, so it does not matter."""
        return 4096

    def xDeviceCharacteristics(self) -> int:
        """Promise nothing."""
        return 0

    def xFileControl(self, op: int, pointer: int) -> bool:
        """Answer our pragmas, and learn which connection this is; leave all else to SQLite."""
        if op == apsw.SQLITE_FCNTL_PDB:
            import ctypes  # the extension's helper does without

            self.meter.database_pointer = ctypes.c_void_p.from_address(pointer).value or 0
        if op != apsw.SQLITE_FCNTL_PRAGMA:
            return False
        pragma = apsw.VFSFcntlPragma(pointer)
        answer = self.pragma(pragma.name.lower(), pragma.value)
        if answer is None:
            return False
        pragma.result = answer
        return True

    def xClose(self) -> None:
        """Let go of the view."""
        self._fixed = None
        if self.source.hydrator:
            self.source.hydrator.leave(self)

    def xWrite(self, _data: bytes, _offset: int) -> None:
        """Refuse."""
        self._refuse()

    def xTruncate(self, _size: int) -> None:
        """Refuse."""
        self._refuse()

    def xSync(self, _flags: int) -> None:
        """Do nothing: nothing was written."""

    def pragma(self, name: str, value: str | None) -> str | None:
        """Answer `PRAGMA litestream_...`; None for a pragma that is not ours.

        Raises:
            QueryError: The pragma takes no value, or the time cannot change now.
        """
        with _coded():
            if name == "litestream_time":
                if value is not None:
                    self.travel(value)
                return format_time(self.view.time)
            if name == "litestream_txid":
                self._take_no_value(name, value)
                return format_txid(self.view.txid)
            if name == "litestream_lag":
                self._take_no_value(name, value)
                return f"{self.lag_s:.3f}"
            if name == "litestream_stats":
                self._take_no_value(name, value)
                return self.meter.cost.to_json()
            hydration = told(name, self.source.hydrator)
            if hydration is not None:
                self._take_no_value(name, value)
            return hydration

    @property
    def lag_s(self) -> float:
        """Seconds: for a set time, how far it lies back; else since the view was last known to be the newest."""
        if self.is_fixed:
            return (datetime.now(UTC) - self.view.time).total_seconds()
        return self.source.lag_s

    def _read(self, amount: int, offset: int) -> bytes:
        page_size = self._view.page_size
        pgno, start = offset // page_size + 1, offset % page_size
        if amount == page_size and not start:
            page = self.page(pgno)
            if page and self._is_kept:
                self._front[offset] = page
                if self._ahead.is_scanning:
                    beside = self._ahead.beside(self._view)
                    self._front.update(
                        zip(((each - 1) * page_size for each in beside), beside.values(), strict=True)
                    )
            return page
        last = (offset + amount - 1) // page_size + 1
        whole = b"".join(self.page(each) for each in range(pgno, last + 1))
        found = whole[start : start + amount]
        if start and last == 1 and self._is_kept:  # the change counter, which begins every transaction
            self._front[offset] = found
        return found

    def page(self, pgno: int) -> bytes:
        """Return a page of the view as SQLite sees it; nothing beyond its end."""
        if not 1 <= pgno <= self._view.commit:
            return b""
        meter = self.meter
        waits = meter.waits
        in_scan = self._ahead.wants(self._view, pgno)
        page = self._fetch(pgno, 1 if in_scan else _AHEAD)
        if meter.waits == waits:
            meter.hits += 1
        else:
            meter.misses += 1
        self._ahead.seen(self._view, pgno, page)
        return _page_one(page, self._view) if pgno == 1 else page

    def _show(self, view: View) -> None:
        """Let another view be what is visible."""
        self._front.clear()
        self._ahead.forget()
        self._view, self._size = view, view.size
        self._is_kept = self.source.cache.keeps(view.page_size)

    def _fetch(self, pgno: int, ahead: int = _AHEAD) -> bytes:
        """Return a page, from other files of the same TXID where the first is gone or damaged."""
        avoided: list[LTXFile] = []
        while True:
            view = self._view
            try:
                return self.source.page(view, pgno, ahead, self.meter)
            except FileError as error:
                avoided.append(error.file)
                if len(avoided) > _REPLANS:
                    raise error.public() from error
                try:
                    self._show(self.source.again(view, avoided, self.meter))
                except NotReachableError:
                    if isinstance(error.reason, NotFoundError):
                        raise
                    raise error.public() from error  # it names the place
                if self._fixed is view:
                    self._fixed = self._view

    def _refuse(self) -> NoReturn:
        raise ReadOnlyError(
            f"{self.source.replica.url} is a replica and read-only: write to the database itself"
        )

    def _take_no_value(self, name: str, value: str | None) -> None:
        if value is not None:
            raise QueryError(f"PRAGMA {name} only tells: it takes no value ({value!r})")


class _coded:  # noqa: N801 - reads as a statement; a class, since a generator would cost on every read
    """Gives an error that leaves for SQLite its code."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            coded(error)


def _is_latest(time: str | datetime) -> bool:
    return isinstance(time, str) and time.strip().lower() == LATEST


def _page_one(page: bytes, view: View) -> bytes:
    """Return a copy of page 1 as a reader without WAL must see it (docs/design/0002-page-one.md)."""
    patched = bytearray(page)
    counter = (view.txid + view.lineage * _LINEAGE_STEP & 0xFFFFFFFF).to_bytes(4, "big")
    patched[18:20] = b"\x01\x01"
    patched[24:28] = patched[92:96] = counter
    patched[28:32] = view.commit.to_bytes(4, "big")
    if view.lineage:  # another database's schema may have the same version
        schema = int.from_bytes(page[40:44], "big") + view.lineage * _LINEAGE_STEP & 0xFFFFFFFF
        patched[40:44] = schema.to_bytes(4, "big")
    return bytes(patched)
