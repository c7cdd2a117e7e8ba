"""A database of 107 GB: what a query on it costs has to do with what it reads, not with the database."""

import itertools
import random
import tracemalloc
from array import array
from sys import getsizeof

import pytest

import vfs
from backends import open_backend
from ltx import TXID
from ltx.format import Encoder, Header, file_name
from ltx.format.index import PageIndex
from tests.test_vfs import sparse
from tests.test_vfs.origin import number, rows, seen
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, Source, open_source

_names = itertools.count(1)


@pytest.fixture
def url() -> str:
    """A place of its own for each test."""
    return f"sparse://huge-{next(_names)}"


def put_increments(url: str, rows_of_each: int) -> dict[int, str]:
    """Put 20 increments behind the snapshot, each of which changes some rows in clusters, and say which it changed."""
    backend, chosen = open_backend(url), random.Random(7)
    changed: dict[int, str] = {}
    for txid in sparse.INCREMENTS:
        firsts = [chosen.randrange(1, sparse.LEAVES - 50) for _ in range(max(1, rows_of_each // 50))]
        some = sorted({row for first in firsts for row in range(first, first + min(50, rows_of_each))})
        pages = [(sparse.leaf_pgno(row), sparse.leaf(row, f"new {txid} {row}")) for row in some]
        changed.update((row, f"new {txid} {row}") for row in some)
        header = Header(
            page_size=sparse.PAGE_SIZE,
            commit=sparse.COMMIT,
            min_txid=TXID(txid),
            max_txid=TXID(txid),
            timestamp_ms=1_700_000_000_000 + txid,
        )
        backend.put(f"ltx/0/{file_name(TXID(txid), TXID(txid))}", b"".join(Encoder(header, iter(pages))))
    return changed


def source_of(url: str) -> Source:
    return open_source(url, DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {})


def test_a_first_row_costs_some_kilobytes_and_round_trips(url: str) -> None:
    kept = source_of(url)
    db = vfs.connect(url, poll_interval=3600)
    assert rows(db, "SELECT a FROM t WHERE id = 17654321") == [("row 17654321",)]
    stats = kept.replica.backend.stats
    assert stats.requests["list"] == 1
    assert stats.requests["get"] <= 16, "two to open, five pages, and two or three reads to find each"
    assert stats.received < 150_000
    for row in (1, 2, 262_000, 5_000_000, sparse.LEAVES):
        assert rows(db, f"SELECT a FROM t WHERE id = {row}") == [(f"row {row}",)]
    assert stats.requests["get"] <= 16 + 5 * 8


@pytest.mark.parametrize("rows_of_each", [10, 50, 2500])
def test_a_first_row_costs_less_than_a_megabyte_with_twenty_files_behind_the_snapshot(
    rows_of_each: int, url: str
) -> None:
    """Small ones are read whole; of bigger ones, whose indexes have some ten kilobytes, the ends are read."""
    changed = put_increments(url, rows_of_each)
    kept = source_of(url)
    db = vfs.connect(url, poll_interval=3600)
    assert rows(db, "SELECT a FROM t WHERE id = 17654321") == [("row 17654321",)]
    assert kept.replica.backend.stats.received < 1 << 20
    assert seen(db) == 21
    for row in random.Random(1).sample(sorted(changed), 5):
        assert rows(db, f"SELECT a FROM t WHERE id = {row}") == [(changed[row],)]
        assert rows(db, f"SELECT a FROM t WHERE id = {row + 60}") == [
            (changed.get(row + 60, f"row {row + 60}"),)
        ]


def test_a_range_of_rows_reads_its_index_in_growing_pieces(url: str) -> None:
    kept = source_of(url)
    db = vfs.connect(url, poll_interval=3600)
    first, count = 4_000_000, 6000
    wanted = sum(range(first, first + count))
    assert number(db, f"SELECT sum(id) FROM t WHERE id >= {first} AND id < {first + count}") == wanted
    stats = kept.replica.backend.stats
    assert stats.received < count * 1500 * 1.25 + 300_000, "a quarter is read ahead of what may end anywhere"
    assert stats.requests["get"] < 110


def test_memory_does_not_grow_with_the_database(url: str) -> None:
    tracemalloc.start()
    try:
        db = vfs.connect(url, poll_interval=3600)
        assert rows(db, "SELECT a FROM t WHERE id = 9999999") == [("row 9999999",)]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("frame_size", "bytes_of_entry"), [(1000, 8), (30_000, 12)])
def test_an_index_that_is_held_takes_at_most_twelve_bytes_a_page(
    frame_size: int, bytes_of_entry: int
) -> None:
    count = 200_000
    offsets = array("Q", range(100, 100 + count * frame_size, frame_size))
    index = PageIndex.of(array("I", range(1, count + 1)), offsets, 100 + count * frame_size)
    held = (index.pgnos, index.offsets)
    assert sum(getsizeof(each) for each in held) < bytes_of_entry * count + 1000
    assert index.offsets.tolist() == offsets.tolist()
    assert set(index.sizes) == {frame_size}
