"""A replica as queries see it: views of it, its pages, and how it is followed. Shared by all its connections."""

import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from weakref import WeakValueDictionary

from backends import ConfigError, NotFoundError, UnavailableError
from ltx import (
    TXID,
    CorruptError,
    GapError,
    LTXFile,
    NoSnapshotError,
    NotReachableError,
    Replica,
    ReplicaError,
    UnsupportedVersionError,
)
from ltx.format import format_txid
from ltx.format.frame import FRAME_HEAD, decode_frame
from ltx.replica import parse_time
from ltx.replica.apply import FileError
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import Plan, extend, make_plan, reach_of
from vfs.cache import PageCache
from vfs.open_files import TAIL_SIZE, FileOpener
from vfs.view import Doubt, OpenFile, Run, View, build_view, extend_view
from vfs.waiting import ForkedLock, Interrupted, Waiter

__all__ = ["DEFAULT_CACHE_SIZE", "DEFAULT_TIMEOUT_S", "Source", "open_source"]

DEFAULT_CACHE_SIZE = 64 << 20
DEFAULT_TIMEOUT_S = 60.0
"""How long one wait for the storage may take, its retries included."""

_PLANS = 4
_FIRST_RUN, _LONGEST_RUN = 2, 512
_RUN_SIZE = 1 << 20
_KNOWN_BETWEEN = 4


