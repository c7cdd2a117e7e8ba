"""Which of a view's files holds a page: persistent maps, of which a longer view shares all that did not change."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

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
        place = pgno // _SPAN
        piece = self._pieces[place] if place < len(self._pieces) else None
        return None if piece is None else self.owners[piece[pgno % _SPAN]]

    def same(self, pgno: int, stop: int) -> int:
        """Return the first page from `pgno` to `stop` that belongs to somebody else than `pgno` does."""
        owner: int | None = None
        while pgno < stop:
            place, first = divmod(pgno, _SPAN)
            piece = self._pieces[place] if place < len(self._pieces) else None
            end = min(stop, (place + 1) * _SPAN)
            part = (
                np.zeros(end - pgno, np.uint16)
                if piece is None
                else np.frombuffer(piece, piece.typecode)[first : first + end - pgno]
            )
            owner = int(part[0]) if owner is None else owner
            other = np.flatnonzero(part != owner)
            if len(other):
                return pgno + int(other[0])
            pgno = end
        return stop

    def owned(self, pgnos: NDArray[np.uint32], owner: _T) -> NDArray[np.uint32]:
        """Return those of some pages that belong to an owner.

        Args:
            pgnos: Ascending.
            owner: One of the owners.
        """
        return np.compress(self._numbers(pgnos) == self.owners.index(owner), pgnos)

    def without(self, pgnos: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return those of some pages that belong to nobody."""
        return np.compress(self._numbers(pgnos) == 0, pgnos)

    def _numbers(self, pgnos: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the numbers of the owners of pages."""
        places = pgnos // _SPAN
        found = np.zeros(len(pgnos), np.uint32)
        for place in np.unique(places).tolist():
            piece = self._pieces[place] if place < len(self._pieces) else None
            if piece is not None:
                start, stop = np.searchsorted(places, [place, place + 1])
                found[start:stop] = np.frombuffer(piece, piece.typecode)[pgnos[start:stop] % _SPAN]
        return found

    @property
    def total(self) -> int:
        """How many pages belong to somebody."""
        return sum(self.counts)

    @property
    def files(self) -> tuple[_T, ...]:
        """All owners."""
        return tuple(owner for owner in self.owners if owner is not None)

    def with_pages(self, owner: _T, pgnos: NDArray[np.uint32], stays: Callable[[_T], bool]) -> "PageMap[_T]":
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

    def put(self, pgnos: NDArray[np.uint32], number: int) -> None:
        if not len(pgnos):
            return
        self.pieces.extend([None] * (int(pgnos[-1]) // _SPAN + 1 - len(self.pieces)))
        spans = pgnos // _SPAN
        starts = np.flatnonzero(np.append(True, spans[1:] != spans[:-1]))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(pgnos)], strict=True):
            piece = self._own(int(spans[start]), wide=number >= _WIDE)
            places = pgnos[start:stop] % _SPAN
            self._count(piece[places])
            piece[places] = number
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
                piece[begin:] = 0
        del self.pieces[place + 1 :]

    def _own(self, place: int, *, wide: bool = False) -> NDArray[np.uint16] | NDArray[np.uint32]:
        piece = self.pieces[place]
        if piece is None:
            piece = array("I" if wide else "H", bytes(_SPAN * (4 if wide else 2)))
        elif wide and piece.typecode == "H":
            piece = array("I", piece)
        elif place not in self._ours:
            piece = piece[:]
        self._ours.add(place)
        self.pieces[place] = piece
        return np.frombuffer(piece, piece.typecode)

    def _count(self, numbers: NDArray[np.uint16] | NDArray[np.uint32]) -> None:
        """Take pages away from who had them; number 0 has none to lose."""
        for number, count in zip(
            *(each.tolist() for each in np.unique(numbers, return_counts=True)), strict=True
        ):
            if number:
                self._counts[number] -= count
