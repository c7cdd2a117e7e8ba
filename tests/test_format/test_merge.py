"""Merging: what the files do one after the other, one file does at once."""

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from random import Random

import pytest
from hypothesis import given

from ltx.errors import ChecksumError, CorruptError, NonContiguousError
from ltx.format import NO_CHECKSUM, Decoder, merge
from tests.support.ltxfiles import FLAG, FileSpec, apply, block
from tests.support.strategies import chains, fewer


def page(text: str) -> bytes:
    return text.encode().ljust(512, b".")


def spec(pages: dict[int, str], txids: tuple[int, int], commit: int, **fields: int) -> FileSpec:
    low, high = txids
    content = {pgno: page(text) for pgno, text in pages.items()}
    return FileSpec(pages=content, commit=commit, min_txid=low, max_txid=high, **fields)  # type: ignore[arg-type]


def merged(*specs: FileSpec) -> bytes:
    return b"".join(merge([Decoder([spec.encode()]) for spec in specs]))


SNAPSHOT = spec({1: "a1", 2: "a2", 3: "a3"}, (1, 4), 3, timestamp_ms=5000)
CHANGE = spec({2: "b2"}, (5, 5), 3, timestamp_ms=6000, wal_offset=32, wal_salt1=7, node_id=9)
GROWTH = spec({1: "c1", 4: "c4", 5: "c5"}, (6, 8), 5, timestamp_ms=5500)
SHRINK = spec({1: "d1"}, (9, 9), 2)


@fewer(3)
@given(chains())
def test_a_merged_chain_is_the_file_that_its_pages_make(chain: tuple[FileSpec, ...]) -> None:
    latest = {pgno: page for spec in chain for pgno, page in spec.content}
    last = chain[-1]
    expected = FileSpec(
        pages={pgno: latest[pgno] for pgno in sorted(latest) if pgno <= last.page_count},
        page_size=last.page_size,
        commit=last.page_count,
        min_txid=chain[0].min_txid,
        max_txid=last.last_txid,
        timestamp_ms=last.timestamp_ms,
        flags=NO_CHECKSUM,
    )
    assert merged(*chain) == expected.encode()


@fewer(3)
@given(chains())
def test_a_merged_chain_gives_the_database_that_its_files_give(chain: tuple[FileSpec, ...]) -> None:
    base = {pgno: page(f"base {pgno}") for pgno in range(1, 12)} if chain[0].min_txid > 1 else {}
    base = {pgno: content for pgno, content in base.items() if pgno <= chain[0].page_count}
    decoder = Decoder([merged(*chain)])
    whole = replace(chain[-1], pages=tuple(decoder), min_txid=chain[0].min_txid, legacy=frozenset())
    assert apply(base, whole) == reduce(apply, chain, base)


@fewer(3)
@given(chains())
def test_merging_in_two_steps_is_merging_at_once(chain: tuple[FileSpec, ...]) -> None:
    half = len(chain) // 2
    if half:
        parts = [merged(*chain[:half]), merged(*chain[half:])]
        assert b"".join(merge([Decoder([part]) for part in parts])) == merged(*chain)


def test_one_file_is_merged_into_itself_without_its_wal_fields_and_checksums() -> None:
    one = replace(CHANGE, flags=0, pre_checksum=FLAG | 3, legacy=frozenset({2}))
    expected = spec({2: "b2"}, (5, 5), 3, timestamp_ms=6000)
    assert merged(one) == expected.encode()


def test_a_snapshot_and_increments_become_a_snapshot() -> None:
    expected = spec({1: "c1", 2: "b2", 3: "a3", 4: "c4", 5: "c5"}, (1, 8), 5, timestamp_ms=5500)
    assert merged(SNAPSHOT, CHANGE, GROWTH) == expected.encode()


def test_increments_become_an_increment() -> None:
    expected = spec({1: "c1", 2: "b2", 4: "c4", 5: "c5"}, (5, 8), 5, timestamp_ms=5500)
    assert merged(CHANGE, GROWTH) == expected.encode()


