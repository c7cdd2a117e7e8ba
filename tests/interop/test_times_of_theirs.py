"""Going back in time on replicas of the real Litestream, where its rule and ours agree and where they differ.

Its rule: files whose storage time is before T, each for itself. Ours: the last transaction whose time, from the
headers, is not after T (docs/formats/replica.md, Times).
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from ltx import NotReachableError, Replica
from tests.interop.peer import Peer, PeerError
from tests.interop.recording import PRUNED, RECORDINGS, Recording, some, times, times_both_agree_on

MS = timedelta(milliseconds=1)
MOST = 12
"""Times that are asked for in one test: each is a run of the real Litestream."""


@pytest.fixture(params=RECORDINGS)
def recording(request: pytest.FixtureRequest, recordings: Mapping[str, Recording]) -> Recording:
    return recordings[request.param]


@pytest.fixture
def replica(recording: Recording) -> Replica:
    return Replica.open(recording.url)


def test_storage_times_of_theirs_are_the_headerstimes(replica: Replica) -> None:
    files = replica.files()
    assert [file.modified for file in files] == [header.timestamp for header in replica.headers(files)]


def test_between_two_transactions_both_rules_give_the_earlier_one(
    peer: Peer, recording: Recording, replica: Replica, tmp_path: Path
) -> None:
    states = times_both_agree_on(replica)
    assert len(states) >= (1 if recording.name == PRUNED else 3)
    for at, txid in some(states, MOST):
        assert replica.plan(at=at).txid == txid
        assert peer.plan(recording.url, at=at)[-1].max_txid == txid
    at, txid = states[len(states) // 2]
    ours = replica.restore(tmp_path / "ours.db", at=at)
    assert ours.path.read_bytes() == peer.restore(recording.url, tmp_path / "theirs.db", at=at)


def test_at_the_very_time_of_a_transaction_ours_includes_it_and_theirs_does_not(
    peer: Peer, recordings: Mapping[str, Recording]
) -> None:
    recording = recordings["4096"]
    replica = Replica.open(recording.url)
    level0 = replica.files(0)
    at = {int(file.max_txid): time for file, time in zip(level0, times(replica, level0), strict=True)}
    apart = [
        txid
        for txid in list(at)[2:-1]
        if at[txid - 1] + 2 * MS < at[txid] and at[txid] + 2 * MS < at[txid + 1]
    ]
    assert len(apart) > 3
    for txid in apart[:: max(1, len(apart) // 4)]:
        table = [
            (
                offset,
                replica.plan(at=at[txid] + offset).txid,
                peer.plan(recording.url, at=at[txid] + offset)[-1].max_txid,
            )
            for offset in (-MS, 0 * MS, MS)
        ]
        assert table == [(-MS, txid - 1, txid - 1), (0 * MS, txid, txid - 1), (MS, txid, txid)]


def test_the_newest_transaction_is_reached_by_time_with_ours_only(
    peer: Peer, recording: Recording, replica: Replica
) -> None:
    files = replica.files()
    newest = max(file.max_txid for file in files)
    after_all = max(times(replica, files)) + MS
    assert replica.plan(at=after_all).txid == newest
    with pytest.raises(PeerError, match="timestamp does not exist"):
        peer.plan(recording.url, at=after_all)


def test_before_the_oldest_state_both_refuse(peer: Peer, recording: Recording, replica: Replica) -> None:
    before_all = min(times(replica, replica.files())) - MS
    with pytest.raises(NotReachableError, match="before all that is kept"):
        replica.plan(at=before_all)
    with pytest.raises(PeerError, match="timestamp does not exist"):
        peer.plan(recording.url, at=before_all)


def test_a_restored_state_carries_the_time_of_its_transaction(
    recordings: Mapping[str, Recording], tmp_path: Path
) -> None:
    replica = Replica.open(recordings["512"].url)
    file = replica.files(0)[10]
    restored = replica.restore(tmp_path / "ours.db", txid=file.max_txid)
    assert [restored.time] == list(times(replica, [file]))
    assert replica.plan(at=restored.time).txid == file.max_txid
