"""Reading the pages of a view: the one that is asked for, those that will be, and proof that they are the newest."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from backends import Backend, BackendError, NotFoundError, Piece, UnavailableError
from ltx import CorruptError
from ltx.format.frame import decode_frame
from ltx.replica.apply import FileError
from vfs.cache import Frame, PageCache, PageKey
from vfs.kept_files import KeptFiles
from vfs.proof import check_commit, dispelled
from vfs.runs import RUN_PAGES_SIZE, RUN_SIZE, batches, part_lacking, spans
from vfs.view import Doubt, Run, View
from vfs.waiting import ForkedLock, Interrupted, Waiter, together

__all__ = ["PageReader"]

_AT_ONCE_SIZE = 512 << 10
"""Bytes that are read ahead at most in the thread of whoever runs a query: a disk has them in some milliseconds."""

_KNOWN_BETWEEN = 4

_R = TypeVar("_R")
Frames = Mapping[PageKey, Frame]

_NOTHING = Frame()
"""Of a page beyond the end of a file that became shorter."""


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """Requests that are under way together.

    Attributes:
        process: Whose threads work on it: in a forked child nobody does.
        keys: What will be there.
        future: The frames.
    """

    process: int
    keys: Sequence[PageKey]
    future: Future[Frames]


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
        self._backend = backend
        self._cache = cache
        self._waiter = waiter
        self._kept = kept
        self._flights: dict[PageKey, _Flight] = {}
        self._starting: dict[tuple[View, int], _Starting] = {}
        self._lock = ForkedLock()

    @property
    def most_ahead_size(self) -> int:
        """Bytes of pages that may be under way or kept for one reader that reads ahead."""
        return min(self._cache.max_size // 4, 2 * RUN_PAGES_SIZE)

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
            key = (view.file_of(pgno).number, pgno)
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
            self._look(doubts, interrupted)
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
                return view.file_of(pgno).number, pgno
        return None

    def at_hand(self, view: View, pgnos: Sequence[int]) -> list[bytes]:
        """Return the first of some pages, as many as are in the cache, are the newest for certain and can be read."""
        found: list[bytes] = []
        decoded: dict[PageKey, bytes] = {}
        page_size = view.page_size
        with suppress(FileError, CorruptError):  # whoever reads the page learns of it
            for number, some in [] if view.searched_increments else spans(view, pgnos):
                for pgno in some:
                    page = self._cache.get((number, pgno))
                    if page is None or not view.trusts(pgno):
                        break
                    if type(page) is not bytes:
                        page = decoded[number, pgno] = decode_frame(page, pgno, page_size)
                    found.append(page)
                else:
                    continue
                break
        if decoded:
            self._cache.replace_all(decoded)
        return found

    def known(self, view: View, pgno: int) -> bytes | None:
        """Return a page if it is in the cache and can be read."""
        if next(view.undecided(pgno), None) is not None:
            return None
        try:
            key = (view.file_of(pgno).number, pgno)
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
            flights = self._flights
            lacking = [
                pgno
                for number, some in spans(view, pgnos)
                for pgno in self._cache.lacking(number, some)
                if (number, pgno) not in flights or self._flight((number, pgno)) is None
            ]
            for runs, doubts in list(batches(view, lacking)):
                if not self._is_read_at_once(view, runs, doubts, interrupted):
                    self._launch_lacking(view, runs, doubts, interrupted)

    def _is_read_at_once(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> bool:
        """Read a little ahead without another thread, which would cost more, where there is nothing to wait for."""
        if sum(run.end - run.start for run in runs) > _AT_ONCE_SIZE:
            return False
        try:
            return self._fetch_at_once(view, runs, doubts, interrupted) is not None
        except (FileError, BackendError):
            return True  # whoever wants the page is told

    def _is_lacking(self, view: View, pgno: int) -> bool:
        if pgno == view.lock_page:
            return False
        key = (view.file_of(pgno).number, pgno)
        return key not in self._cache and self._flight(key) is None

    def _launch_lacking(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> None:
        with self._lock.now:
            firsts = ((run.file.number, run.frames[0][0]) for run in runs)
            if any(key not in self._cache and self._flight(key) is None for key in firsts):
                self._launch(view, runs, doubts, interrupted)

    def _wait(self, view: View, key: PageKey, ahead: int, interrupted: Interrupted) -> bytes:
        """Wait for a page that is under way, or ask for it."""
        flight = self._flight(key)
        is_ours = flight is None
        if flight is None:
            room = min(self._cache.max_size // 4, RUN_PAGES_SIZE) // view.page_size
            run = self._cut(view.run_at(key[1], max(1, min(ahead, room)), RUN_SIZE))
            doubts = view.doubts(key[1])
            if (frames := self._fetch_at_once(view, [run], doubts, interrupted)) is not None:
                return frames.get(key, _NOTHING)
            with self._lock.now:
                if (page := self._cache.get(key)) is not None:  # it landed just now
                    return page
                flight = self._flight(key) or self._launch(view, [run], doubts, interrupted)
        try:
            return self._waiter.wait_for(flight.future, interrupted).get(key, _NOTHING)
        except Exception as error:
            if not flight.future.done():
                if isinstance(error, UnavailableError):  # it hangs: nobody else shall wait for it
                    with self._lock.now:
                        self._forget(flight)
                raise
            if is_ours:
                raise
        return self._wait_alone(view, key, interrupted)

    def _wait_alone(self, view: View, key: PageKey, interrupted: Interrupted) -> bytes:
        """Ask for a page by itself: what went wrong may concern what was asked for together with it."""
        run, doubts = view.run_at(key[1], 1, 1), view.doubts(key[1])
        return self._waiter.wait(lambda: self._fetch(view, [run], doubts), interrupted).get(key, _NOTHING)

    def _fetch_at_once(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> Frames | None:
        """Read runs as `_fetch`, in the caller's own thread; None where that could mean to wait."""
        if self._kept:
            return None
        read = self._waiter.at_once(
            lambda: self._get((*doubts, *runs), self._backend.get_at_once), interrupted
        )
        return None if read is None else self._taken(view, runs, dispelled(doubts, read))

    def _look(self, doubts: Sequence[Doubt], interrupted: Interrupted) -> None:
        """See that what is in doubt is right."""
        read = self._waiter.at_once(lambda: self._get(doubts, self._backend.get_at_once), interrupted)
        if read is None:
            self._waiter.wait(lambda: self._read([], doubts), interrupted)
        else:
            dispelled(doubts, read)

    def _flight(self, key: PageKey) -> _Flight | None:
        flight = self._flights.get(key)
        return flight if flight is not None and flight.process == os.getpid() else None

    def _cut(self, run: Run) -> Run:
        """Cut a run off where pages follow that are known; a few between others are not worth a request."""
        end = known = 0
        for place, (pgno, _, _) in enumerate(run.frames):
            if place and ((key := (run.file.number, pgno)) in self._cache or key in self._flights):
                known += 1
                if known == _KNOWN_BETWEEN:
                    break
            else:
                known, end = 0, place + 1
        return run.cut(end)

    def _launch(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> _Flight:
        keys = [(run.file.number, pgno) for run in runs for pgno, _, _ in run.frames]

        def work() -> Frames:
            try:
                return self._fetch(view, runs, doubts)
            finally:
                with self._lock.now:  # whoever launches holds it: the flight is there
                    self._forget(flight)

        flight = _Flight(os.getpid(), keys, self._waiter.start(work, interrupted))
        self._flights.update(dict.fromkeys(keys, flight))
        return flight

    def _forget(self, flight: _Flight) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _fetch(self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt]) -> Frames:
        """Read runs, put their frames into the cache, and take them for the newest if what is in doubt was right."""
        frames: dict[PageKey, Frame] = {}
        lacking = list(runs)
        if self._kept:
            for run in runs:
                kept = self._kept.frames(run)
                frames.update(((run.file.number, pgno), frame) for pgno, frame in kept.items())
            lacking = [part for run in runs if (part := part_lacking(run, frames))]
        new = self._taken(view, lacking, self._read(lacking, doubts))
        if self._kept and new:
            self._waiter.start(partial(self._keep_on_disk, view.page_size, new), lambda: False)
        if frames:
            self._keep(view, frames)
            frames.update(new)
            return frames
        return new

    def _taken(self, view: View, runs: Sequence[Run], reads: Sequence[bytes]) -> Frames:
        """Cut what was read of runs into frames, and keep them."""
        frames: dict[PageKey, Frame] = {}
        for run, data in zip(runs, reads, strict=True):
            number, size = run.file.number, len(data)
            for pgno, start, length in run.frames:
                if start < size:
                    frames[number, pgno] = Frame(data[start : start + length])
        self._keep(view, frames)
        return frames

    def _keep(self, view: View, frames: Frames) -> None:
        """Put frames into the cache, and take them for the newest: what was in doubt was right."""
        self._cache.put_frames(frames)
        view.trust(pgno for _, pgno in frames)

    def _keep_on_disk(self, page_size: int, frames: Frames) -> None:
        """Keep what is right."""
        whole = {}
        for key, frame in frames.items():
            with suppress(CorruptError):
                decode_frame(frame, key[1], page_size)
                whole[key] = frame
        if self._kept:
            self._kept.keep(whole)

    def _read(self, runs: Sequence[Run], doubts: Sequence[Doubt]) -> Sequence[bytes]:
        """Read runs, and see at the same time that what is in doubt about them is right."""
        parts: Sequence[Run | Doubt] = (*doubts, *runs)
        return dispelled(doubts, self._get(parts, self._backend.get_ranges)) if parts else ()

    def _get(self, parts: Sequence["Run | Doubt"], get: Callable[[Sequence[Piece]], _R]) -> _R:
        """Get bytes, and say which file is gone where one is."""
        try:
            return get([(each.file.file.key, each.start, each.end) for each in parts])
        except NotFoundError as error:
            gone = next((each for each in parts if each.file.file.key == error.key), parts[0])
            raise FileError(gone.file.file, error) from error

    def _decoded(self, view: View, key: PageKey, frame: bytes) -> bytes:
        try:
            page = decode_frame(frame, key[1], view.page_size)
        except CorruptError as error:
            self._cache.drop(key)
            error.offset = view.run_at(key[1], 1, 1).start + (error.offset or 0)
            raise FileError(view.file_of(key[1]).file, error) from error
        self._cache.replace(key, page)
        return page
