"""A replica as queries see it: views of it, its pages, and how it is followed. Shared by all its connections."""

import math
import os
from bisect import bisect_left
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from time import monotonic
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
from ltx.format import format_txid, to_timestamp_ms
from ltx.replica import parse_time
from ltx.replica.apply import FileError
from ltx.replica.history import is_same_history
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import Plan, extend, make_plan, reach_of
from vfs.cache import PageCache, PageKey
from vfs.disk_cache import DEFAULT_DISK_SIZE, DIR_VARIABLE, DiskCache, open_disk_cache
from vfs.keeper import Keeper
from vfs.kept_files import KeptFiles
from vfs.next_files import files_behind
from vfs.open_files import TAIL_SIZE, FileOpener
from vfs.pages import PageReader
from vfs.view import OpenFile, View, build_view, extend_view
from vfs.waiting import ForkedLock, Interrupted, Waiter, together

__all__ = ["DEFAULT_CACHE_SIZE", "DEFAULT_TIMEOUT_S", "Source", "open_source"]

DEFAULT_CACHE_SIZE = 64 << 20
DEFAULT_TIMEOUT_S = 60.0
"""How long one wait for the storage may take, its retries included."""

_PLANS = 4

_MANY = 64
"""Files that a view may have before one with fewer is looked for."""

_MISSES = 9
"""Looks in a row at the next file's name that find nothing before one at the whole listing: names can be pruned."""

_LISTING_S = 60.0
"""How old a listing may be while the next file's name is all that is looked at."""