class Source:
    """One replica, open for queries. Safe to use from several threads, and in a forked child.

    Args:
        replica: The replica.
        cache_size: Bytes of pages to keep in memory.
        timeout_s: How long one wait for the storage may take.
    """

    def __init__(
        self, replica: Replica, *, cache_size: int = DEFAULT_CACHE_SIZE, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self.replica = replica
        self.cache = PageCache(cache_size)
        self._files = FileOpener(replica, self.cache)
        self._views: WeakValueDictionary[int, View] = WeakValueDictionary()
        self._latest: View | None = None
        self._lineage = 0
        self._looked: float | None = None
        self._no_look_before = 0.0
        self._waiter = Waiter(replica.url, timeout_s)

    @property
    def lag_s(self) -> float:
        """Seconds since the latest view was last known to be the newest; -1 before it ever was."""
        return -1.0 if self._looked is None else time.monotonic() - self._looked

    def latest(self, max_age_s: float, interrupted: Interrupted) -> View:
        """Return the newest view, after a look at the storage if the last one is older than that.

        A storage that does not answer is no reason to refuse what is known: then `lag_s` grows, and the next look
        comes no sooner than the failed one took. The TXID never goes back, unless the replica was made anew.

        Raises:
            NoSnapshotError: The replica is empty.
            UnavailableError: The storage did not answer at the first look.
            InterruptedQueryError: `interrupted` said so.
        """
        known = self._latest
        if known is not None and self._is_fresh(max_age_s):  # spares nearly every transaction the turn
            return known
        with self._waiter.turn(interrupted):
            known, began = self._latest, time.monotonic()
            if known is not None and self._is_fresh(max_age_s):
                return known
            try:
                self._latest = found = self._waiter.wait(self._look, interrupted)
            except UnavailableError:
                if known is None:
                    raise
                now = time.monotonic()
                self._no_look_before = now + (now - began)
                return known
            self._looked = time.monotonic()
            return found

    def _is_fresh(self, max_age_s: float) -> bool:
        return 0 <= self.lag_s < max_age_s or time.monotonic() < self._no_look_before

    def at(
        self, interrupted: Interrupted, *, time: str | datetime | None = None, txid: int | str | None = None
    ) -> View:
        """Return the view of a time or a TXID.

        Raises:
            NotReachableError: It cannot be had; the error says what can.
            ValueError: It means no time, or no TXID.
        """
        with self._waiter.turn(interrupted):
            return self._waiter.wait(lambda: self._at(time, txid), interrupted)

    def again(self, view: View, without: Collection[LTXFile], interrupted: Interrupted) -> View:
        """Return another view of the same TXID, made without files that are gone or damaged.

        Raises:
            NotReachableError: No other files have what those held.
        """
        with self._waiter.turn(interrupted):
            known = self._views.get(view.txid)
            if (
                known
                and known.lineage == view.lineage
                and not any(each.file in without for each in known.files)
            ):
                return known
            try:
                found = self._waiter.wait(lambda: self._plan_again(view, without), interrupted)
            except NotReachableError:
                if self._latest is view:
                    self._forget()  # the next transaction takes what there is
                raise
            if self._latest is view:
                self._latest = found
            return found

    def page(self, view: View, pgno: int, ahead: int, interrupted: Interrupted) -> bytes:
        """Return a page of a view, and keep up to `ahead` of those that lie behind it.

        Raises:
            FileError: A file that it lies in, or could lie in, is gone or damaged.
        """
        if pgno == view.lock_page:
            return bytes(view.page_size)
        file = view.file_of(pgno)
        doubts = view.doubts(pgno) if view.unverified else []
        page = self.cache.get((file.number, pgno))
        if page is None:
            run = self._lacking(view.run_at(pgno, min(_LONGEST_RUN, max(_FIRST_RUN, ahead)), _RUN_SIZE))
            pages = self._waiter.wait(lambda: self._read(view.page_size, run, doubts), interrupted)
            self.cache.put(((file.number, number), data) for number, data in pages)
            page = pages[0][1]
        elif doubts:
            self._waiter.wait(lambda: self._read(view.page_size, None, doubts), interrupted)
        if pgno == 1:
            _check_commit(view, page)
        return page

    def _lacking(self, run: Run) -> Run:
        """Cut a run off where pages follow that are in the cache; a few between others are not worth a request."""
        end = known = 0
        for place, (pgno, _, _) in enumerate(run.frames):
            if (run.file.number, pgno) in self.cache:
                known += 1
                if known == _KNOWN_BETWEEN:
                    break
            else:
                known, end = 0, place + 1
        return run.cut(end)

    def _look(self) -> View:
        """Return the newest view there is, looking again where files vanish before they are opened."""
        for _ in range(_PLANS - 1):
            try:
                return self._newest(self.replica.files())
            except (NotFoundError, NotReachableError, GapError):  # merged and pruned meanwhile
                continue
        return self._newest(self.replica.files())

    def _newest(self, files: Sequence[LTXFile]) -> View:
        if self._latest is not None and self._is_anew(self._latest, files):
            self._forget()
        view = self._latest
        reach = reach_of(files).txids  # beyond a gap a reader waits
        if view is None:
            if not files:
                raise NoSnapshotError(
                    f"no LTX files lie at {self.replica.url}: check the URL, or replicate a database to it"
                )
            return self._open(files, reach[-1] if reach else None)
        following = extend((file for file in files if file.level != SNAPSHOT_LEVEL), view.txid)
        reached = following[-1].max_txid if following else view.txid
        if reach and reach[-1] > reached:
            return self._open(files, reach[-1])  # only a snapshot leads there
        if not following:
            return view
        try:
            opened = self._files.open(following)
            return self._keep(extend_view(view, opened, opened[-1].header.timestamp))
        except FileError:
            if reached in reach:
                return self._open(files, reached)
            raise

    def _at(self, time: str | datetime | None, txid: int | str | None) -> View:
        files = self.replica.files()
        if time is None or txid is not None:
            plan = self.replica.plan(time, txid, files=files)
        else:
            plan = self._plan_at(parse_time(time), files)
        known = self._views.get(plan.txid)
        if known is not None and self._is_anew(known, files):
            self._forget()
            known = None
        return known or self._open(files, plan.txid)

    def _plan_at(self, at: datetime, files: Sequence[LTXFile]) -> Plan:
        """Plan to a time, and see that the small files that say so, of the last TXID and the next, are whole."""
        for _ in range(_PLANS):
            plan = self.replica.plan(at, files=files)
            reach = reach_of(files).txids
            deciding = reach[bisect_left(reach, plan.txid) :][:2]
            try:
                self._files.open(
                    [file for file in files if file.max_txid in deciding and file.size <= TAIL_SIZE]
                )
            except FileError as error:
                files = [file for file in files if file != error.file]
                if reach_of(files).txids != reach:
                    raise error.public() from error
            except NotFoundError:
                files = self.replica.files()
            else:
                return plan
        raise self._too_fast()

    def _plan_again(self, view: View, without: Collection[LTXFile]) -> View:
        listed = self.replica.files()
        names = " and ".join(sorted(file.key for file in without))
        lost = f"{names} is gone or damaged, and TXID {format_txid(view.txid)} cannot be had without it"
        if self._is_anew(view, listed):
            raise NotReachableError(f"{lost}: the replica was made anew")
        try:
            return self._open([file for file in listed if file not in without], view.txid)
        except (ReplicaError, CorruptError, UnsupportedVersionError, NotFoundError) as error:
            raise NotReachableError(f"{lost}: {error}") from error

    def _is_anew(self, view: View, files: Sequence[LTXFile]) -> bool:
        """Whether other content lies under the names of a view's files: then its TXIDs mean something else now."""
        listed = {file.key: file for file in files}
        pairs = ((listed.get(opened.file.key), opened) for opened in view.files)
        try:
            return any(file is not None and self._files.is_another(file, opened) for file, opened in pairs)
        except NotFoundError:
            return False

    def _forget(self) -> None:
        """Begin anew with what lies on the storage, TXIDs included."""
        self._latest = None
        self._views.clear()
        self._lineage += 1

    def _open(self, files: Sequence[LTXFile], txid: TXID | None) -> View:
        """Open the view of a TXID, planning around files that vanish meanwhile or turn out to be damaged.

        Raises:
            CorruptError: A file is damaged, and no others have what it held.
            NotReachableError: Files are gone, and no others have what they held.
        """
        avoided: set[str] = set()
        for _ in range(_PLANS):
            plan = make_plan(files, txid)
            try:
                opened = self._files.open(plan.files)
                return self._keep(build_view(opened, self._time_of(plan, opened, files), self._lineage))
            except FileError as error:
                avoided.add(error.file.key)
                files = [file for file in files if file.key not in avoided]
                if txid not in reach_of(files).txids:
                    raise error.public() from error
            except NotFoundError as error:
                avoided.add(error.key or "")
                files = [file for file in self.replica.files() if file.key not in avoided]
        raise self._too_fast()

    def _too_fast(self) -> UnavailableError:
        return UnavailableError(
            f"files of {self.replica.url} vanish faster than they can be opened: try again"
        )

    def _time_of(self, plan: Plan, opened: Sequence[OpenFile], files: Sequence[LTXFile]) -> datetime:
        """Return when the last transaction was committed, which a merged file says and a snapshot does not."""
        time = opened[-1].header.timestamp
        if opened[-1].header.is_snapshot:
            for file in files:
                if file.max_txid == plan.txid and file.min_txid > 1:
                    with suppress(FileError, NotFoundError):  # then others may know
                        return min(time, self._files.open([file])[0].header.timestamp)
        return time

    def _keep(self, view: View) -> View:
        self._views[view.txid] = view
        return view

    def _read(self, page_size: int, run: Run | None, doubts: Sequence[Doubt]) -> list[tuple[int, bytes]]:
        """Read and check a run, and what is in doubt about it, at the same time."""
        parts = [*doubts, *([run] if run else ())]
        try:
            read = self.replica.backend.get_ranges(
                [(each.file.file.key, each.start, each.end) for each in parts]
            )
        except NotFoundError as error:
            gone = next((each for each in parts if each.file.file.key == error.key), parts[0])
            raise FileError(gone.file.file, error) from error
        for doubt, frames in zip(doubts, read, strict=False):
            _dispel(doubt, frames)
        return _decode(run, read[-1], page_size) if run else []


def _decode(run: Run, read: bytes, page_size: int) -> list[tuple[int, bytes]]:
    """Decode and check frames. Those behind the first that are damaged are left for when they are asked for."""
    data = memoryview(read)
    pages: list[tuple[int, bytes]] = []
    for pgno, start, size in run.frames:
        try:
            pages.append((pgno, decode_frame(data[start : start + size], pgno, page_size)))
        except CorruptError as error:
            if pages:
                break
            error.offset = run.start + start + (error.offset or 0)
            raise FileError(run.file.file, error) from error
    return pages


def _check_commit(view: View, page_one: bytes) -> None:
    """See that the file that says how many pages there are does not deny some, where it was not verified.

    SQLite itself would find out, if a reader's page 1 did not have the number that the file says.
    """
    stated = int.from_bytes(page_one[28:32], "big")
    if view.last.is_verified or page_one[24:28] != page_one[92:96] or stated <= view.commit:
        return
    raise FileError(
        view.last.file, CorruptError(f"a database of {stated} pages would have {view.commit}", offset=12)
    )


def _dispel(doubt: Doubt, frames: bytes) -> None:
    """See that the frames around a place are those that the index names.

    Raises:
        FileError: They are not.
    """
    for pgno, start in doubt.heads:
        head = frames[start : start + FRAME_HEAD.size]
        if len(head) < FRAME_HEAD.size or FRAME_HEAD.unpack(head)[0] != pgno:
            raise FileError(
                doubt.file.file,
                CorruptError(
                    f"the page index names page {pgno} where another lies", offset=doubt.start + start
                ),
            )
    doubt.file.proven.add(doubt.place)


_sources: WeakValueDictionary[tuple[object, ...], Source] = WeakValueDictionary()
_sources_lock = ForkedLock()


def open_source(url: str, cache_size: int, timeout_s: float, options: dict[str, object]) -> Source:
    """Return the source of a replica; the same one for the same URL, options and limits while it is in use.

    Raises:
        backends.ConfigError: The URL, an option or a limit is wrong.
    """
    if not 0 <= cache_size < 1 << 53:
        raise ConfigError(f"cache_size is a number of bytes, not {cache_size}")
    if not 0 < timeout_s < 1 << 31:
        raise ConfigError(f"timeout is a number of seconds over 0, not {timeout_s}")
    key = (url, cache_size, timeout_s, repr(sorted(options.items())))
    with _sources_lock.now:
        source = _sources.get(key)
        if source is None:
            source = Source(Replica.open(url, **options), cache_size=cache_size, timeout_s=timeout_s)
            _sources[key] = source
        return source
