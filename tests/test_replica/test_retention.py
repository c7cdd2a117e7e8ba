"""What goes, what stays, and that nothing goes before what replaces it was read."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.memory import MemoryBackend
from ltx import NotReachableError, Replica
from ltx.format import to_timestamp_ms
from ltx.replica.compaction import compact, snapshot
from ltx.replica.levels import LevelPolicy
from ltx.replica.retention import Retained, RetentionPolicy, Verified, restorable, retain
from tests.test_replica.histories import History, store
from tests.test_replica.upkeep import Killed, Stepping, at, checked, copy_of, txids

HISTORY = History.random(40, seed=11)
MINUTE = timedelta(minutes=1)
POLICY = RetentionPolicy(window=10 * MINUTE, level0=MINUTE, grace=timedelta(0))


def names(files: Sequence[object]) -> list[str]:
    return [f"{file.level}:{file.min_txid}-{file.max_txid}" for file in files]  # type: ignore[attr-defined]


def gone(done: Retained) -> list[str]:
    return names([deleted.file for deleted in done.deleted])


def put(backend: MemoryBackend, *places: str) -> None:
    """Store files of a history with a transaction a minute: `1:3-7`."""
    for place in places:
        level, _, ends = place.partition(":")
        first, _, last = ends.partition("-")
        spec = HISTORY.file(int(first), int(last or first))
        store(backend, int(level), replace(spec, timestamp_ms=to_timestamp_ms(at(60 * spec.last_txid))))


def minutes(count: float) -> timedelta:
    return count * MINUTE


def test_the_defaults_are_those_of_the_real_litestream_and_some_grace() -> None:
    assert RetentionPolicy().kept_for == timedelta(hours=24, minutes=10)
    assert RetentionPolicy().level0 == timedelta(minutes=5)
    assert RetentionPolicy(window=timedelta(seconds=20), level0=None).kept_for == timedelta(seconds=22)
    assert RetentionPolicy(window=None).kept_for is None
    with pytest.raises(ValueError, match="future"):
        RetentionPolicy(window=timedelta(-1))


def test_level_0_goes_when_it_is_old_and_level_1_has_it(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    put(backend, *(f"0:{txid}" for txid in range(1, 13)), "1:1-4", "1:5-8")
    done = retain(replica, POLICY, now=at(7 * 60))
    assert gone(done) == [f"0:{txid}-{txid}" for txid in range(1, 5)]
    assert {deleted.covered_by.max_txid for deleted in done.deleted} == {4}
    assert (done.states_before, done.state_count) == (12, 9)
    assert checked(replica, HISTORY, tmp_path) == list(range(4, 13))
    assert gone(retain(replica, POLICY, now=at(8.9 * 60))) == []
    assert gone(retain(replica, POLICY, now=at(9 * 60))) == [f"0:{txid}-{txid}" for txid in range(5, 9)]
    assert checked(replica, HISTORY, tmp_path) == [4, 8, 9, 10, 11, 12]


def test_level_0_stays_for_its_time_after_it_was_merged_however_old_it_is(
    backend: MemoryBackend, replica: Replica
) -> None:
    """After a network was away for long, all is uploaded and merged at once; readers are at states of level 0."""
    put(backend, "0:1", "0:2", "0:3", "1:1-2")
    merged = datetime.now(UTC)
    assert gone(retain(replica, POLICY, now=merged + minutes(0.9))) == []
    assert gone(retain(replica, POLICY, now=merged + minutes(1.1))) == ["0:1-1", "0:2-2"]


def test_what_a_storage_says_of_the_future_keeps_nothing(backend: MemoryBackend, replica: Replica) -> None:
    put(backend, "0:1", "0:2", "0:3", "1:1-2")
    assert gone(retain(replica, POLICY, now=datetime.now(UTC) - minutes(6))) == ["0:1-1", "0:2-2"]


def test_the_newest_file_of_each_level_stays(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    put(backend, "0:1", "0:2", "0:3", "1:1-2", "1:3", "2:1-2", "2:3", "9:1-2", "9:1-3")
    done = retain(replica, POLICY, now=at(10**7))
    assert names(done.kept) == ["0:3-3", "1:3-3", "2:3-3", "9:1-3"]
    assert checked(replica, HISTORY, tmp_path) == [3]
    assert replica.verify().is_sound


def test_without_level_1_and_snapshots_nothing_goes(backend: MemoryBackend, replica: Replica) -> None:
    put(backend, "0:1", "0:2", "0:3")
    assert gone(retain(replica, POLICY, now=at(10**7))) == []
    assert gone(retain(Replica(MemoryBackend("empty")), POLICY)) == []


def test_a_hole_in_level_1_keeps_the_files_that_it_lacks(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    """The real Litestream deletes everything up to the newest TXID of level 1."""
    put(backend, *(f"0:{txid}" for txid in range(1, 8)), "1:1-2", "1:5-6")
    assert gone(retain(replica, POLICY, now=at(10**7))) == ["0:1-1", "0:2-2", "0:5-5", "0:6-6"]
    assert checked(replica, HISTORY, tmp_path) == [2, 3, 4, 6, 7]


def test_the_newest_snapshot_from_before_the_window_stays_and_what_is_older_goes(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    levels = [f"1:{first}-{first + 4}" for first in range(1, 40, 5)]
    put(backend, *levels, "2:1-15", "2:16-30", "9:1-5", "9:1-10", "9:1-20", "9:1-30", "0:40")
    done = retain(replica, POLICY, now=at(60 * 31))  # the window begins at TXID 21
    assert gone(done) == ["1:1-5", "1:6-10", "1:11-15", "1:16-20", "2:1-15", "9:1-5", "9:1-10"]
    assert {deleted.covered_by.max_txid for deleted in done.deleted} == {20}
    assert checked(replica, HISTORY, tmp_path) == [20, 25, 30, 35, 40]


def test_grace_keeps_what_a_restore_of_the_oldest_moment_may_be_reading(
    backend: MemoryBackend, replica: Replica
) -> None:
    put(backend, "9:1-5", "9:1-10", "9:1-20", "0:21")
    kind = replace(POLICY, grace=minutes(3))
    assert gone(retain(replica, kind, now=at(60 * 22.9))) == []
    assert gone(retain(replica, kind, now=at(60 * 23))) == ["9:1-5"]
    assert gone(retain(replica, kind, now=at(60 * 32.9))) == []
    assert gone(retain(replica, kind, now=at(60 * 33))) == ["9:1-10"]


def test_with_an_interval_equal_to_the_retention_the_window_never_collapses(
    backend: MemoryBackend, replica: Replica
) -> None:
    """The real Litestream's goes down to nothing at each snapshot."""
    for minute in range(1, 40):
        put(backend, f"0:{minute}")
        now = at(60 * minute)
        compact(replica, 1, policy=LevelPolicy((MINUTE,)), now=now)
        if minute % 10 == 0:
            snapshot(replica)
        retain(replica, POLICY, now=now)
        ends = restorable(replica, replica.files())
        assert ends
        assert ends[0].txid <= max(1, minute - 10)
        assert all(txid in txids(replica) for txid in range(max(1, minute - 10), minute + 1))
    assert len(replica.files()) < 32