class Source:
    """One replica, open for queries. Safe to use from several threads, and in a forked child.

    Args:
        replica: The replica.
        cache_size: Bytes of pages to keep in memory.
        timeout_s: How long one wait for the storage may take.
        disk: Keeps pages and indexes between runs.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        cache_size: int = DEFAULT_CACHE_SIZE,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        disk: DiskCache | None = None,
    ) -> None:
        self.replica = replica
        self.cache = PageCache(cache_size)
        kept = KeptFiles(disk, replica.url) if disk else None
        self._files = FileOpener(replica, self.cache, kept)
        self._waiter = Waiter(replica.url, timeout_s)
        self.pages = PageReader(replica.backend, self.cache, self._waiter, kept)
        self.keeper = Keeper(replica.files, self.pages)
        self._views: WeakValueDictionary[int, View] = WeakValueDictionary()
        self._latest: View | None = None
        self._lineage = 0
        self._looked: float | None = None
        self._no_look_before = 0.0
        self._listed = -math.inf
        self._misses = 0
        self._many = _MANY

    @property
    def lag_s(self) -> float:
        """Seconds since the latest view was last known to be the newest; -1 before it ever was."""
        return -1.0 if self._looked is None else monotonic() - self._looked

    def latest(self, max_age_s: float, interrupted: Interrupted, *, listed: bool = False) -> View:
        """Return the newest view, after a look at the storage if the last one is older than that.

        Most looks ask for the next file by its name: one request. That nothing is there proves little, since files
        are merged and pruned; so one look in ten is a listing, and every one when the last listing is a minute old.
        With `listed` only a listing counts.

        A storage that does not answer is no reason to refuse what is known: then `lag_s` grows, and the next look
        comes no sooner than the failed one took. The TXID never goes back, unless the replica was made anew.

        Raises:
            NoSnapshotError: The replica is empty.
            UnavailableError: The storage did not answer at the first look.
            InterruptedQueryError: `interrupted` said so.
        """
        known = self._latest
        if known is not None and self._is_fresh(
            max_age_s, listed
        ):  # spares nearly every transaction the turn
            return known
        with self._waiter.turn(interrupted):
            known, began = self._latest, monotonic()
            if known is not None and self._is_fresh(max_age_s, listed):
                return known
            try:
                self._latest = found = self._waiter.wait(lambda: self._look(listed), interrupted)
            except UnavailableError:
                if known is None:
                    raise
                now = monotonic()
                self._no_look_before = now + (now - began)
                return known
            self._looked = monotonic()
            return found

    def fresh(self, max_age_s: float) -> View | None:
        """Return the newest view if it was looked for within that time: what begins nearly every transaction."""
        looked = self._looked
        return self._latest if looked is not None and monotonic() - looked < max_age_s else None

    def _is_fresh(self, max_age_s: float, listed: bool) -> bool:
        now = monotonic()
        looked = self._listed if listed else self._looked
        return (looked is not None and now - looked < max_age_s) or now < self._no_look_before

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

    def located(self, view: View, pgno: int) -> PageKey | None:
        """Return what a page is kept by, as `PageReader.located`."""
        return self.pages.located(view, pgno)

    def page(self, view: View, pgno: int, ahead: int, interrupted: Interrupted) -> bytes:
        """Return a page of a view, as `PageReader.page`."""
        if view.searched:
            indexes = list(view.unlocated(pgno))
            if indexes:
                self._waiter.wait(
                    lambda: together([partial(index.near, pgno) for index in indexes]), interrupted
                )
        try:
            return self.pages.page(view, pgno, ahead, interrupted)
        except FileError:
            kept = self.keeper.page(view, pgno)
            if kept is None:
                raise
            return kept

    def _look(self, listed: bool) -> View:
        """Return the newest view there is, looking again where files vanish before they are opened."""
        known = self._latest
        is_due = listed or self._misses >= _MISSES or monotonic() - self._listed >= _LISTING_S
        if known is not None and not is_due and len(known.files) <= self._many:
            found = self._look_by_name(known)
            if found is not None:
                return found
        found = self._look_at_listing()
        self._many = max(_MANY, 2 * len(found.files))
        return found

    def _look_at_listing(self) -> View:
        for _ in range(_PLANS - 1):
            try:
                return self._newest(self._listing())
            except (NotFoundError, NotReachableError, GapError):  # merged and pruned meanwhile
                continue
        return self._newest(self._listing())

    def _listing(self) -> Sequence[LTXFile]:
        began = monotonic()
        files = self.replica.files()
        self._listed, self._misses = began, 0
        return files

    def _look_by_name(self, view: View) -> View | None:
        """Look for the files that follow by their names; None where only a listing can tell."""
        following = files_behind(view, self._files, self.replica.layout)
        if following is None:
            return None
        if not following:
            self._misses += 1
            return view
        self._misses = 0
        try:
            return self._keep(extend_view(view, following, following[-1].header.timestamp))
        except FileError:
            return None

    def _newest(self, files: Sequence[LTXFile]) -> View:
        if self._latest is not None and (
            self._is_anew(self._latest, files) or self._is_lost(self._latest, files)
        ):
            self._forget()
        view = self._latest
        reach = reach_of(files).txids  # beyond a gap a reader waits
        if view is None:
            if not files:
                raise NoSnapshotError(
                    f"no LTX files lie at {self.replica.url}: check the URL, or replicate a database to it"
                )
            return self._open(files, reach[-1] if reach else None)
        reaches = bool(reach) and any(file.max_txid >= view.txid for file in files)
        if reaches and not self._is_shown(view, files):  # a replica made anew has a beginning: a snapshot
            if reach[-1] < view.txid:
                return view
            self._forget()  # what follows could follow another state than the view's
            return self._open(files, reach[-1])
        following = extend((file for file in files if file.level != SNAPSHOT_LEVEL), view.txid)
        reached = following[-1].max_txid if following else view.txid
        if reach and reach[-1] > reached:
            return self._open(files, reach[-1])  # only a snapshot leads there
        if not following:
            return view
        too_many = len(view.files) > _MANY and reached in reach
        if too_many and len(make_plan(files, reached).files) < len(view.files) // 2:
            return self._open(files, reached)  # merged files have the same in fewer pieces
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
        if known is not None and (self._is_anew(known, files) or not self._is_shown(known, files)):
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
        left = [file for file in listed if file not in without]
        if view.txid in reach_of(left).txids and not self._is_shown(view, listed):
            raise NotReachableError(f"{lost}: nothing shows that the files there now are of the same history")
        try:
            return self._open(left, view.txid)
        except (ReplicaError, CorruptError, UnsupportedVersionError, NotFoundError) as error:
            raise NotReachableError(f"{lost}: {error}") from error

    def _is_anew(self, view: View, files: Sequence[LTXFile]) -> bool:
        """Whether other content lies under the names of a view's files: then its TXIDs mean something else now."""
        listed = {file.key: file for file in files}
        pairs = [(listed[opened.file.key], opened) for opened in view.files if opened.file.key in listed]
        versioned = [pair for pair in pairs if pair[1].file.version]
        by_name = [pair for pair in pairs if not pair[1].file.version][-1:]  # the older ones came before it
        try:
            return any(self._files.is_another(*pair) for pair in (*by_name, *versioned))
        except NotFoundError:
            return False

    def _is_shown(self, view: View, files: Sequence[LTXFile]) -> bool:
        """Whether files are shown to be of a view's history: by one of its own, or by its last transaction's time.

        That its own are what they were says `_is_anew`. With none of them there, others could have its TXIDs.
        """
        own = {opened.file.key for opened in view.files}
        return any(file.key in own for file in files) or is_same_history(
            self.replica.backend, files, view.txid, to_timestamp_ms(view.time), view.page_size, view.commit
        )

    def _is_lost(self, view: View, files: Sequence[LTXFile]) -> bool:
        """Whether a view's TXID is not there any more: no file reaches it, and that is not for a stale listing."""
        if any(file.max_txid >= view.txid for file in files):
            return False
        try:
            return self._files.is_another(view.last.file, view.last, anyway=True)
        except NotFoundError:
            return True

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
        tries = _PLANS
        while tries:
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
                tries -= 1
                avoided.add(error.key or "")
                files = [file for file in self.replica.files() if file.key not in avoided]
                if not files:
                    raise
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


