"""A replica as queries see it: views of it, its pages, and how it is followed. Shared by all its connections."""

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from backends import ConfigError, UnavailableError
from ltx import TXID, LTXFile, NotReachableError, Replica
from ltx.format import format_txid
from ltx.replica import format_time, parse_time
from ltx.replica.apply import FileError
from ltx.replica.plan import missing_in
from vfs.cache import PageCache, PageKey
from vfs.disk_cache import DEFAULT_DISK_SIZE, DiskCache
from vfs.finder import ViewFinder
from vfs.hydration_place import Private, place_of
from vfs.keeper import Keeper
from vfs.kept_files import KeptFiles
from vfs.open_files import FileOpener
from vfs.pages import PageReader
from vfs.view import View
from vfs.waiting import ForkedLock, Interrupted, Waiter

if TYPE_CHECKING:
    from vfs.hydration import Hydrator

__all__ = ["DEFAULT_CACHE_SIZE", "DEFAULT_TIMEOUT_S", "Source", "open_source"]

DEFAULT_CACHE_SIZE = 64 << 20
DEFAULT_TIMEOUT_S = 60.0
"""How long one wait for the storage may take, its retries included."""

log = logging.getLogger("vfs")

_HYDRATED_FILES = 4096
"""Files that a hydrated view may have before one with fewer is looked for, which would have to be fetched again."""