def test_a_snapshot_of_the_future_says_nothing_and_one_set_back_keeps_more(
    backend: MemoryBackend, replica: Replica
) -> None:
    for txid, minute in ((5, 5), (10, 10**6), (15, 15), (20, 33), (25, 12)):
        spec = HISTORY.file(1, txid)
        store(backend, 9, replace(spec, timestamp_ms=to_timestamp_ms(at(60 * minute))))
    put(backend, "0:26")
    assert gone(retain(replica, POLICY, now=at(60 * 30))) == ["9:1-5", "9:1-10"]
    assert gone(retain(replica, POLICY, now=at(60 * 51))) == ["9:1-15", "9:1-20"]


def test_nothing_can_be_kept_for_ever(backend: MemoryBackend, replica: Replica) -> None:
    put(backend, *(f"0:{txid}" for txid in range(1, 7)), "1:1-3", "9:1-3", "9:1-5")
    assert gone(retain(replica, RetentionPolicy(None, None), now=at(10**7))) == []
    assert gone(retain(replica, replace(POLICY, window=None), now=at(10**7))) == ["0:1-1", "0:2-2", "0:3-3"]
    assert gone(retain(replica, replace(POLICY, level0=None), now=at(10**7))) == ["0:4-4", "0:5-5", "9:1-3"]


