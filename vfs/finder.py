"""Finding views on the storage: the newest, that of a time or a TXID, and one again whose files are gone."""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from time import monotonic
from weakref import WeakValueDictionary

from backends import NotFoundError, UnavailableError
from ltx import (
    TXID,
    CorruptError,
    GapError,
    LTXError,
    LTXFile,
    NoSnapshotError,
    NotReachableError,
    Replica,
    ReplicaError,
    UnsupportedVersionError,
)
from ltx.format import format_txid
from ltx.replica import parse_time
from ltx.replica.apply import FileError
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.newest import Listing, NewestLister
from ltx.replica.plan import Plan, extend, make_plan, reach_of
from vfs.history import is_anew, is_lost, is_shown
from vfs.next_files import files_behind
from vfs.open_files import TAIL_SIZE, FileOpener
from vfs.view import OpenFile, View
from vfs.view_making import build_view, extend_view

__all__ = ["ViewFinder"]

_PLANS = 4

_MANY = 64

_MISSES = 9
"""Looks in a row at the next file's name that find nothing before one at the whole listing: names can be pruned."""

_LISTING_S = 60.0
"""How old a listing may be while the next file's name is all that is looked at."""


class ViewFinder:
    """Finds views of one replica, each once for as long as somebody uses it. For one thread at a time.

    Args:
        replica: The replica.
        files: Opens its files.

    Attributes:
        latest: The newest view that is known.
        listed: When the last listing that served a look began.
        most_files: How many files a view may have before one with fewer is looked for.
    """

    def __init__(self, replica: Replica, files: FileOpener) -> None:
        self.latest: View | None = None
        self.listed = -math.inf
        self._replica = replica
        self._lister = NewestLister(replica.backend)
        self._files = files
        self._views: WeakValueDictionary[int, View] = WeakValueDictionary()
        self._lineage = 0
        self._misses = 0
        self._gap: tuple[TXID, TXID] | None = None
        self._many = self.most_files = _MANY

    def known_again(self, view: View, without: Collection[LTXFile]) -> View | None:
        """Return another view of the same TXID that needs none of some files, if one is known."""
        known = self._views.get(view.txid)
        if known is None or known.lineage != view.lineage:
            return None
        return None if any(each.file in without for each in known.files) else known

    def gap_behind(self, view: View) -> tuple[TXID, TXID] | None:
        """Return the last TXID before files that a view cannot be led on to, and the first after it; None for none."""
        return self._gap if self._gap is not None and view.txid < self._gap[1] else None

    def look(self, listed: bool) -> View:
        """Return the newest view there is, looking again where files vanish before they are opened.

        Args:
            listed: Look at the whole listing, even where the next file's name would do.

        Raises:
            NoSnapshotError: The replica is empty.
        """
        known = self.latest
        is_due = listed or self._misses >= _MISSES or monotonic() - self.listed >= _LISTING_S
        if known is not None and not is_due and len(known.files) <= self._many:
            found = self._look_by_name(known)
            if found is not None:
                return found
        found = self._look_at_listing()
        self._many = max(self.most_files, 2 * len(found.files))
        return found

    def at(self, time: str | datetime | None, txid: int | str | None) -> View:
        """Return the view of a time or a TXID.

        Raises:
            NotReachableError: It cannot be had; the error says what can.
            ValueError: It means no time, or no TXID.
        """
        files = self._replica.files()
        if time is None or txid is not None:
            plan = self._replica.plan(time, txid, files=files)
        else:
            plan = self._plan_at(parse_time(time), files)
        known = self._views.get(plan.txid)
        if known is not None and (
            is_anew(known, files, self._files) or not is_shown(known, files, self._replica.backend)
        ):
            self.forget()
            known = None
        return known or self._open(files, plan.txid)

    def again(self, view: View, without: Collection[LTXFile]) -> View:
        """Return another view of the same TXID, made without files that are gone or damaged.

        Raises:
            NotReachableError: No other files have what those held.
        """
        listed = self._replica.files()
        names = " and ".join(sorted(file.key for file in without))
        lost = f"{names} is gone or damaged, and TXID {format_txid(view.txid)} cannot be had without it"
        if is_anew(view, listed, self._files):
            raise NotReachableError(f"{lost}: the replica was made anew")
        left = [file for file in listed if file not in without]
        if view.txid in reach_of(left).txids and not is_shown(view, listed, self._replica.backend):
            raise NotReachableError(f"{lost}: nothing shows that the files there now are of the same history")
        try:
            return self._open(left, view.txid)
        except (ReplicaError, CorruptError, UnsupportedVersionError, NotFoundError) as error:
            raise NotReachableError(f"{lost}: {error}") from error

    def forget(self) -> None:
        """Begin anew with what lies on the storage, TXIDs included."""
        self.latest = None
        self._views.clear()
        self._lineage += 1

    def _look_at_listing(self) -> View:
        before = self._gap
        view = self._look_at_files()
        if self.gap_behind(view) not in (None, before):
            # Files that were merged and deleted while they were listed, maybe.
            view = self._newest(self._listing(self._lister.whole).files)
        return view

    def _look_at_files(self) -> View:
        listing = self._listing(self._lister.list)
        if not listing.is_whole:
            if self._is_enough(listing.files):
                with suppress(NotFoundError, LTXError):  # others may have what these do not
                    return self._newest(listing.files)
            listing = self._listing(self._lister.whole)
        for _ in range(_PLANS - 1):
            try:
                return self._newest(listing.files)
            except (NotFoundError, NotReachableError, GapError):  # merged and pruned meanwhile
                listing = self._listing(self._lister.whole)
        return self._newest(listing.files)

    def _listing(self, list_files: Callable[[], Listing]) -> Listing:
        began = monotonic()
        listing = list_files()
        self.listed, self._misses, self._replica.layout = began, 0, listing.layout
        return listing

    def _is_enough(self, files: Sequence[LTXFile]) -> bool:
        """Whether some files lead on from what is known, as far as all would: the newest of level 0 is never missing."""
        reach, known = reach_of(files), self.latest
        if reach.gap or not reach.txids or known is None:
            return bool(reach.txids) and not reach.gap
        own = {opened.file.key for opened in known.files}
        leads_on = reach.txids[-1] >= known.txid and any(file.key in own for file in files)
        return leads_on and not is_anew(known, files, self._files)

    def _look_by_name(self, view: View) -> View | None:
        """Look for the files that follow by their names; None where only a listing can tell."""
        following = files_behind(view, self._files, self._replica.layout)
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
        if self.latest is not None and (
            is_anew(self.latest, files, self._files) or is_lost(self.latest, files, self._files)
        ):
            self.forget()
        view = self.latest
        found = reach_of(files)
        reach, self._gap = found.txids, found.gap  # beyond a gap a reader waits
        if view is None:
            if not files:
                raise NoSnapshotError(
                    f"no LTX files lie at {self._replica.url}: check the URL, or replicate a database to it"
                )
            return self._open(files, reach[-1] if reach else None)
        reaches = bool(reach) and any(file.max_txid >= view.txid for file in files)
        if reaches and not is_shown(
            view, files, self._replica.backend
        ):  # a replica made anew has a beginning: a snapshot
            if reach[-1] < view.txid:
                return view
            self.forget()  # what follows could follow another state than the view's
            return self._open(files, reach[-1])
        following = extend((file for file in files if file.level != SNAPSHOT_LEVEL), view.txid)
        reached = following[-1].max_txid if following else view.txid
        if reach and reach[-1] > reached:
            return self._open(files, reach[-1])  # only a snapshot leads there
        if not following:
            return view
        too_many = len(view.files) > self.most_files and reached in reach
        if too_many and len(make_plan(files, reached).files) < len(view.files) // 2:
            return self._open(files, reached)  # merged files have the same in fewer pieces
        try:
            opened = self._files.open(following)
            return self._keep(extend_view(view, opened, opened[-1].header.timestamp))
        except FileError:
            if reached in reach:
                return self._open(files, reached)
            raise

    def _plan_at(self, at: datetime, files: Sequence[LTXFile]) -> Plan:
        """Plan to a time, and see that the small files that say so, of the last TXID and the next, are whole."""
        for _ in range(_PLANS):
            plan = self._replica.plan(at, files=files)
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
                files = self._replica.files()
            else:
                return plan
        raise self._too_fast()

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
                files = [file for file in self._replica.files() if file.key not in avoided]
                if not files:
                    raise
        raise self._too_fast()

    def _too_fast(self) -> UnavailableError:
        return UnavailableError(
            f"files of {self._replica.url} vanish faster than they can be opened: try again"
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