def test_pages_beyond_the_last_commit_are_dropped() -> None:
    assert merged(SNAPSHOT, CHANGE, GROWTH, SHRINK) == spec({1: "d1", 2: "b2"}, (1, 9), 2).encode()
    assert merged(GROWTH, SHRINK) == spec({1: "d1"}, (6, 9), 2).encode()


def test_files_may_overlap_as_long_as_each_goes_further() -> None:
    overlapping = spec({2: "o2", 3: "o3"}, (3, 6), 3)
    assert merged(SNAPSHOT, overlapping) == spec({1: "a1", 2: "o2", 3: "o3"}, (1, 6), 3).encode()
    second_snapshot = spec({1: "s1", 2: "s2"}, (1, 7), 2)
    assert merged(SNAPSHOT, second_snapshot) == spec({1: "s1", 2: "s2"}, (1, 7), 2).encode()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 4), (6, 6)),
        ((1, 4), (4, 4)),
        ((1, 4), (2, 3)),
        ((1, 4), (1, 4)),
        ((5, 8), (1, 8)),
        ((5, 8), (2, 4)),
    ],
)
def test_files_that_do_not_follow_each_other_are_refused(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    pair = [spec({1: "x"}, first, 1), spec({1: "y"}, second, 1)]
    with pytest.raises(NonContiguousError) as caught:
        merged(*pair)
    assert (caught.value.after, caught.value.before) == (first[1], second[0])


def test_the_second_pair_of_three_must_follow_too() -> None:
    with pytest.raises(NonContiguousError) as caught:
        merged(SNAPSHOT, CHANGE, spec({1: "x"}, (7, 7), 1))
    assert (caught.value.after, caught.value.before) == (5, 7)


def test_files_of_different_page_sizes_are_refused() -> None:
    other = FileSpec(pages={1: bytes(1024)}, page_size=1024, min_txid=5)
    with pytest.raises(ValueError, match="512, 1024"):
        merged(SNAPSHOT, other)


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


def test_a_chain_that_ends_in_a_deletion_is_refused() -> None:
    deletion = FileSpec(commit=0, min_txid=5, flags=0, pre_checksum=FLAG | 9, post_checksum=FLAG)
    with pytest.raises(ValueError, match="deleted"):
        merged(SNAPSHOT, deletion)


def test_a_growing_file_without_its_new_pages_is_refused_where_it_would_leave_a_hole() -> None:
    hole = spec({1: "x", 5: "y"}, (5, 5), 5)
    with pytest.raises(CorruptError, match="page 5 follows page 3"):
        merged(SNAPSHOT, hole)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_damage_in_any_file_is_found_even_in_pages_that_are_not_kept(place: int) -> None:
    chain = [SNAPSHOT, spec({1: "n1", 2: "n2", 3: "n3"}, (5, 5), 3), spec({1: "o1"}, (6, 6), 1)]
    chain[place] = replace(chain[place], file_checksum=FLAG | 1)
    with pytest.raises(ChecksumError):
        merged(*chain)


def test_a_page_that_another_file_replaces_is_still_verified() -> None:
    wrong = replace(SNAPSHOT, payloads={2: block(page("not a2"))}, file_checksum=None)
    with pytest.raises(ChecksumError):
        merged(wrong, CHANGE)


def test_all_files_are_read_side_by_side_and_no_further_than_needed() -> None:
    taken = [0, 0]

    def pieces(place: int, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 200):
            taken[place] += 1
            yield data[start : start + 200]

    noise = Random(5)
    one = FileSpec(pages={pgno: noise.randbytes(65536) for pgno in range(1, 49)}, page_size=65536)
    two = FileSpec(pages={1: noise.randbytes(65536)}, page_size=65536, commit=48, min_txid=2)
    stream = iter(merge([Decoder(pieces(place, spec.encode())) for place, spec in enumerate((one, two))]))
    next(stream)
    assert taken == [1, 1]
    first_frames = next(stream)
    assert len(first_frames) <= taken[0] * 200 < len(first_frames) + 3 * 65536
