"""Finding entries in a page index without decoding all of it, or reading it (docs/design/0012-views-and-indexes.md)."""

from array import array
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

from backends import NotFoundError
from ltx import CorruptError, LTXFile
from ltx.format import HEADER_SIZE, lock_page
from ltx.format.frame import TERMINATOR
from ltx.format.index import PageIndex, Part, read_part
from ltx.replica.apply import FileError
from vfs.waiting import ForkedLock

__all__ = ["SearchedIndex"]

DENSE_BLOCK_SIZE = 4 << 10
"""Read at each step of a search in a snapshot's index, where an entry lies about where it should."""

BLOCK_SIZE = 1 << 10
"""Read at each step elsewhere, where it takes more of them."""

_NEAR = 64
"""Pages behind a known entry that are looked for from there on, not somewhere in the middle."""

_FORWARD_SIZE, _HELD_FORWARD_SIZE = 256 << 10, 16 << 10
"""Read at most when one entry after the other is asked for: from the storage, and of bytes that are here."""

_LOADED_SIZE = 8 << 20
"""An index up to this size is read whole once searching it has cost a fair part of that."""

_PIECE_SIZE = 4 << 20
"""Of an index that is read whole however long it is."""

_GUESSES = 9
"""Steps of a search after which each only halves what is left."""

_PATIENCE = (32 << 10, 128 << 10)
_MAX_ENTRIES = 1 << 20
_MAX_STEPS = 64


