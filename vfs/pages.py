"""The pages of a view: the one that is asked for, those that will be, and what is under way."""

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from backends import Backend, BackendError, UnavailableError
from ltx import CorruptError
from ltx.format.frame import decode_frame
from ltx.replica.apply import FileError
from vfs.cache import Frame, PageCache, PageKey, page_key, page_keys, page_number
from vfs.fetching import Fetcher, Pages
from vfs.frames import parts_of
from vfs.kept_files import KeptFiles
from vfs.proof import check_commit
from vfs.runs import RUN_PAGES_SIZE, RUN_SIZE, batches, spans
from vfs.view import Doubt, Run, View
from vfs.waiting import ForkedLock, Interrupted, Waiter, together

__all__ = ["PageReader"]

_AT_ONCE_SIZE = 512 << 10
"""Bytes that are read ahead at most in the thread of whoever runs a query: a disk has them in some milliseconds."""

_MOST_AHEAD_SIZE = 32 << 20
"""Bytes of pages that are read ahead at most: so much comes while the first of it is on its way from a far storage."""

_KNOWN_BETWEEN = 4

_NOTHING = Frame()
"""Of a page beyond the end of a file that became shorter."""


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """Pages that are decoded at once, of what is being read.

    Attributes:
        process: Whose threads work on it: in a forked child nobody does.
        keys: What will be there.
        future: What is there now.
        request: All that are read together.
    """

    process: int
    keys: Sequence[PageKey]
    future: Future[Pages]
    request: "Sequence[_Flight]"


@dataclass(frozen=True, slots=True, eq=False)
class _Starting:
    """Pages of which somebody finds out where they are, to begin to read them.

    Attributes:
        process: Whose threads work on it.
        places: The pages, with their view.
        future: Is done when the reading has begun.
    """

    process: int
    places: Sequence[tuple[View, int]]
    future: Future[None]


