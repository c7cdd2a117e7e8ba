"""Which requests pages are read by: runs of frames with little between them, several of them at once."""

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from math import ceil

from ltx.format.index import count_ascending
from vfs.cache import PageKey, page_keys
from vfs.view import Doubt, Run, View

__all__ = ["RUN_PAGES_SIZE", "RUN_SIZE", "batches", "part_lacking", "spans"]

RUN_SIZE = 4 << 20
"""Bytes that one request for pages gets at most, about: a few such requests under way hide how far a storage is."""

RUN_PAGES_SIZE = 8 << 20
"""Bytes of the pages in it: those of zeros take next to nothing in a file."""

_GAP_SIZE = 32 << 10
"""Bytes between wanted frames that are not worth a second request."""

_GAP_PAGES = 8
_BATCH_RUNS = 32


def batches(view: View, pgnos: Sequence[int]) -> Iterator[tuple[list[Run], list[Doubt]]]:
    """Yield what is read together of some pages, which ascend, and what must be looked at with it."""
    return _batches(_pieces(_near(_runs(view, _filled(view, pgnos))), view.page_size), view)


def spans(view: View, pgnos: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield pages in the order given, those of one file together, with its number; the lock page is left out.

    Raises:
        CorruptError: One is in no file.
        FileError: An index that is searched is damaged or gone.
    """
    place, lock_page = 0, view.lock_page
    if (only := view.only) is not None:
        yield only.number, [pgno for pgno in pgnos if pgno != lock_page] if lock_page in pgnos else pgnos
        return
    while place < len(pgnos):
        first, behind = pgnos[place], place + 1
        while behind < len(pgnos) and pgnos[behind] == first + behind - place:
            behind += 1
        stop = first + behind - place
        while first < stop:
            if first == lock_page:
                first += 1
                continue
            file, end = view.span(first, lock_page if first < lock_page < stop else stop)
            yield file.number, range(first, end)
            first = end
        place = behind


def part_lacking(run: Run, known: Container[PageKey]) -> Run | None:
    """Return the part of a run from the first to the last frame that is not known; None where all are."""
    keys = page_keys(run.file.number, run.pgnos)
    places = [place for place, key in enumerate(keys) if key not in known]
    return run.cut(places[0], places[-1] + 1) if places else None


def _filled(view: View, pgnos: Sequence[int]) -> Sequence[int]:
    """Add the pages that lie between others with little between them: they come with the same request."""
    if not pgnos or count_ascending(pgnos, 0, len(pgnos)) == len(pgnos):
        return pgnos
    filled: list[int] = []
    for pgno in pgnos:
        if filled and 1 < pgno - filled[-1] <= _GAP_PAGES:
            between = range(filled[-1] + 1, pgno)
            file = view.file_of(pgno)
            if all(each != view.lock_page and view.file_of(each) is file for each in between):
                filled.extend(between)
        filled.append(pgno)
    return filled


def _runs(view: View, pgnos: Sequence[int]) -> Iterator[Run]:
    """Yield the runs in which ascending pages lie, the pages of one run right behind each other."""
    most = RUN_PAGES_SIZE // view.page_size
    place = 0
    while place < len(pgnos):
        count = count_ascending(pgnos, place, min(most, len(pgnos) - place))
        run = view.run_at(pgnos[place], count, RUN_SIZE)
        yield run
        place += len(run.pgnos)


def _near(runs: Iterable[Run]) -> Iterator[Run]:
    """Yield runs of one file with little between them as one."""
    near: list[Run] = []
    for run in runs:
        if near and not (run.file is near[-1].file and 0 <= run.start - near[-1].end <= _GAP_SIZE):
            yield _joined(near)
            near = []
        near.append(run)
    if near:
        yield _joined(near)


def _joined(runs: Sequence[Run]) -> Run:
    first = runs[0]
    if len(runs) == 1:
        return first
    return Run(
        first.file,
        first.start,
        [*chain.from_iterable(run.pgnos for run in runs)],
        [start + run.start - first.start for run in runs for start in run.starts],
        [*chain.from_iterable(run.sizes for run in runs)],
    )


def _pieces(runs: Iterable[Run], page_size: int) -> Iterator[Run]:
    """Cut what is too much for one request into equal pieces."""
    for run in runs:
        total = len(run.pgnos)
        count = max(1, ceil((run.end - run.start) / RUN_SIZE), ceil(total * page_size / RUN_PAGES_SIZE))
        most = ceil(total / count)
        for start in range(0, total, most):
            yield run.cut(start, min(start + most, total))


def _batches(runs: Iterable[Run], view: View) -> Iterator[tuple[list[Run], list[Doubt]]]:
    """Put small runs together, which are read in parallel, and what must be looked at with them."""
    batch: list[Run] = []
    size = 0
    for run in runs:
        size += run.end - run.start
        if batch and (size > RUN_SIZE or len(batch) >= _BATCH_RUNS):
            yield batch, _doubts(view, batch)
            batch, size = [], run.end - run.start
        batch.append(run)
    if batch:
        yield batch, _doubts(view, batch)


def _doubts(view: View, runs: Iterable[Run]) -> list[Doubt]:
    """Return what must be looked at before pages count: once for those that follow each other without a gap."""
    doubts: dict[tuple[int, int], Doubt] = {}
    for run in runs if view.unverified else ():
        place = 0
        while place < len(run.pgnos):
            found = view.doubts(run.pgnos[place])
            doubts.update(((doubt.file.number, doubt.place), doubt) for doubt in found)
            place += count_ascending(run.pgnos, place, len(run.pgnos) - place)
    return [*doubts.values()]
