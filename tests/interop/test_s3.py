"""The same on S3, on a server that checks signatures: both programs read what the other one wrote."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import ltx
from backends import PermissionDeniedError
from ltx import Replica
from ltx.format import Decoder, file_name, merge
from ltx.replica import parse_time
from ltx.replica.layout import FLAT
from tests.interop.peer import Database, Peer, PeerError
from tests.interop.recording import some, times, times_both_agree_on
from tests.interop.workload import application
from tests.servers.seaweedfs import S3Server

MOST = 6
"""States that are restored in one test."""


@dataclass(frozen=True)
class OnS3:
    """A replica on S3, and the database that it is of as it was at the end."""

    server: S3Server
    url: str
    source: bytes
    states: dict[int, bytes]

    @property
    def prefix(self) -> str:
        return urlsplit(self.url).path.strip("/")

    def open(self) -> Replica:
        return Replica.open(self.url, **self.server.options)


@pytest.fixture(scope="session")
def s3_peer(s3_server: S3Server) -> Peer:
    return Peer(s3_server.environment)


@pytest.fixture(scope="session")
def theirs(s3_peer: Peer, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> OnS3:
    """A database in use while the real Litestream replicated it, with files on the levels 0, 1, 2 and 9."""
    folder, url = tmp_path_factory.mktemp("s3"), s3_server.url()
    with (
        application(folder / "app.db", 4096, seed=8) as app,
        Replica.open(url, **s3_server.options) as replica,
    ):
        with s3_peer.replicating(folder, [Database(app.path, {"url": url})]):
            deadline = time.monotonic() + 40
            while app.steps < 40 or len({file.level for file in replica.files()}) < 4:
                assert time.monotonic() < deadline
                app.step()
                time.sleep(0.05)
        return OnS3(s3_server, url, app.committed(), {})


@pytest.fixture(scope="session")
def ours(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> OnS3:
    """A database that we replicated after each of its steps."""
    folder, url = tmp_path_factory.mktemp("s3"), s3_server.url()
    states = {}
    with (
        application(folder / "app.db", 4096, seed=9) as app,
        Replica.open(url, **s3_server.options) as replica,
    ):
        for _ in range(16):
            published = ltx.replicate_once(app.path, replica)
            assert published
            states[int(published.txid)] = app.committed()
            app.step()
            time.sleep(0.2)  # S3 lists times in whole seconds, and the real Litestream goes by them too
    return OnS3(s3_server, url, states[16], states)


@pytest.fixture(params=["theirs", "ours"])
def either(request: pytest.FixtureRequest) -> OnS3:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, OnS3)
    return found


@pytest.fixture
def replica(either: OnS3) -> Iterator[Replica]:
    with either.open() as replica:
        yield replica


def test_keys_are_flat(either: OnS3, replica: Replica) -> None:
    keys = [
        found["Key"]
        for page in either.server.client.get_paginator("list_objects_v2").paginate(
            Bucket=either.server.bucket, Prefix=either.prefix
        )
        for found in page["Contents"]
        if not found["Key"].endswith("/lineage.json")
    ]
    expected = [
        f"{either.prefix}/{file.level:04x}/{file_name(file.min_txid, file.max_txid)}"
        for file in replica.files()
    ]
    assert sorted(keys) == sorted(expected)
    assert replica.layout is FLAT


def test_listing_is_theirs(s3_peer: Peer, either: OnS3, replica: Replica) -> None:
    assert [(file.level, file.min_txid, file.max_txid, file.size) for file in replica.files()] == [
        (file.level, file.min_txid, file.max_txid, file.size) for file in s3_peer.files(either.url)
    ]


def test_metadata_has_the_time_of_the_header(either: OnS3, replica: Replica) -> None:
    files = replica.files()
    for file, expected in list(zip(files, times(replica, files), strict=True))[:: max(1, len(files) // MOST)]:
        head = either.server.client.head_object(
            Bucket=either.server.bucket, Key=f"{either.prefix}/{file.key}"
        )
        assert parse_time(head["Metadata"]["litestream-timestamp"]) == expected


def test_newest_state_is_the_source_with_both(
    s3_peer: Peer, either: OnS3, replica: Replica, tmp_path: Path
) -> None:
    restored = replica.restore(tmp_path / "ours.db", integrity_check="full")
    assert restored.path.read_bytes() == either.source
    assert s3_peer.restore(either.url, tmp_path / "theirs.db") == either.source


def test_transactions_have_the_same_bytes_with_both(
    s3_peer: Peer, either: OnS3, replica: Replica, tmp_path: Path
) -> None:
    txids = [state.txid for state in replica.verify().restorable]
    assert len(txids) >= 16
    for txid in txids[:: len(txids) // MOST]:
        assert s3_peer.plan(either.url, txid=txid)[-1].max_txid == txid
        restored = replica.restore(tmp_path / f"ours-{txid}.db", txid=txid).path.read_bytes()
        assert restored == s3_peer.restore(either.url, tmp_path / f"theirs-{txid}.db", txid=txid)
        assert restored == either.states.get(txid, restored)


def listed_bounds(replica: Replica) -> tuple[datetime, datetime]:
    """Return the first and the last upload as S3 lists them: outside the real Litestream refuses any time."""
    listed = [file.modified for file in replica.files() if file.modified]
    return min(listed), max(listed)


def test_times_give_the_same_state_with_both(
    s3_peer: Peer, either: OnS3, replica: Replica, tmp_path: Path
) -> None:
    first, last = listed_bounds(replica)
    states = [(at, txid) for at, txid in times_both_agree_on(replica) if first <= at <= last]
    assert len(states) >= 3
    for at, txid in some(states, MOST):
        restored = replica.restore(tmp_path / f"ours-{txid}.db", at=at)
        assert restored.txid == txid
        assert restored.path.read_bytes() == s3_peer.restore(
            either.url, tmp_path / f"theirs-{txid}.db", at=at
        )


def test_at_the_very_time_of_a_transaction_ours_includes_it_and_theirs_does_not(
    s3_peer: Peer, ours: OnS3
) -> None:
    with ours.open() as replica:
        files = replica.files()
        at = dict(zip((int(file.max_txid) for file in files), times(replica, files), strict=True))
        first, last = listed_bounds(replica)
        txid = next(txid for txid in range(4, 15) if first < at[txid - 1] < at[txid] < last)
        assert replica.plan(at=at[txid]).txid == txid
        assert s3_peer.plan(ours.url, at=at[txid])[-1].max_txid == txid - 1
        with pytest.raises(PeerError, match="timestamp does not exist"):
            s3_peer.plan(ours.url, at=last + timedelta(seconds=1))
        assert replica.plan(at=at[16]).txid == 16


def test_every_byte_is_sound(replica: Replica) -> None:
    assert replica.verify().is_sound


def test_merging_their_level_0_gives_their_level_1(theirs: OnS3) -> None:
    with theirs.open() as replica:
        files = replica.files()
        for merged in (file for file in files if file.level == 1):
            parts = [
                file
                for file in files
                if file.level == 0 and merged.min_txid <= file.min_txid and file.max_txid <= merged.max_txid
            ]
            decoders = [Decoder([replica.backend.get(file.key)]) for file in parts]
            assert list(Decoder(merge(decoders))) == list(Decoder([replica.backend.get(merged.key)]))


def test_each_goes_on_where_the_other_stopped(s3_peer: Peer, s3_server: S3Server, tmp_path: Path) -> None:
    url = s3_server.url()
    with (
        application(tmp_path / "app.db", 4096, seed=10) as app,
        Replica.open(url, **s3_server.options) as replica,
    ):
        for turn in range(6):
            for _ in range(5):
                app.step()
            if turn % 2:
                s3_peer.replicate_once(app.path, url)
            else:
                assert ltx.replicate_once(app.path, replica)
            expected = app.committed()
            assert replica.restore(tmp_path / "ours.db", force=True).path.read_bytes() == expected
            assert s3_peer.restore(url, tmp_path / f"theirs-{turn}.db") == expected


def test_whoever_may_only_read_can_restore_and_not_replicate(ours: OnS3, tmp_path: Path) -> None:
    with Replica.open(ours.url, **ours.server.reader_options) as replica:
        restored = replica.restore(tmp_path / "out.db").path
        assert restored.read_bytes() == ours.source
        with pytest.raises(PermissionDeniedError):
            ltx.replicate_once(_other_database(tmp_path), replica, adopt=True)


def _other_database(folder: Path) -> Path:
    with application(folder / "other.db", 4096, seed=11) as app:
        return app.path


def test_a_restore_costs_one_listing_and_one_read_per_file_and_header(theirs: OnS3, tmp_path: Path) -> None:
    """The real Litestream lists 42 times."""
    with theirs.open() as replica:
        restored = replica.restore(tmp_path / "out.db")
        assert all(file.size < 1 << 20 for file in restored.files)
        ending = sum(file.max_txid == restored.txid for file in replica.files())
        requests = replica.backend.stats.requests
        assert requests["list"] == 2  # one of them is this test's
        assert requests["get"] == len(restored.files) + ending
        assert sum(requests.values()) == requests["list"] + requests["get"]