class SearchedIndex:
    """The page index of one file, of which only what was asked for is read. Safe to use from several threads.

    Page numbers of a snapshot follow each other without a gap, so that a place can be guessed well; elsewhere
    they come in clusters, and every third guess halves what is left. What was found narrows later searches.

    Args:
        file: The file.
        read: Reads bytes `[start, end)` of the file.
        start: First byte of the entries.
        stop: Byte after the last one.
        held: The last bytes of the entries, or all of them: what is here already.
        page_size: Of the snapshot that the file is; None for another file.

    Raises:
        CorruptError: The last entries are none, or others than the file can have.
    """

    def __init__(
        self,
        file: LTXFile,
        read: Callable[[int, int], bytes],
        start: int,
        stop: int,
        held: bytes,
        page_size: int | None,
    ) -> None:
        self.size = stop - start
        self._file = file
        self._read = read
        self._start = start
        self._skipped = lock_page(page_size) if page_size else 0
        self._lock = ForkedLock()
        self._whole: PageIndex | None = None
        self._spent = 0
        self._forward = DENSE_BLOCK_SIZE
        self._last_stop = 0
        self._held, self._held_start = held, stop - len(held)
        tail = held[-DENSE_BLOCK_SIZE:]
        self._tail = read_part(tail, stop - len(tail), begins=stop - len(tail) == start, ends=True)
        self._check(self._tail)
        if self._tail.index.end + len(TERMINATOR) != start:
            raise CorruptError("the page index contradicts the file that it is in", offset=start)
        self._parts = [self._tail]

    @property
    def whole(self) -> PageIndex | None:
        """All of it, once it was read."""
        return self._whole

    @property
    def max_pgno(self) -> int:
        """The last page in the file."""
        return self._tail.index.pgnos[-1]

    def known(self, pgno: int) -> PageIndex | None:
        """Return entries around a page number if they were read: that page's, or those that would be next to it."""
        if self._whole is not None:
            return self._whole
        with self._lock.now:
            part = self._covering(pgno)
        if part is None and self._held_start == self._start:
            with suppress(CorruptError):  # whoever asks for the page learns of it
                return self._search(pgno)
        return part.index if part else None

    def near(self, pgno: int) -> PageIndex:
        """Return entries around a page number, reading what it takes.

        Raises:
            FileError: The file is gone, or what stands there is no index of it.
        """
        known = self.known(pgno)
        if known is not None:
            return known
        try:
            if self.size <= _LOADED_SIZE and self._spent >= min(
                max(_PATIENCE[0], self.size // 8), _PATIENCE[1]
            ):
                self._whole = self._load()
                return self._whole
            return self._search(pgno)
        except (CorruptError, NotFoundError) as error:
            raise FileError(self._file, error) from error

    def load(self) -> PageIndex:
        """Return all of it, reading it in pieces where it was not read whole yet.

        Raises:
            FileError: The file is gone, or what stands there is no index of it.
        """
        if self._whole is None:
            try:
                self._whole = self._load_in_pieces()
            except (CorruptError, NotFoundError) as error:
                raise FileError(self._file, error) from error
        return self._whole

    def _load_in_pieces(self) -> PageIndex:
        stop = self._tail.stop
        parts: list[Part] = []
        begin = self._start
        while begin < stop:
            end = min(begin + _PIECE_SIZE, stop)
            part = read_part(self._get(begin, end), begin, begins=True, ends=end == stop)
            self._check(part)
            if parts and not _follows(part.index, parts[-1].index):
                raise CorruptError("the page index contradicts itself", offset=begin)
            parts.append(part)
            begin = part.stop
        index = PageIndex.of(
            array("I", chain.from_iterable(part.index.pgnos for part in parts)),
            array("Q", chain.from_iterable(part.index.offsets for part in parts)),
            parts[-1].index.end,
        )
        if index.offset(0) != HEADER_SIZE or index.end != self._tail.index.end:
            raise CorruptError("the page index contradicts the file that it is in", offset=self._start)
        return index

    def _load(self) -> PageIndex:
        stop = self._tail.stop
        part = read_part(self._get(self._start, stop), self._start, begins=True, ends=True)
        self._check(part)
        if part.index.offset(0) != 100 or part.index.end != self._tail.index.end:
            raise CorruptError("the page index contradicts the file that it is in", offset=self._start)
        return part.index

    def _search(self, pgno: int) -> PageIndex:
        for step in range(_MAX_STEPS):
            with self._lock.now:
                low, high = self._around(pgno)
            start, stop = self._guess(pgno, low, high, step)
            begins = start in (self._start, low.last if low else self._start)
            part = read_part(self._get(start, stop), start, begins=begins, ends=stop == _first_stop(high))
            self._check(part)
            _check_between(part, low, high)
            with self._lock.now:
                self._keep(part)
            if self._covers(part, pgno):
                self._last_stop = part.last
                return part.index
        raise CorruptError(f"its page index does not lead to page {pgno}", offset=self._start)

    def _guess(self, pgno: int, low: Part | None, high: Part, step: int) -> tuple[int, int]:
        """Return which bytes to read next: those around where the entry could lie."""
        block = DENSE_BLOCK_SIZE if self._skipped else BLOCK_SIZE
        below, start = (low.index.pgnos[-1], low.last) if low else (0, self._start)
        above, stop = high.index.pgnos[0], _first_stop(high)
        if pgno <= below + _NEAR:
            most = _FORWARD_SIZE if start < self._held_start else _HELD_FORWARD_SIZE
            self._forward = min(self._forward * 2, most) if start == self._last_stop else block
            return start, min(start + self._forward, stop)
        if stop - start <= block:
            return start, stop
        if step < _GUESSES and (self._skipped or step % 3 != 2):
            middle = start + (high.first - start) * (pgno - below) // (above - below)
        else:
            middle = (start + high.first) // 2
        begin = min(max(start, middle - block // 2), stop - block)
        return begin, begin + block

    def _around(self, pgno: int) -> tuple[Part | None, Part]:
        """Return the nearest parts that end before a page number, and begin after it."""
        place = bisect_right(self._parts, pgno, key=_first_pgno)
        return self._parts[place - 1] if place else None, self._parts[place]

    def _covering(self, pgno: int) -> Part | None:
        place = bisect_right(self._parts, pgno, key=_first_pgno)
        around = self._parts[max(0, place - 1) : place + 1]
        return next((part for part in around if self._covers(part, pgno)), None)

    def _covers(self, part: Part, pgno: int) -> bool:
        first, last = part.index.pgnos[0], part.index.pgnos[-1]
        return (first <= pgno or part.first == self._start) and (pgno <= last or part is self._tail)

    def _keep(self, part: Part) -> None:
        """Keep a part in order of page numbers; one that lies in another one is not needed."""
        if sum(len(each.index) for each in self._parts) > _MAX_ENTRIES:
            self._parts = [self._tail]
        kept = [
            each for each in self._parts if each is self._tail or not _lies_in(each, part)
        ]  # few at a time: one search leaves a handful
        place = bisect_right(kept, _first_pgno(part), key=_first_pgno)
        self._parts = [*kept[:place], part, *kept[place:]]

    def _get(self, start: int, stop: int) -> bytes:
        if start >= self._held_start:
            return self._held[start - self._held_start : stop - self._held_start]
        data = self._read(start, stop)
        self._spent += len(data)
        if len(data) != stop - start:
            raise CorruptError("the file ends within its page index", offset=start + len(data))
        return data

    def _check(self, part: Part) -> None:
        """See that entries of a snapshot leave no page out but the one that is never stored."""
        pgnos = part.index.pgnos
        if self._skipped and len(pgnos):
            first, last = pgnos[0], pgnos[-1]
            wanted = last - first + 1 - (first <= self._skipped <= last)
            if len(pgnos) != wanted or part.index.holds(self._skipped):
                raise CorruptError("the page index of a snapshot leaves pages out", offset=part.first)
            if part.first == self._start and first != 1:
                raise CorruptError(
                    "the page index of a snapshot does not begin with page 1", offset=part.first
                )


def _follows(index: PageIndex, before: PageIndex) -> bool:
    return index.offset(0) == before.end and index.pgnos[0] > before.pgnos[-1]


def _first_pgno(part: Part) -> int:
    return part.index.pgnos[0]


def _first_stop(part: Part) -> int:
    """Return the byte after the first entry of a part."""
    return part.second


def _lies_in(inner: Part, outer: Part) -> bool:
    return outer.first <= inner.first and inner.stop <= outer.stop


def _check_between(part: Part, low: Part | None, high: Part) -> None:
    """See that what was read lies between what was known before, by page numbers and by frames."""
    index = part.index
    fits = index.pgnos[-1] <= high.index.pgnos[0] and index.offset(len(index) - 1) <= high.index.offset(0)
    if low is not None:
        before = len(low.index) - 1
        fits = fits and index.pgnos[0] >= low.index.pgnos[-1] and index.offset(0) >= low.index.offset(before)
    if not fits:
        raise CorruptError("the page index contradicts itself", offset=part.first)
