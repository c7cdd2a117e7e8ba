"""Which of a view's files holds a page: persistent maps, of which a longer view shares all that did not change."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["PageMap"]

_SPAN = 4096
"""Pages of one piece of a map: it is what a change copies."""

_WIDE = 1 << 16

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class PageMap(Generic[_T]):
    """Pages, and which of some owners each belongs to; two bytes a page. It never changes.

    Attributes:
        owners: By number, of which 0 is nobody; None where a number is free.
        counts: How many pages each has.
    """

    owners: tuple[_T | None, ...] = (None,)
    counts: tuple[int, ...] = (0,)
    _pieces: tuple["array[int] | None", ...] = ()

    def get(self, pgno: int) -> _T | None:
        """Return who a page belongs to."""
        return self.owners[self._number(pgno)]

    def same(self, pgno: int, stop: int) -> int:
        """Return the first page from `pgno` to `stop` that belongs to somebody else than `pgno` does."""
        place, first = divmod(pgno, _SPAN)
        piece = self._pieces[place] if place < len(self._pieces) else None
        owner = piece[first] if piece is not None else 0
        while pgno < stop:
            place, first = divmod(pgno, _SPAN)
            piece = self._pieces[place] if place < len(self._pieces) else None
            end = min(stop, (place + 1) * _SPAN)
            if piece is not None:
                part = piece[first : first + end - pgno]
                if part != array(part.typecode, (owner,)) * len(part):
                    return pgno + next(at for at, each in enumerate(part) if each != owner)
            elif owner:
                return pgno
            pgno = end
        return stop

    def owned(self, pgnos: Iterable[int], owner: _T) -> "array[int]":
        """Return those of some pages that belong to an owner, one of the owners."""
        number = self.owners.index(owner)
        return array("I", (pgno for pgno in pgnos if self._number(pgno) == number))

    def without(self, pgnos: Iterable[int]) -> "array[int]":
        """Return those of some pages that belong to nobody."""
        return array("I", (pgno for pgno in pgnos if not self._number(pgno)))

    def _number(self, pgno: int) -> int:
        place = pgno // _SPAN
        piece = self._pieces[place] if place < len(self._pieces) else None
        return 0 if piece is None else piece[pgno % _SPAN]

    @property
    def total(self) -> int:
        """How many pages belong to somebody."""
        return sum(self.counts)

    @property
    def files(self) -> tuple[_T, ...]:
        """All owners."""
        return tuple(owner for owner in self.owners if owner is not None)

    def with_pages(self, owner: _T, pgnos: Sequence[int], stays: Callable[[_T], bool]) -> "PageMap[_T]":
        """Return the map in which pages belong to a new owner.

        Args:
            owner: The owner.
            pgnos: Its pages, ascending.
            stays: Whether an owner is kept when no page belongs to it any more.
        """
        owners, counts = list(self.owners), list(self.counts)
        number = next((each for each in range(1, len(owners)) if owners[each] is None), len(owners))
        if number == len(owners):
            owners.append(None)
            counts.append(0)
        pieces = _Pieces(self._pieces, counts)
        pieces.put(pgnos, number)
        for place, held in enumerate(owners):
            if held is not None and not counts[place] and not stays(held):
                owners[place] = None
        if counts[number] or stays(owner):
            owners[number] = owner
        return PageMap(tuple(owners), tuple(counts), tuple(pieces.pieces))

    def cut(self, commit: int) -> "PageMap[_T]":
        """Return the map without the pages beyond an end."""
        if commit >= len(self._pieces) * _SPAN:
            return self
        counts = list(self.counts)
        pieces = _Pieces(self._pieces, counts)
        pieces.cut(commit)
        return PageMap(self.owners, tuple(counts), tuple(pieces.pieces))


class _Pieces:
    """The pieces of a map while it is made; those of the old one are copied before they change."""

    def __init__(self, pieces: Sequence["array[int] | None"], counts: list[int]) -> None:
        self.pieces = list(pieces)
        self._counts = counts
        self._ours: set[int] = set()

    def put(self, pgnos: Sequence[int], number: int) -> None:
        start = 0
        while start < len(pgnos):
            place = pgnos[start] // _SPAN
            stop = bisect_left(pgnos, (place + 1) * _SPAN, start)
            self.pieces.extend([None] * (place + 1 - len(self.pieces)))
            piece = self._own(place, wide=number >= _WIDE)
            firsts = [pgno % _SPAN for pgno in pgnos[start:stop]]
            self._count(map(piece.__getitem__, firsts))
            for first in firsts:
                piece[first] = number
            start = stop
        self._counts[number] += len(pgnos)

    def cut(self, commit: int) -> None:
        """Leave out the pages beyond the end."""
        place, first = divmod(commit + 1, _SPAN)
        for each in range(place, len(self.pieces)):
            begin = first if each == place else 0
            held = self.pieces[each]
            if held is not None and any(held[begin:]):
                piece = self._own(each)
                self._count(piece[begin:])
                piece[begin:] = array(piece.typecode, (0,)) * (_SPAN - begin)
        del self.pieces[place + 1 :]

    def _own(self, place: int, *, wide: bool = False) -> "array[int]":
        piece = self.pieces[place]
        if piece is None:
            piece = array("I" if wide else "H", (0,)) * _SPAN
        elif wide and piece.typecode == "H":
            piece = array("I", piece)
        elif place not in self._ours:
            piece = piece[:]
        self._ours.add(place)
        self.pieces[place] = piece
        return piece

    def _count(self, numbers: Iterable[int]) -> None:
        """Take pages away from who had them; number 0 has none to lose."""
        for number, count in Counter(numbers).items():
            if number:
                self._counts[number] -= count
