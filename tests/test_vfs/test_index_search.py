"""Entries of a long page index are found with a few small reads, and what is no entry is recognised."""

import random
from array import array
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ltx import TXID, CorruptError, LTXFile
from ltx.format.index import PageIndex
from ltx.replica.apply import FileError
from vfs import index_search
from vfs.index_search import SearchedIndex

START = 40_000_000_000
"""Where the index begins: behind frames of which nothing is read here."""


class Stored:
    """The index of one file on a storage, and what was read of it."""

    def __init__(self, pgnos: NDArray[np.uint64], sizes: NDArray[np.uint64], page_size: int | None) -> None:
        offsets = np.uint64(100) + np.cumsum(sizes) - sizes
        end = int(offsets[-1] + sizes[-1])
        self.whole = PageIndex.of(array("I", pgnos.tolist()), array("Q", offsets.tolist()), end)
        self.start = self.whole.end + 6
        self.raw = encoded(np.column_stack((pgnos, offsets, sizes)).ravel())
        self.page_size = page_size
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> bytes:
        self.reads.append((start, end))
        return self.raw[start - self.start : end - self.start]

    def open(self, tail: int = 16 << 10) -> SearchedIndex:
        file = LTXFile(9, TXID(1), TXID(7), self.start + len(self.raw) + 25, "ltx/9/x.ltx")
        stop = self.start + len(self.raw)
        return SearchedIndex(file, self.read, self.start, stop, self.raw[-tail:], self.page_size)

    def agrees(self, index: SearchedIndex, pgno: int) -> bool:
        """Whether what is found is the page's entry, or the two between which it would stand."""
        near, place = index.near(pgno), self.whole.place(pgno)
        found = near.place(pgno)
        for each in (0,) if self.whole.holds(pgno) else (0, -1):
            if 0 <= place + each < len(self.whole):
                if near.pgnos[found + each] != self.whole.pgnos[place + each]:
                    return False
                if near.offset(found + each) != self.whole.offset(place + each):
                    return False
        return near.offset(found) == self.whole.offset(place) and near.holds(pgno) == self.whole.holds(pgno)


def encoded(values: NDArray[np.uint64]) -> bytes:
    """Write numbers as varints."""
    widths = np.ones(len(values), np.int64)
    for power in range(1, 6):
        widths += values >= np.uint64(1 << 7 * power)
    ends = np.cumsum(widths)
    raw = np.zeros(int(ends[-1]), np.uint8)
    for place in range(int(widths.max())):
        wide = widths > place
        more = np.where(widths[wide] > place + 1, 0x80, 0).astype(np.uint64)
        raw[(ends - widths)[wide] + place] = (values[wide] >> np.uint64(7 * place)) & np.uint64(0x7F) | more
    return raw.tobytes()


def snapshot(count: int, seed: int = 1) -> Stored:
    """Pages from 1 on without the lock page; their frames differ a lot."""
    numbers = np.arange(1, count + 2, dtype=np.uint64)
    sizes = np.random.default_rng(seed).integers(30, 4130, count).astype(np.uint64)
    return Stored(numbers[numbers != 262_145][:count], sizes, 4096)


def increment(count: int, seed: int = 1) -> Stored:
    """Pages in clusters, near and far from each other."""
    chosen = np.random.default_rng(seed)
    steps = np.where(chosen.random(count) < 0.002, chosen.integers(1, 60_000, count), 1)
    sizes = chosen.integers(30, 4130, count).astype(np.uint64)
    return Stored(np.cumsum(steps).astype(np.uint64), sizes, None)


def numbers_around(stored: Stored, count: int) -> Iterator[int]:
    chosen, last = random.Random(3), stored.whole.pgnos[-1]
    yield from (1, 2, stored.whole.pgnos[0], last, last - 1, last + 1)
    for _ in range(count):
        pgno = stored.whole.pgnos[chosen.randrange(len(stored.whole))]
        yield from (pgno, pgno + 1, chosen.randrange(1, last))


