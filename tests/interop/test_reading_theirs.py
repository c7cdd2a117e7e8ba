"""Replicas written by the real Litestream: listed, restored and merged as it does."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ltx import LTXFile, NotReachableError, Replica
from tests.interop.peer import Listed, Peer, PeerError
from tests.interop.recording import PRUNED, RECORDINGS, Recording


@pytest.fixture(params=RECORDINGS)
def recording(request: pytest.FixtureRequest, recordings: Mapping[str, Recording]) -> Recording:
    return recordings[request.param]


@pytest.fixture
def replica(recording: Recording) -> Replica:
    return Replica.open(recording.url)


def test_all_levels_are_there(replica: Replica) -> None:
    assert {file.level for file in replica.files()} == {0, 1, 2, 9}


def test_listing_is_theirs(peer: Peer, recording: Recording, replica: Replica) -> None:
    assert [_listed(file) for file in replica.files()] == peer.files(recording.url)


def test_newest_state_is_theirs_and_the_source(
    peer: Peer, recording: Recording, replica: Replica, tmp_path: Path
) -> None:
    restored = replica.restore(tmp_path / "ours.db", integrity_check="full")
    ours = restored.path.read_bytes()
    assert ours == peer.restore(recording.url, tmp_path / "theirs.db")
    assert ours == recording.source


def test_every_txid_gives_their_bytes_or_is_refused_by_both(
    peer: Peer, recording: Recording, replica: Replica, tmp_path: Path
) -> None:
    def is_given(txid: int) -> bool:
        ours, theirs = tmp_path / f"ours-{txid}.db", tmp_path / f"theirs-{txid}.db"
        try:
            expected = peer.restore(recording.url, theirs, txid=txid)
        except PeerError:
            with pytest.raises(NotReachableError):
                replica.restore(ours, txid=txid)
            return False
        assert replica.restore(ours, txid=txid).txid == txid
        assert ours.read_bytes() == expected
        ours.unlink()
        theirs.unlink()
        return True

    newest = max(file.max_txid for file in replica.files())
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(is_given, range(1, newest + 2)))
    assert given[-2:] == [True, False]
    restorable = {state.txid for state in replica.verify().restorable}
    assert restorable == {txid for txid, was_given in enumerate(given, 1) if was_given}
    if recording.name == PRUNED:
        assert given.count(False) > 3
    else:
        assert all(given[:-1])


def test_every_byte_they_wrote_is_found_sound(recording: Recording, replica: Replica) -> None:
    found = replica.verify()
    assert [checked for checked in found.files if checked.fault] == []
    assert found.is_sound
    assert found.restorable[-1].txid == found.newest


def _listed(file: LTXFile) -> Listed:
    assert file.modified
    return Listed(file.level, file.min_txid, file.max_txid, file.size, f"{file.modified:%Y-%m-%dT%H:%M:%SZ}")