def test_a_whole_first_file_goes_when_the_equal_snapshot_is_sound(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    put(backend, "0:1", "0:2", "0:3", "9:1-1", "1:2-3")
    assert gone(retain(replica, POLICY, now=at(240))) == ["0:1-1", "0:2-2"]
    assert checked(replica, HISTORY, tmp_path) == [1, 3]


def test_what_a_damaged_file_should_replace_stays_and_the_rest_goes(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    put(backend, *(f"0:{txid}" for txid in range(1, 8)), "1:1-2", "1:3-4", "1:5-6")
    key = f"ltx/1/{3:016x}-{4:016x}.ltx"
    data = bytearray(backend.get(key))
    data[150] ^= 1
    backend.put(key, data)
    done = retain(replica, POLICY, now=at(10**7))
    assert gone(done) == ["0:1-1", "0:2-2", "0:5-5", "0:6-6"]
    assert [fault.file.key for fault in done.faults] == [key]
    output = tmp_path / "4.db"
    assert replica.restore(output, txid=4).passed_over == (key,)
    assert output.read_bytes() == HISTORY.state(4)


def test_a_damaged_snapshot_is_no_base_and_an_older_sound_one_is(
    backend: MemoryBackend, replica: Replica
) -> None:
    put(backend, "9:1-5", "9:1-10", "9:1-20", "9:1-25", "1:26-30", "0:31")
    for txid, size in ((20, 700), (25, 50)):
        key = f"ltx/9/{1:016x}-{txid:016x}.ltx"
        backend.put(key, backend.get(key)[:size])
    done = retain(replica, POLICY, now=at(10**7))
    assert gone(done) == ["9:1-5"]
    assert [fault.file.max_txid for fault in done.faults] == [25, 20]
    assert "has 100 bytes, here are 50" in done.faults[0].text


def test_a_merged_file_whose_header_is_damaged_replaces_nothing_and_keeps_nothing_else(
    backend: MemoryBackend, replica: Replica
) -> None:
    put(backend, *(f"0:{txid}" for txid in range(1, 11)), "1:1-2", "1:3-4", "1:5-6", "1:7-8")
    backend.put(f"ltx/1/{5:016x}-{6:016x}.ltx", b"?")
    done = retain(replica, POLICY, now=at(60 * 9))
    assert gone(done) == [f"0:{txid}-{txid}" for txid in (1, 2, 3, 4, 7, 8)]
    assert [fault.file.max_txid for fault in done.faults] == [6]


def test_a_damaged_file_of_level_0_goes_like_any_other(backend: MemoryBackend, replica: Replica) -> None:
    put(backend, "0:1", "0:2", "0:3", "1:1-2")
    backend.put(f"ltx/0/{1:016x}-{1:016x}.ltx", b"?")
    assert gone(retain(replica, POLICY, now=at(10**7))) == ["0:1-1", "0:2-2"]


def test_a_dry_run_deletes_nothing_reads_headers_and_says_the_same(
    backend: MemoryBackend, replica: Replica
) -> None:
    put(
        backend,
        *(f"0:{txid}" for txid in range(1, 30)),
        *(f"1:{txid}-{txid + 4}" for txid in range(1, 30, 5)),
    )
    put(backend, "9:1-5", "9:1-15")
    files = replica.files()
    received = backend.stats.received
    would = retain(replica, POLICY, now=at(60 * 28), dry_run=True)
    assert backend.stats.received - received <= 100 * 20
    assert replica.files() == files
    did = retain(replica, POLICY, now=at(60 * 28))
    assert did == would
    assert names(replica.files()) == names(did.kept)
    assert set(gone(did)).isdisjoint(names(did.kept))
    assert did.size == sum(file.size for file in files) - sum(file.size for file in did.kept)


def test_each_file_that_replaces_others_is_read_once_by_whoever_remembers(
    backend: MemoryBackend, replica: Replica
) -> None:
    put(backend, *(f"0:{txid}" for txid in range(1, 9)), "1:1-2", "1:3-4", "1:5-6")
    key = f"ltx/1/{3:016x}-{4:016x}.ltx"
    backend.put(key, bytes(500), timestamp_ms=to_timestamp_ms(at(240)))
    _date_as_uploaded(backend)
    verified, keys = Verified(), list[str]()
    stepping = Replica(Stepping(backend, lambda verb, key: keys.append(key) if verb == "get" else None))
    for minute in range(8, 12):
        done = retain(stepping, POLICY, now=at(60 * minute), verified=verified)
        assert len(done.faults) == 1
    assert keys.count(key) == 4  # whole in the first run, its header in the others
    assert len(retain(stepping, POLICY, now=at(60 * 12)).faults) == 1
    assert keys.count(key) == 5  # the first fault is found in its header or at its end


@pytest.mark.parametrize("dated", [True, False])
def test_a_run_beside_many_files_costs_few_requests(
    backend: MemoryBackend, replica: Replica, dated: bool
) -> None:
    """The storage's own times, where they are right, make it one header; else it is a search."""
    spec = HISTORY.specs[1]
    store(backend, 0, HISTORY.specs[0])
    for txid in range(2, 1000):
        timed = replace(spec, min_txid=txid, timestamp_ms=to_timestamp_ms(at(txid)))
        store(backend, 0, timed)
    compact(replica, 1, policy=LevelPolicy((timedelta(seconds=2),)))
    if dated:
        _date_as_uploaded(backend)
    before = backend.stats.requests
    done = retain(replica, POLICY, now=at(561))
    after = backend.stats.requests
    assert len(done.deleted) in (499, 501)
    read_back = len({deleted.covered_by for deleted in done.deleted})
    headers = after["get"] - before["get"] - read_back
    assert headers == 1 if dated else headers < 30
    assert (after["list"] - before["list"], after["delete"] - before["delete"]) == (1, 1)


def _date_as_uploaded(backend: MemoryBackend) -> None:
    """Let the storage say that it got each file 200 ms after its last transaction."""
    for key, stored in list(backend._store.objects.items()):
        milliseconds = timedelta(milliseconds=(stored.info.timestamp_ms or 0) + 200)
        info = replace(stored.info, modified=datetime(1970, 1, 1, tzinfo=UTC) + milliseconds)
        backend._store.objects[key] = replace(stored, info=info)


def test_killed_before_any_call_every_state_of_the_window_stays(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    put(
        backend,
        *(f"0:{txid}" for txid in range(14, 24)),
        *(f"1:{txid}-{txid + 2}" for txid in range(1, 20, 3)),
    )
    put(backend, "2:1-6", "2:7-12", "9:1-5", "9:1-9", "9:1-12")
    now, calls = at(60 * 23), list[str]()
    retain(
        Replica(Stepping(copy_of(backend, "killed"), lambda *call: calls.append(call[0]))), POLICY, now=now
    )
    final = names(Replica(MemoryBackend("killed")).files())
    kept = txids(Replica(MemoryBackend("killed")))
    assert calls.count("delete") > 10
    for place in range(len(calls)):
        copy = copy_of(backend, "killed")
        with pytest.raises(Killed):
            retain(Replica(Stepping.killed_after(copy, place)), POLICY, now=now)
        assert set(kept) <= set(checked(Replica(copy), HISTORY, tmp_path))
        retain(Replica(copy), POLICY, now=now)
        assert names(Replica(copy).files()) == final


def test_it_may_run_at_any_moment_of_another_run_a_merge_or_a_restore(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    put(
        backend,
        *(f"0:{txid}" for txid in range(14, 24)),
        *(f"1:{txid}-{txid + 2}" for txid in range(1, 20, 3)),
    )
    put(backend, "2:1-6", "2:7-12", "9:1-5", "9:1-9", "9:1-12")
    now = at(60 * 23)

    def other_run(replica: Replica) -> None:
        retain(replica, POLICY, now=now)

    def merges(replica: Replica) -> None:
        compact(replica, 1)
        compact(replica, 2)

    def newest(replica: Replica) -> None:
        restored = replica.restore(tmp_path / "out.db", force=True)
        assert restored.path.read_bytes() == HISTORY.state(23)

    def snapshots(replica: Replica) -> None:
        snapshot(replica)

    def in_the_window(replica: Replica) -> None:
        restored = replica.restore(tmp_path / "out.db", txid=18, force=True)
        assert restored.path.read_bytes() == HISTORY.state(18)

    for action in (other_run, merges, newest, snapshots, in_the_window):
        calls: list[str] = []
        action(Replica(Stepping(copy_of(backend, "beside"), lambda *call: calls.append(call[0]))))  # noqa: B023
        for place in range(len(calls)):
            copy = copy_of(backend, "beside")
            left = iter(range(place, -1, -1))

            def before(*_: str, left: "Sequence[int]" = left, copy: MemoryBackend = copy) -> None:  # type: ignore[assignment]
                if next(left, None) == 0:  # type: ignore[call-overload]
                    retain(Replica(copy), POLICY, now=now)

            action(Replica(Stepping(copy, before)))
            assert checked(Replica(copy), HISTORY, tmp_path)[-1] == 23
            assert Replica(copy).plan(at=at(60 * 13.5)).txid >= 12


def test_a_state_before_the_window_is_named_as_gone(backend: MemoryBackend, replica: Replica) -> None:
    put(backend, "9:1-5", "9:1-20", "0:21")
    retain(replica, POLICY, now=at(10**7))
    with pytest.raises(NotReachableError):
        replica.plan(txid=5)