class PageReader:
    """Reads pages of one replica through a cache. Safe to use from several threads, and in a forked child.

    Args:
        backend: Where the replica lies.
        cache: Of pages.
        waiter: Waits for the backend.
        kept: A cache on disk.
    """

    def __init__(
        self, backend: Backend, cache: PageCache, waiter: Waiter, kept: KeptFiles | None = None
    ) -> None:
        self._cache = cache
        self._waiter = waiter
        self._fetcher = Fetcher(backend, cache, waiter, kept)
        self._flights: dict[PageKey, _Flight] = {}
        self._starting: dict[tuple[View, int], _Starting] = {}
        self._lock = ForkedLock()

    @property
    def most_ahead_size(self) -> int:
        """Bytes of pages that may be under way or kept for one reader that reads ahead."""
        return min(self._cache.most_ahead_size, _MOST_AHEAD_SIZE)

    @property
    def is_awaited(self) -> bool:
        """Whether requests for pages are under way."""
        return bool(self._flights)

    def page(self, view: View, pgno: int, ahead: int, interrupted: Interrupted) -> bytes:
        """Return a page of a view, and keep up to `ahead` of those that lie behind it if it must be read.

        Raises:
            FileError: A file that it lies in, or could lie in, is gone or damaged.
        """
        if view.searched_increments:
            self._locate(view, pgno, interrupted)
        try:
            key = page_key(view.file_of(pgno).number, pgno)
        except CorruptError:
            if pgno == view.lock_page:  # which no file has
                return bytes(view.page_size)
            raise
        page = self._cache.get(key)
        if page is None and view.searched:
            self._locate(view, pgno, interrupted)
            page = self._cache.get(key)
        if page is None:
            page = self._wait(view, key, ahead, interrupted)
        if view.unverified and (doubts := view.doubts(pgno)):
            self._fetcher.look(doubts, interrupted)
            view.trust((pgno,))
        if type(page) is not bytes:
            try:
                page = self._decoded(view, key, page)
            except (
                FileError
            ):  # it was read together with others, or a while ago: asked for alone it may be right
                page = self._decoded(view, key, self._wait_alone(view, key, interrupted))
        if pgno == 1:
            check_commit(view, page)
        return page

    def located(self, view: View, pgno: int) -> PageKey | None:
        """Return what a page is kept by; None where finding it, or proof that it is the newest, takes a request."""
        with suppress(CorruptError, FileError):  # whoever reads the page learns of it
            if next(view.undecided(pgno), None) is None and not view.doubts(pgno):
                return page_key(view.file_of(pgno).number, pgno)
        return None

    def at_hand(self, view: View, pgnos: Sequence[int]) -> dict[int, bytes]:
        """Return the first of some pages, as many as are in the cache, are the newest for certain and can be read.

        The lock page, which no file has, is none of them.
        """
        found: dict[int, bytes] = {}
        decoded: dict[PageKey, bytes] = {}
        page_size = view.page_size
        with suppress(FileError, CorruptError):  # whoever reads the page learns of it
            for number, some in [] if view.searched_increments else spans(view, pgnos):
                there = self._cache.beginning(number, some)
                for pgno, page in zip(some, there, strict=False):
                    if view.unverified and not view.trusts(pgno):
                        return found
                    if type(page) is not bytes:
                        page = decoded[page_key(number, pgno)] = decode_frame(page, pgno, page_size)
                    found[pgno] = page
                if len(there) < len(some):
                    break
        if decoded:
            self._cache.replace_all(decoded)
        return found

    def known(self, view: View, pgno: int) -> bytes | None:
        """Return a page if it is in the cache and can be read."""
        if next(view.undecided(pgno), None) is not None:
            return None
        try:
            key = page_key(view.file_of(pgno).number, pgno)
            page = self._cache.get(key)
            return page if page is None or type(page) is bytes else self._decoded(view, key, page)
        except (FileError, CorruptError):
            return None

    def has(self, view: View, pgno: int) -> bool:
        """Whether a page is in the cache or under way; no where that is not known without a request."""
        if next(view.undecided(pgno), None) is not None:
            return False
        try:
            return not self._is_lacking(view, pgno)
        except (FileError, CorruptError):
            return False

    def start(self, view: View, pgnos: Collection[int], interrupted: Interrupted) -> None:
        """Begin to read pages that will be wanted, those apart that are there or under way. It does not wait.

        What goes wrong is told when a page is asked for, if it still is.

        Args:
            view: Whose pages.
            pgnos: Pages from 1 to commit, in any order; those of no file and the lock page are left out.
            interrupted: Of whoever will want them.
        """
        wanted = sorted(pgnos)
        if view.are_located(wanted):
            self._start(view, wanted, interrupted)
            return
        places = [(view, pgno) for pgno in wanted]

        def work() -> None:
            try:
                self._start(view, wanted, interrupted)
            finally:
                with self._lock.now:  # whoever starts holds it: what is to be forgotten is there
                    self._forget_starting(starting)

        with self._lock.now:
            starting = _Starting(os.getpid(), places, self._waiter.start(work, interrupted))
            self._starting.update(dict.fromkeys(places, starting))

    def _forget_starting(self, starting: "_Starting") -> None:
        for place in starting.places:
            if self._starting.get(place) is starting:
                del self._starting[place]

    def _locate(self, view: View, pgno: int, interrupted: Interrupted) -> None:
        """See to it that what says where a page is was read, here or where it is being read ahead."""
        starting = self._starting.get((view, pgno))
        if starting is not None and starting.process == os.getpid():
            try:
                self._waiter.wait_for(starting.future, interrupted)
            except Exception as error:
                if not starting.future.done():
                    if isinstance(error, UnavailableError):  # it hangs: nobody else shall wait for it
                        with self._lock.now:
                            self._forget_starting(starting)
                    raise
        indexes = list(view.unlocated(pgno))
        if indexes:
            self._waiter.wait(lambda: together([partial(index.near, pgno) for index in indexes]), interrupted)

    def _start(self, view: View, pgnos: Sequence[int], interrupted: Interrupted) -> None:
        """Begin to read those of some pages, which ascend, that are neither there nor under way."""
        with suppress(FileError, CorruptError):
            lacking: list[int] = []
            for number, some in spans(view, pgnos):
                lacking += self._not_under_way(number, self._cache.lacking(number, some))
            for runs, doubts in list(batches(view, lacking)):
                if not self._is_read_at_once(view, runs, doubts, interrupted):
                    self._launch_lacking(view, runs, doubts, interrupted)

    def _not_under_way(self, number: int, pgnos: Sequence[int]) -> Iterable[int]:
        """Return those pages of a file that nobody is reading."""
        if not self._flights:
            return pgnos
        keys = page_keys(number, pgnos)
        return [pgno for pgno, key in zip(pgnos, keys, strict=True) if self._flight(key) is None]

    def _is_read_at_once(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> bool:
        """Read a little ahead without another thread, which would cost more, where there is nothing to wait for."""
        if sum(run.end - run.start for run in runs) > _AT_ONCE_SIZE:
            return False
        try:
            return self._fetcher.at_once(view, runs, doubts, interrupted) is not None
        except (FileError, BackendError):
            return True  # whoever wants the page is told

    def _is_lacking(self, view: View, pgno: int) -> bool:
        if pgno == view.lock_page:
            return False
        key = page_key(view.file_of(pgno).number, pgno)
        return key not in self._cache and self._flight(key) is None

    def _launch_lacking(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> None:
        with self._lock.now:
            firsts = (page_key(run.file.number, run.pgnos[0]) for run in runs)
            if any(key not in self._cache and self._flight(key) is None for key in firsts):
                self._launch(view, runs, doubts, interrupted)

    def _wait(self, view: View, key: PageKey, ahead: int, interrupted: Interrupted) -> bytes:
        """Wait for a page that is under way, or ask for it."""
        flight = self._flight(key)
        is_ours = flight is None
        if flight is None:
            room = min(self._cache.most_ahead_size, RUN_PAGES_SIZE) // view.page_size
            pgno = page_number(key)
            run = self._cut(view.run_at(pgno, max(1, min(ahead, room)), RUN_SIZE))
            doubts = view.doubts(pgno)
            if (pages := self._fetcher.at_once(view, [run], doubts, interrupted)) is not None:
                return pages.get(key, _NOTHING)
            with self._lock.now:
                if (page := self._cache.get(key)) is not None:  # it landed just now
                    return page
                flight = self._flight(key) or self._launch(view, [run], doubts, interrupted)[0]
        try:
            return self._waiter.wait_for(flight.future, interrupted).get(key, _NOTHING)
        except Exception as error:
            if not flight.future.done():
                if isinstance(error, UnavailableError):  # it hangs: nobody else shall wait for it
                    with self._lock.now:
                        for each in flight.request:
                            self._forget(each)
                raise
            if is_ours:
                raise
        return self._wait_alone(view, key, interrupted)

    def _wait_alone(self, view: View, key: PageKey, interrupted: Interrupted) -> bytes:
        """Ask for a page by itself: what went wrong may concern what was asked for together with it."""
        run, doubts = view.run_at(page_number(key), 1, 1), view.doubts(page_number(key))
        [pages] = self._waiter.wait(lambda: [*self._fetcher.fetched(view, [run], doubts)], interrupted)
        return pages.get(key, _NOTHING)

    def _flight(self, key: PageKey) -> _Flight | None:
        flight = self._flights.get(key)
        return flight if flight is not None and flight.process == os.getpid() else None

    def _cut(self, run: Run) -> Run:
        """Cut a run off where pages follow that are known; a few between others are not worth a request."""
        end = known = 0
        for place, key in enumerate(page_keys(run.file.number, run.pgnos)):
            if place and (key in self._cache or key in self._flights):
                known += 1
                if known == _KNOWN_BETWEEN:
                    break
            else:
                known, end = 0, place + 1
        return run.cut(0, end)

    def _launch(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> Sequence[_Flight]:
        """Begin to read runs. What they bring is there part by part."""
        flights: list[_Flight] = []
        for run in runs:
            for part in parts_of(run, view.page_size):
                keys = page_keys(part.file.number, part.pgnos)
                flights.append(_Flight(os.getpid(), keys, Future(), flights))

        def work() -> None:
            landing = iter(flights)
            try:
                for pages in self._fetcher.fetched(view, runs, doubts):
                    self._land(next(landing)).set_result(pages)
            except BaseException as error:  # noqa: BLE001 - whoever waits raises it
                for flight in landing:
                    self._land(flight).set_exception(error)

        for flight in flights:
            self._flights.update(dict.fromkeys(flight.keys, flight))
        self._waiter.start(work, interrupted)
        return flights

    def _land(self, flight: _Flight) -> Future[Pages]:
        with self._lock.now:  # whoever launches holds it: the flight is there
            self._forget(flight)
        return flight.future

    def _forget(self, flight: _Flight) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _decoded(self, view: View, key: PageKey, frame: bytes) -> bytes:
        pgno = page_number(key)
        try:
            page = decode_frame(frame, pgno, view.page_size)
        except CorruptError as error:
            self._cache.drop_all((key,))
            error.offset = view.run_at(pgno, 1, 1).start + (error.offset or 0)
            raise FileError(view.file_of(pgno).file, error) from error
        self._cache.replace(key, page)
        return page