class Source:
    """One replica, open for queries. Safe to use from several threads, and in a forked child.

    Args:
        replica: The replica.
        cache: Keeps pages in memory.
        timeout_s: How long one wait for the storage may take.
        disk: Keeps pages and indexes between runs.

    Attributes:
        hydrator: Fetches the whole database to the disk; None where nobody asked for that.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        cache: PageCache,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        disk: DiskCache | None = None,
    ) -> None:
        self.replica = replica
        self.cache = cache
        self._disk = disk
        self._kept = kept = KeptFiles(disk, replica.url) if disk else None
        self.hydrator: Hydrator | None = None
        self._finder = ViewFinder(replica, FileOpener(replica, self.cache, kept))
        self._waiter = Waiter(replica.url, timeout_s)
        self.pages = PageReader(replica.backend, self.cache, self._waiter, kept)
        self.keeper = Keeper(replica.files, self.pages)
        self._looked: float | None = None
        self._told_gap: tuple[TXID, TXID] | None = None
        self._no_look_before = 0.0

    def hydrate(self) -> None:
        """Be ready to fetch the whole database for whoever joins the hydrator. It needs the disk. Idempotent."""
        assert self._disk is not None
        assert self._kept is not None
        if self.hydrator is None:
            from vfs.hydration import Hydrator  # most queries do without

            self.hydrator = Hydrator(self, self._disk, self._kept, self._waiter.timeout_s)
            self._finder.most_files = _HYDRATED_FILES
        self.hydrator.expect()

    @property
    def newest(self) -> View | None:
        """The newest view that is known; None before the first look."""
        return self._finder.latest

    @property
    def is_awaited(self) -> bool:
        """Whether a query's requests for pages are under way."""
        return self.pages.is_awaited

    @property
    def lag_s(self) -> float:
        """Seconds since the latest view was last known to be the newest; -1 before there is one.

        Where files are missing that lead on from it, seconds since its commit.
        """
        newest = self.newest
        if newest is None or self._looked is None:
            return -1.0
        if self._told_gap is not None:
            return (datetime.now(UTC) - newest.time).total_seconds()
        return monotonic() - self._looked

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
        known = self._finder.latest
        if known is not None and self._is_fresh(
            max_age_s, listed
        ):  # spares nearly every transaction the turn
            return known
        with self._waiter.turn(interrupted) as deadline:
            known, began = self._finder.latest, monotonic()
            if known is not None and self._is_fresh(max_age_s, listed):
                return known
            try:
                self._finder.latest = found = self._waiter.wait(
                    lambda: self._finder.look(listed), interrupted, deadline
                )
            except UnavailableError:
                if known is None:
                    raise
                now = monotonic()
                self._no_look_before = now + (now - began)
                return known
            self._looked = monotonic()
            self._tell_gap(found)
        if self.hydrator is not None and found is not known:
            self.hydrator.wake()
        return found

    def _tell_gap(self, view: View) -> None:
        """Warn, once, where the newest state is out of reach: an older one looks just like it."""
        gap = self._finder.gap_behind(view)
        if gap is not None and gap != self._told_gap:
            log.warning(
                "%s is read as of TXID %s of %s, and there are newer files: %s; 'ltx verify' says more",
                self.replica.url,
                format_txid(view.txid),
                format_time(view.time),
                missing_in(gap),
            )
        self._told_gap = gap

    def fresh(self, max_age_s: float) -> View | None:
        """Return the newest view if it was looked for within that time: what begins nearly every transaction."""
        looked = self._looked
        return self._finder.latest if looked is not None and monotonic() - looked < max_age_s else None

    def _is_fresh(self, max_age_s: float, listed: bool) -> bool:
        now = monotonic()
        looked = self._finder.listed if listed else self._looked
        return (looked is not None and now - looked < max_age_s) or now < self._no_look_before

    def at(
        self, interrupted: Interrupted, *, time: str | datetime | None = None, txid: int | str | None = None
    ) -> View:
        """Return the view of a time or a TXID.

        Raises:
            NotReachableError: It cannot be had; the error says what can.
            ValueError: It means no time, or no TXID.
        """
        moment = (
            parse_time(time) if time is not None and txid is None else time
        )  # here, where it is no waiting
        with self._waiter.turn(interrupted) as deadline:
            return self._waiter.wait(lambda: self._finder.at(moment, txid), interrupted, deadline)

    def again(
        self, view: View, without: Collection[LTXFile], interrupted: Interrupted, *, keep: bool = False
    ) -> View:
        """Return another view of the same TXID, made without files that are gone or damaged.

        Args:
            view: The view.
            without: The files.
            interrupted: Says whether to give up.
            keep: Whether it goes on being the newest where there is no other.

        Raises:
            NotReachableError: No other files have what those held.
        """
        with self._waiter.turn(interrupted) as deadline:
            known = self._finder.known_again(view, without)
            if known is not None:
                return known
            try:
                found = self._waiter.wait(lambda: self._finder.again(view, without), interrupted, deadline)
            except NotReachableError:
                if self._finder.latest is view and not keep:
                    self._finder.forget()  # the next transaction takes what there is
                raise
            if self._finder.latest is view:
                self._finder.latest = found
            return found

    def located(self, view: View, pgno: int) -> PageKey | None:
        """Return what a page is kept by, as `PageReader.located`."""
        return self.pages.located(view, pgno)

    def page(self, view: View, pgno: int, ahead: int, interrupted: Interrupted) -> bytes:
        """Return a page of a view, as `PageReader.page`."""
        try:
            return self.pages.page(view, pgno, ahead, interrupted)
        except FileError:
            kept = self.keeper.page(view, pgno)
            if kept is None:
                raise
            return kept


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
    hydrates: bool = False,
    hydration_path: str | None = None,
    make_cache: Callable[[int], PageCache] = PageCache,
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
        hydrates: Whether connections are to join the hydrator.
        hydration_path: A file for what it fetches, in place of a folder; None for the environment's, "" for none.
        make_cache: Makes what keeps pages in memory.

    Raises:
        backends.ConfigError: The URL, an option or a limit is wrong.
    """
    if not isinstance(cache_size, int | float) or not 0 <= cache_size < 1 << 53:
        raise ConfigError(f"cache_size is a number of bytes, not {cache_size!r}")
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s < 1 << 31:
        raise ConfigError(f"timeout is a number of seconds over 0, not {timeout_s!r}")
    place = place_of(cache_dir, cache_dir_size, hydrates, hydration_path)
    replica = Replica.open(url, **options)
    key = (url, replica.url, cache_size, timeout_s, repr(sorted(options.items())), place)
    with _sources_lock.now:
        source = _sources.get(key)
        if source is None:
            disk = place.open() if isinstance(place, Private) else place
            source = Source(replica, cache=make_cache(int(cache_size)), timeout_s=timeout_s, disk=disk)
            _sources[key] = source
        if hydrates:
            source.hydrate()
        return source