@pytest.mark.parametrize(
    ("make", "most_of_one", "usual"), [(snapshot, 6, 3), (increment, 24, 9)], ids=["snapshot", "increment"]
)
def test_each_page_is_found_with_few_reads(
    make: Callable[[int], Stored], most_of_one: int, usual: float
) -> None:
    stored = make(1_500_000)
    assert len(stored.raw) > 8 << 20
    costs = []
    for pgno in numbers_around(stored, 60):
        stored.reads.clear()
        assert stored.agrees(stored.open(), pgno)
        costs.append(len(stored.reads))
    assert max(costs) <= most_of_one
    assert sum(costs) / len(costs) <= usual
    assert max(end - start for start, end in stored.reads) <= 4096


@pytest.mark.parametrize("make", [snapshot, increment])
def test_what_was_read_serves_further_searches(make: Callable[[int], Stored]) -> None:
    stored = make(1_500_000)
    index = stored.open()
    wanted = list(numbers_around(stored, 200))
    for pgno in wanted:
        assert stored.agrees(index, pgno)
    assert index.whole is None
    done = len(stored.reads)
    for pgno in wanted:
        assert index.known(pgno) is not None
        assert stored.agrees(index, pgno)
    assert len(stored.reads) == done


@pytest.mark.parametrize("make", [snapshot, increment])
def test_one_page_after_the_other_reads_growing_pieces(make: Callable[[int], Stored]) -> None:
    stored = make(1_500_000)
    index = stored.open()
    for place in range(700_000, 760_000, 7):
        assert stored.agrees(index, stored.whole.pgnos[place])
    assert len(stored.reads) < 40
    assert sum(end - start for start, end in stored.reads) < 60_000 * 12 * 2


@pytest.mark.parametrize("make", [snapshot, increment])
def test_an_index_of_some_megabytes_is_read_whole_when_it_is_searched_a_lot(
    make: Callable[[int], Stored],
) -> None:
    stored = make(300_000)
    index = stored.open()
    for pgno in numbers_around(stored, 100):
        assert stored.agrees(index, pgno)
    assert index.whole is not None
    assert index.whole.offsets == stored.whole.offsets
    assert sum(end - start for start, end in stored.reads) < len(stored.raw) * 1.2


def test_pieces_of_any_size_lead_to_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (64, 100, 333):
        monkeypatch.setattr(index_search, "DENSE_BLOCK_SIZE", size)
        monkeypatch.setattr(index_search, "BLOCK_SIZE", size)
        for stored in (snapshot(3000, size), increment(3000, size)):
            index = stored.open(tail=size)
            for pgno in numbers_around(stored, 20):
                assert stored.agrees(index, pgno)


@pytest.mark.parametrize("make", [snapshot, increment])
def test_a_flipped_bit_is_found_or_changes_one_page_number_alone(make: Callable[[int], Stored]) -> None:
    """What a number hides is looked up in the frames around it: see test_damage.py."""
    stored, chosen = make(20_000), random.Random(5)
    right = stored.raw
    refused = 0
    for _ in range(300):
        place = chosen.randrange(len(right) - 100)
        damaged = bytearray(right)
        damaged[place] ^= 1 << chosen.randrange(8)
        stored.raw = bytes(damaged)
        index = stored.open(tail=1000)
        pgno = stored.whole.pgnos[place * len(stored.whole) // len(right)]
        for each in range(pgno, pgno + 3):
            try:
                near = index.near(each)
            except FileError as error:
                assert "page index" in str(error)  # noqa: PT017
                refused += 1
            else:
                where = near.place(each)
                if near.holds(each) and stored.whole.holds(each):
                    assert near.offset(where) == stored.whole.offset(stored.whole.place(each))
    assert refused > (500 if make is snapshot else 100)


def test_a_tail_that_does_not_end_where_the_index_begins_is_refused() -> None:
    stored = snapshot(20_000)
    stored.start += 1
    with pytest.raises(CorruptError, match="contradicts the file"):
        stored.open()


def test_a_snapshot_that_leaves_a_page_out_is_refused() -> None:
    numbers = np.arange(1, 20_002, dtype=np.uint64)
    stored = Stored(numbers[numbers != 5000], np.full(20_000, 1000, np.uint64), 4096)
    with pytest.raises(FileError, match="leaves pages out"):
        stored.open(tail=1000).near(5000)


def test_a_storage_that_answers_less_is_an_error() -> None:
    stored = snapshot(20_000)
    index = stored.open(tail=1000)
    stored.raw = stored.raw[:100]
    with pytest.raises(FileError, match="ends within its page index"):
        index.near(7000)
