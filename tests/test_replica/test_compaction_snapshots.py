"""Snapshots made from the replica's own files."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.memory import MemoryBackend
from ltx import CorruptError, GapError, NoSnapshotError, Replica
from ltx.format import Decoder
from ltx.replica.compaction import snapshot
from tests.support.ltxfiles import FileSpec
from tests.test_replica.histories import History, store, time_of
from tests.test_replica.upkeep import Stepping, checked, merged

HISTORY = History.random(12, seed=8)


@pytest.mark.parametrize(
    "places",
    [
        ("0:1", "0:2", "0:3", "0:4", "0:5"),
        ("1:1-3", "0:4", "0:5"),
        ("9:1-2", "1:1-3", "2:2-4", "0:5"),
        ("9:1-1", "9:1-4", "0:5"),
        ("3:1-5",),
    ],
    ids=" ".join,
)
def test_a_snapshot_has_every_page_and_the_time_of_its_last_transaction(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, places: tuple[str, ...]
) -> None:
    HISTORY.put(backend, *places)
    before = checked(replica, HISTORY, tmp_path)
    made = snapshot(replica)
    assert made
    assert (made.file.level, made.file.min_txid, made.file.max_txid) == (9, 1, 5)
    assert made.time == time_of(5)
    decoder = Decoder([backend.get(made.file.key)])
    assert b"".join(page for _, page in decoder) == HISTORY.state(5)
    assert checked(replica, HISTORY, tmp_path) == before
    backend.delete([file.key for file in replica.files() if file.level != 9])
    assert checked(replica, HISTORY, tmp_path)[-1] == 5
    assert snapshot(replica) is None


def test_nothing_is_made_that_would_lie_there_for_the_third_time(
    backend: MemoryBackend, replica: Replica
) -> None:
    HISTORY.put(backend, "0:1", "1:1")
    assert snapshot(replica) is None
    HISTORY.put(backend, "9:1-1")
    assert snapshot(replica) is None
    HISTORY.put(backend, "0:2")
    assert snapshot(replica)
    assert merged(replica, 9) == [(1, 1), (1, 2)]


def test_what_cannot_be_restored_gives_no_snapshot(backend: MemoryBackend, replica: Replica) -> None:
    with pytest.raises(NoSnapshotError):
        snapshot(replica)
    HISTORY.put(backend, "0:1", "0:2", "0:4")
    with pytest.raises(GapError):
        snapshot(replica)
    assert merged(replica, 9) == []


def test_damage_is_planned_around_and_else_an_error(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3", "1:1-3")
    backend.put(f"ltx/1/{1:016x}-{3:016x}.ltx", HISTORY.file(1, 3).encode()[:-1])
    made = snapshot(replica)
    assert made
    assert [file.level for file in made.inputs] == [0, 0, 0]
    HISTORY.put(backend, "0:4")
    backend.put(f"ltx/0/{4:016x}-{4:016x}.ltx", b"?")
    with pytest.raises(CorruptError, match="0004"):
        snapshot(replica)
    assert merged(replica, 9) == [(1, 3)]


def test_pages_of_two_sizes_are_not_mixed(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1")
    store(backend, 0, FileSpec(pages={1: bytes(1024)}, page_size=1024, commit=1, min_txid=2))
    with pytest.raises(CorruptError, match="pages of 1024 bytes after pages of 512"):
        snapshot(replica)


def test_a_snapshot_goes_on_when_its_files_are_pruned_and_replaced(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    done: list[str] = []

    def before(verb: str, key: str) -> None:
        if verb == "get" and not done:
            done.append(key)
            HISTORY.put(backend, "0:4", "1:1-4")
            backend.delete([f"ltx/0/{txid:016x}-{txid:016x}.ltx" for txid in (1, 2, 3)])

    made = snapshot(Replica(Stepping(backend, before)))
    assert made
    assert made.file.max_txid == 4
    assert checked(Replica(backend), HISTORY, tmp_path) == [4]


def test_an_equal_snapshot_of_another_time_is_as_good(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    files = replica.files()
    store(backend, 9, replace(HISTORY.file(1, 2), timestamp_ms=99))
    made = snapshot(replica, files=files)
    assert made
    assert not made.is_new


def test_it_costs_a_request_for_each_file_and_two(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "9:1-2", "1:3-6", "0:7", "0:8")
    puts = backend.stats.requests["put"]
    snapshot(replica)
    requests = backend.stats.requests
    assert (requests["list"], requests["get"], requests["put"] - puts) == (1, 4, 1)
