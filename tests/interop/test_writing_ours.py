"""Replicas written by us, restored by the real Litestream to the very same bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

import ltx
from ltx import Replica
from tests.interop.peer import Listed, Peer
from tests.interop.workload import application

STEPS = 24


@dataclass(frozen=True)
class Written:
    """A replica of ours, and what the database was after each of its transactions."""

    url: str
    states: Mapping[int, bytes]


@pytest.fixture(scope="module", params=[(512, "delete"), (4096, "wal"), (65536, "wal")], ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    page_size, journal_mode = request.param
    folder = tmp_path_factory.mktemp("ours")
    states: dict[int, bytes] = {}
    url = f"file://{folder}/replica"
    with (
        application(folder / "app.db", page_size, seed=page_size, journal_mode=journal_mode) as app,
        Replica.open(url) as replica,
    ):
        for _ in range(STEPS):
            published = ltx.replicate_once(app.path, replica)
            assert published
            states[published.txid] = app.committed()
            app.step()
    return Written(url, states)


def test_the_database_grew_and_shrank(written: Written) -> None:
    sizes = [len(state) for state in written.states.values()]
    assert max(sizes) > 2 * min(sizes)
    assert sizes != sorted(sizes)


def test_they_list_what_we_wrote(peer: Peer, written: Written) -> None:
    files = Replica.open(written.url).files()
    assert [
        Listed(file.level, file.min_txid, file.max_txid, file.size, f"{file.modified:%Y-%m-%dT%H:%M:%SZ}")
        for file in files
    ] == peer.files(written.url)


def test_they_restore_every_transaction_to_its_bytes(peer: Peer, written: Written, tmp_path: Path) -> None:
    assert list(written.states) == list(range(1, STEPS + 1))
    for txid, state in written.states.items():
        assert peer.restore(written.url, tmp_path / f"{txid}.db", txid=txid) == state, f"TXID {txid}"


def test_they_restore_the_newest_state(peer: Peer, written: Written, tmp_path: Path) -> None:
    assert peer.restore(written.url, tmp_path / "newest.db") == written.states[STEPS]


def test_they_go_back_to_the_times_we_wrote(peer: Peer, written: Written) -> None:
    replica = Replica.open(written.url)
    files = replica.files()
    for file, header in list(zip(files, replica.headers(files), strict=True))[2:-1:5]:
        at = header.timestamp + timedelta(milliseconds=1)
        expected = max(
            other.max_txid
            for other, its in zip(files, replica.headers(files), strict=True)
            if its.timestamp <= header.timestamp
        )
        assert file.max_txid <= expected
        assert replica.plan(at=at).txid == peer.plan(written.url, at=at)[-1].max_txid == expected


def test_we_restore_every_transaction_to_its_bytes(written: Written, tmp_path: Path) -> None:
    replica = Replica.open(written.url)
    for txid, state in written.states.items():
        restored = replica.restore(tmp_path / f"{txid}.db", txid=txid)
        assert restored.path.read_bytes() == state, f"TXID {txid}"
