"""Replicas merged and pruned by us, read by the real Litestream; and its own, merged and pruned further by us."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

import ltx
from ltx import Replica
from ltx.replica.compaction import compact, snapshot
from ltx.replica.levels import LevelPolicy
from ltx.replica.plan import reach_of
from ltx.replica.retention import RetentionPolicy, retain
from tests.interop.peer import Database, Listed, Peer
from tests.interop.recording import PRUNED, RECORDINGS, Recording
from tests.interop.workload import Application, application

FINE = LevelPolicy((timedelta(milliseconds=50), timedelta(seconds=1), timedelta(seconds=2)))
AT_ONCE = RetentionPolicy(timedelta(0), timedelta(0))


def restored_by_both(peer: Peer, replica: Replica, folder: Path, txids: Sequence[int]) -> Mapping[int, bytes]:
    """Restore TXIDs with both programs, which must agree; the last one as the newest state, too."""
    found = {}
    for txid in txids:
        ours, theirs = folder / "ours.db", folder / "theirs.db"
        replica.restore(ours, txid=txid, force=True)
        theirs.unlink(missing_ok=True)
        assert peer.restore(replica.url, theirs, txid=txid) == ours.read_bytes(), f"TXID {txid}"
        found[txid] = ours.read_bytes()
    theirs.unlink()
    assert peer.restore(replica.url, theirs) == found[txids[-1]]
    return found


def some(txids: Sequence[int]) -> Sequence[int]:
    """Return at most 6 of them, the first and the last among them."""
    step = max(1, (len(txids) - 1) // 5)
    return sorted({*txids[::step], txids[-1]})


def listed(replica: Replica) -> set[tuple[int, int, int, int]]:
    return {(file.level, file.min_txid, file.max_txid, file.size) for file in replica.files()}


def entries(found: Sequence[Listed]) -> set[tuple[int, int, int, int]]:
    return {(file.level, file.min_txid, file.max_txid, file.size) for file in found}


@pytest.fixture(params=[512, 4096, 65536])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Replica, Sequence[bytes]]:
    """A replica of ours on level 0, and the database after each of its transactions."""
    states = []
    with (
        application(tmp_path / "app.db", request.param, seed=request.param) as app,
        Replica.open(f"file://{tmp_path}/replica") as replica,
    ):
        for _ in range(30):
            app.step()
            if ltx.replicate_once(app.path, replica):
                states.append(app.committed())
        return replica, states


def test_they_restore_every_state_of_a_replica_that_we_merged_and_pruned(
    peer: Peer, written: tuple[Replica, Sequence[bytes]], tmp_path: Path
) -> None:
    replica, states = written
    for level in FINE.levels:
        compact(replica, level, policy=FINE)
    assert len(replica.files(1)) > 2
    assert replica.files(2)
    assert snapshot(replica)
    assert entries(peer.files(replica.url)) == listed(replica)
    every = range(1, len(states) + 1)
    assert restored_by_both(peer, replica, tmp_path, some(every))[len(states)] == states[-1]
    done = retain(replica, RetentionPolicy(timedelta(days=1), timedelta(0)))
    assert [deleted.file.level for deleted in done.deleted] == [0] * (len(states) - 1)
    kept = reach_of(replica.files()).txids
    for txid, state in restored_by_both(peer, replica, tmp_path, kept).items():
        assert state == states[txid - 1]
    assert {deleted.file.level for deleted in retain(replica, AT_ONCE).deleted} == {1}
    assert restored_by_both(peer, replica, tmp_path, [len(states)])
    assert entries(peer.files(replica.url)) == listed(replica)


@pytest.mark.parametrize("name", RECORDINGS)
def test_their_replica_merged_further_and_pruned_by_us_stays_what_it_was(
    peer: Peer, recordings: Mapping[str, Recording], tmp_path: Path, name: str
) -> None:
    recording = recordings[name]
    shutil.copytree(recording.folder, tmp_path / "copy")
    with Replica.open(f"file://{tmp_path}/copy") as replica:
        before = restored_by_both(peer, replica, tmp_path, some(reach_of(replica.files()).txids))
        assert before[max(before)] == recording.source
        had = {level: len(replica.files(level)) for level in range(10)}
        snapshots = {file.max_txid for file in replica.files(9)}
        for level in (1, 2, 3, 4):
            compact(replica, level)
        # A first file that a snapshot equals stays where it is; two that then follow each other become one.
        second = [file for file in replica.files(2) if file.min_txid > 1 or file.max_txid not in snapshots]
        follow = any(after.min_txid <= before_it.max_txid + 1 for before_it, after in pairwise(second))
        assert bool(replica.files(3)) == follow
        snapshot(replica)
        assert replica.files(9)[-1].max_txid == replica.files(0)[-1].max_txid
        assert replica.verify().is_sound
        assert restored_by_both(peer, replica, tmp_path, list(before)) == before
        done = retain(replica, RetentionPolicy(timedelta(days=1), timedelta(0)))
        assert (had[0] <= 1) or done.deleted or name == PRUNED
        after = reach_of(replica.files()).txids
        again = restored_by_both(peer, replica, tmp_path, [txid for txid in before if txid in after])
        assert again.items() <= before.items()
        retain(replica, AT_ONCE, now=datetime.now(UTC) + timedelta(hours=1))
        assert restored_by_both(peer, replica, tmp_path, [max(before)]) == {max(before): recording.source}
        assert all(len(replica.files(level)) <= 1 for level in range(10))


@pytest.mark.parametrize("page_size", [512, 4096])
def test_their_daemon_goes_on_with_what_we_merged_and_we_with_what_it_did(
    peer: Peer, tmp_path: Path, page_size: int
) -> None:
    with (
        application(tmp_path / "app.db", page_size, seed=6) as app,
        Replica.open(f"file://{tmp_path}/replica") as replica,
    ):
        for _ in range(2):
            _ours(app, replica)
            with peer.replicating(
                tmp_path,
                [Database(app.path, {"path": str(tmp_path / "replica")})],
                levels=("200ms", "500ms"),
                snapshot_interval="1s",
            ) as daemon:
                _wait_for(app, lambda: len(replica.files(9)) > 1)
                assert daemon.poll() is None
            newest = replica.files(0)[-1].max_txid
            found = restored_by_both(peer, replica, tmp_path, [newest])
            assert found[newest] == app.committed()
        _ours(app, replica)
        newest = replica.files(0)[-1].max_txid
        assert restored_by_both(peer, replica, tmp_path, [newest])[newest] == app.committed()
        assert replica.verify().is_sound


def _ours(app: Application, replica: Replica) -> None:
    for _ in range(8):
        app.step()
        ltx.replicate_once(app.path, replica)
    for level in FINE.levels:
        compact(replica, level, policy=FINE)
    snapshot(replica)
    retain(replica, RetentionPolicy(timedelta(0), timedelta(0)))


def _wait_for(app: Application, done: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        app.step()
        time.sleep(0.04)