_sources: WeakValueDictionary[tuple[object, ...], Source] = WeakValueDictionary()
_sources_lock = ForkedLock()


def open_source(
    url: str,
    cache_size: int,
    timeout_s: float,
    options: dict[str, object],
    *,
    cache_dir: str | None = None,
    cache_dir_size: int = DEFAULT_DISK_SIZE,
) -> Source:
    """Return the source of a replica; the same one for the same place, options and limits while it is in use.

    The place is what the URL means now: a relative path and the environment can give it another meaning later.

    Args:
        url: The replica.
        cache_size: Bytes of pages to keep in memory.
        timeout_s: How long one wait for the storage may take.
        options: For the backend.
        cache_dir: A folder to keep pages in between runs; None for the environment's, "" for none.
        cache_dir_size: Bytes that all together may take there.

    Raises:
        backends.ConfigError: The URL, an option or a limit is wrong.
    """
    if not 0 <= cache_size < 1 << 53:
        raise ConfigError(f"cache_size is a number of bytes, not {cache_size}")
    if not 0 < timeout_s < 1 << 31:
        raise ConfigError(f"timeout is a number of seconds over 0, not {timeout_s}")
    folder = os.environ.get(DIR_VARIABLE, "") if cache_dir is None else cache_dir
    disk = open_disk_cache(folder, cache_dir_size) if folder else None
    replica = Replica.open(url, **options)
    key = (url, replica.url, cache_size, timeout_s, repr(sorted(options.items())), disk)
    with _sources_lock.now:
        source = _sources.get(key)
        if source is None:
            source = Source(replica, cache_size=cache_size, timeout_s=timeout_s, disk=disk)
            _sources[key] = source
        return source
