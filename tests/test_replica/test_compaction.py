"""Merging a level into the next: what goes in, what comes out, and that every state stays what it was."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backends.memory import MemoryBackend
from ltx import CorruptError, GapError, NoSnapshotError, Replica
from ltx.format import Decoder
from ltx.replica.compaction import Compacted, compact
from ltx.replica.levels import LevelPolicy
from tests.support.ltxfiles import FileSpec
from tests.test_replica.histories import PAGE_SIZE, History, store, time_of
from tests.test_replica.upkeep import SECOND, at, checked, merged, put_timed

HISTORY = History.random(24, seed=3)
HOUR = LevelPolicy((timedelta(hours=1),))
"""All of a history lies within one interval of level 1."""


def ranges(made: Sequence[Compacted]) -> list[tuple[int, int, int]]:
    return [(each.file.level, each.file.min_txid, each.file.max_txid) for each in made]


def test_a_level_gets_one_file_of_all_that_it_lacks(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    [made] = compact(replica, 1, policy=HOUR)
    assert ranges([made]) == [(1, 1, 24)]
    assert made.is_new
    assert made.time == time_of(24)
    assert [file.max_txid for file in made.inputs] == list(range(1, 25))
    oracle, decoder = HISTORY.file(1, 24), Decoder([backend.get(made.file.key)])
    assert dict(decoder) == dict(oracle.content)
    assert decoder.header.timestamp == time_of(24)
    assert decoder.header.wal_offset == 0
    assert made.page_count == decoder.page_count
    assert made.file.size == backend.head(made.file.key).size
    assert backend.head(made.file.key).timestamp_ms == decoder.header.timestamp_ms
    assert checked(replica, HISTORY, tmp_path) == list(range(1, 25))


def test_it_goes_on_behind_its_newest_file_and_ends_when_there_is_nothing(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    for first in range(1, 25, 6):
        HISTORY.put(backend, *(f"0:{txid}" for txid in range(first, first + 6)))
        assert ranges(compact(replica, 1, policy=HOUR)) == [(1, first, first + 5)]
        assert compact(replica, 1, policy=HOUR) == []
    assert ranges(compact(replica, 2)) == [(2, 1, 24)]
    assert compact(replica, 2) == []
    assert compact(replica, 3) == []
    assert replica.verify().is_sound
    assert checked(replica, HISTORY, tmp_path) == list(range(1, 25))


def test_nothing_comes_of_nothing(replica: Replica) -> None:
    assert [compact(replica, level) for level in range(1, 9)] == [[]] * 8


@pytest.mark.parametrize("level", [-1, 0, 9, 10])
def test_only_levels_1_to_8_are_merged(replica: Replica, level: int) -> None:
    with pytest.raises(ValueError, match="levels 1 to 8"):
        compact(replica, level)


def test_level_1_takes_a_single_file_and_higher_levels_wait_for_a_second(
    backend: MemoryBackend, replica: Replica
) -> None:
    HISTORY.put(backend, "0:1")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 1, 1)]
    assert compact(replica, 2) == []
    HISTORY.put(backend, "0:2")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 2, 2)]
    assert ranges(compact(replica, 2)) == [(2, 1, 2)]
    assert compact(replica, 3) == []


def test_a_first_file_that_is_a_snapshot_too_is_not_copied_to_every_level(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "0:1", "9:1-1")
    assert compact(replica, 1) == []
    HISTORY.put(backend, "0:2", "0:3")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 2, 3)]
    backend.delete([f"ltx/0/{1:016x}-{1:016x}.ltx"])
    assert checked(replica, HISTORY, tmp_path) == [1, 2, 3]


def test_each_interval_of_level_1_gets_a_file_however_late_they_are_merged(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    put_timed(backend, HISTORY, {1: 1, 2: 29, 3: 30, 4: 59.999, 5: 60, 6: 600, 7: 3600, 8: 3601})
    made = compact(replica, 1)
    assert ranges(made) == [(1, 1, 2), (1, 3, 4), (1, 5, 5), (1, 6, 6), (1, 7, 8)]
    assert [each.time for each in made] == [at(29), at(59.999), at(60), at(600), at(3601)]
    assert ranges(compact(replica, 2)) == [(2, 1, 8)]
    assert checked(replica, HISTORY, tmp_path) == list(range(1, 9))


def test_what_is_committed_in_the_current_interval_can_be_left_for_the_next_run(
    backend: MemoryBackend, replica: Replica
) -> None:
    put_timed(backend, HISTORY, {1: 1, 2: 29, 3: 31, 4: 40})
    assert ranges(compact(replica, 1, before=at(30))) == [(1, 1, 2)]
    assert compact(replica, 1, before=at(30)) == []
    assert ranges(compact(replica, 1, before=at(60))) == [(1, 3, 4)]


def test_clocks_that_jump_neither_stop_merges_nor_part_what_cannot_be_told_apart(
    backend: MemoryBackend, replica: Replica
) -> None:
    put_timed(backend, HISTORY, {1: 1, 2: 10**7, 3: 40, 4: 5, 5: 45, 6: 70})
    made = compact(replica, 1, now=at(100), before=at(90))
    assert ranges(made) == [(1, 1, 2), (1, 3, 5), (1, 6, 6)]


def test_a_file_that_begins_below_and_ends_above_is_not_lost(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "1:1-3", "0:2-5", "0:6")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 4, 6)]
    backend.delete([file.key for file in replica.files(0)])
    assert checked(replica, HISTORY, tmp_path) == [3, 6]


def test_overlapping_files_are_merged_into_files_that_do_not_overlap(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "1:1-3", "1:2-6", "1:4-5", "1:5-9", "9:1-2")
    assert ranges(compact(replica, 2)) == [(2, 1, 9)]
    HISTORY.put(backend, "1:8-12", "1:12-14")
    assert ranges(compact(replica, 2)) == [(2, 10, 14)]
    assert checked(replica, HISTORY, tmp_path) == [2, 3, 5, 6, 9, 12, 14]


def test_only_what_follows_without_a_gap_is_merged(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:4", "0:5")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 1, 2)]
    with pytest.raises(GapError) as caught:
        compact(replica, 1, policy=HOUR)
    assert (caught.value.after, caught.value.before) == (2, 4)
    HISTORY.put(backend, "0:3")  # the listing did not show it yet
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 3, 5)]
    assert checked(replica, HISTORY, tmp_path) == [1, 2, 3, 4, 5]


def test_behind_a_gap_it_goes_on_where_other_files_lead_across(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "1:1-2", "9:1-4", "0:5", "0:6")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 5, 6)]
    HISTORY.put(backend, "0:9", "0:10", "3:6-8")
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 9, 10)]
    assert checked(replica, HISTORY, tmp_path) == [2, 4, 5, 6, 8, 9, 10]


def test_a_single_file_before_a_gap_stays_alone_and_keeps_nothing_waiting(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "1:2-3", "9:1-6", "1:6-7", "1:8-9")
    assert ranges(compact(replica, 2)) == [(2, 6, 9)]
    HISTORY.put(backend, "0:1", "0:15", "9:1-1", "9:1-14")
    assert ranges(compact(replica, 1)) == [(1, 15, 15)]
    assert checked(replica, HISTORY, tmp_path) == [1, 3, 6, 7, 9, 14, 15]


def test_a_beginning_that_is_missing_is_an_error(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:2", "0:3")
    with pytest.raises(NoSnapshotError, match="0000000000000001"):
        compact(replica, 1)
    assert merged(replica, 1) == []


def test_a_new_page_size_begins_a_new_file(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    big = FileSpec(pages={1: bytes(1024), 2: bytes(1024)}, page_size=1024, commit=2)
    times = replace(big, min_txid=3, timestamp_ms=HISTORY.specs[2].timestamp_ms)
    store(backend, 0, times)
    store(backend, 0, replace(times, min_txid=4))
    assert ranges(compact(replica, 1, policy=HOUR)) == [(1, 1, 2), (1, 3, 4)]
    assert ranges(compact(replica, 2)) == [(2, 1, 2)]
    store(backend, 1, replace(times, min_txid=5))
    assert ranges(compact(replica, 2)) == [(2, 3, 5)]


def test_a_file_that_lacks_new_pages_is_not_hidden_in_a_merged_one(
    backend: MemoryBackend, replica: Replica
) -> None:
    page = bytes(PAGE_SIZE)
    store(backend, 0, FileSpec(pages=dict.fromkeys(range(1, 10), page), commit=9))
    store(backend, 0, FileSpec(pages={1: page}, commit=2, min_txid=2))
    store(backend, 0, FileSpec(pages={1: page, 9: page}, commit=9, min_txid=3))
    with pytest.raises(CorruptError, match=r"0003\.ltx is damaged.* grows from 2 to 9 pages, of which 6"):
        compact(replica, 1)
    assert merged(replica, 1) == []


def test_a_file_that_deletes_the_database_is_refused(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1")
    store(backend, 0, FileSpec(pages={}, commit=0, min_txid=2, flags=0, pre_checksum=1 << 63))
    with pytest.raises(CorruptError, match="database was deleted"):
        compact(replica, 1)


@pytest.mark.parametrize("most_open", [2, 3, 7])
@pytest.mark.parametrize("first_size", [1, 1 << 18])
def test_merging_in_rounds_gives_the_same_file(
    backend: MemoryBackend,
    replica: Replica,
    monkeypatch: pytest.MonkeyPatch,
    most_open: int,
    first_size: int,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("ltx.replica.merging.MOST_OPEN", most_open)
    monkeypatch.setattr("ltx.replica.merging.FIRST_SIZE", first_size)
    monkeypatch.setattr("ltx.replica.merging._PIECE_SIZE", 100)
    HISTORY.put_all(backend)
    [made] = compact(replica, 1, policy=HOUR, folder=tmp_path)
    assert dict(Decoder([backend.get(made.file.key)])) == dict(HISTORY.file(1, 24).content)
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_level_1_counts_from_1970_in_any_interval(
    backend: MemoryBackend, replica: Replica
) -> None:
    HISTORY.put_all(backend)
    made = compact(replica, 1, policy=LevelPolicy((7 * SECOND,)))
    windows = [int(time_of(txid).timestamp()) // 7 for txid in range(1, 25)]
    assert [(each.file.min_txid, each.file.max_txid) for each in made] == [
        (windows.index(number) + 1, 24 - windows[::-1].index(number)) for number in sorted(set(windows))
    ]
