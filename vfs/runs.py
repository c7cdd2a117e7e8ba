"""Which requests pages are read by: runs of frames with little between them, several of them at once."""

from collections.abc import Container, Iterable, Iterator, Sequence

from vfs.view import Doubt, Run, View

__all__ = ["RUN_PAGES_SIZE", "RUN_SIZE", "batches", "part_lacking", "spans"]

RUN_SIZE = 4 << 20
"""Bytes that one request for pages gets at most: a few such requests under way hide how far a storage is."""

RUN_PAGES_SIZE = 8 << 20
"""Bytes of the pages in it: those of zeros take next to nothing in a file."""

_GAP_SIZE = 32 << 10
"""Bytes between wanted frames that are not worth a second request."""

_GAP_PAGES = 8
_BATCH_RUNS = 32


def batches(view: View, pgnos: Sequence[int]) -> Iterator[tuple[list[Run], list[Doubt]]]:
    """Yield what is read together of some pages, which ascend, and what must be looked at with it."""
    return _batches(_runs(view, _filled(view, pgnos)), view)


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


def _filled(view: View, pgnos: Sequence[int]) -> Sequence[int]:
    """Add the pages that lie between others with little between them: they come with the same request."""
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
        count = 1
        while place + count < len(pgnos) and pgnos[place + count] == pgnos[place] + count and count < most:
            count += 1
        run = view.run_at(pgnos[place], count, RUN_SIZE)
        yield run
        place += len(run.frames)


def _batches(runs: Iterable[Run], view: View) -> Iterator[tuple[list[Run], list[Doubt]]]:
    """Put together what is read together: runs with little between them as one, small ones in parallel."""
    batch: list[Run] = []
    doubts: dict[tuple[int, int], Doubt] = {}
    size = 0
    for run in runs:
        last = batch[-1] if batch else None
        if (
            last is not None
            and last.file is run.file
            and 0 <= run.start - last.end <= _GAP_SIZE
            and run.end - last.start <= RUN_SIZE
        ):
            size += run.end - last.end
            shift = run.start - last.start
            frames = (*last.frames, *((pgno, start + shift, length) for pgno, start, length in run.frames))
            batch[-1] = Run(run.file, last.start, run.end, frames)
        else:
            if batch and (size + run.end - run.start > RUN_SIZE or len(batch) >= _BATCH_RUNS):
                yield batch, [*doubts.values()]
                batch, doubts, size = [], {}, 0
            batch.append(run)
            size += run.end - run.start
        doubts.update(((doubt.file.number, doubt.place), doubt) for doubt in view.doubts(run.frames[0][0]))
    if batch:
        yield batch, [*doubts.values()]


def part_lacking(run: Run, known: Container[tuple[int, int]]) -> Run | None:
    """Return the part of a run from the first to the last frame that is not known; None where all are."""
    places = [place for place, (pgno, _, _) in enumerate(run.frames) if (run.file.number, pgno) not in known]
    if not places:
        return None
    frames = run.frames[places[0] : places[-1] + 1]
    shift, (_, last, size) = frames[0][1], frames[-1]
    return Run(
        run.file,
        run.start + shift,
        run.start + last + size,
        tuple((pgno, start - shift, length) for pgno, start, length in frames),
    )
