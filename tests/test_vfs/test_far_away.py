"""Queries on an S3 service that is 25 ms away."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import vfs
from ltx import Replica
from tests.servers.delaying import Delaying, delaying
from tests.servers.seaweedfs import S3Server, seaweedfs
from tests.test_vfs.origin import number, origin, rows

DELAY_S = 0.025


@pytest.fixture(scope="module")
def service() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="module")
def far(service: S3Server) -> Iterator[Delaying]:
    with delaying(service.endpoint, DELAY_S) as proxy:
        yield proxy


def test_every_request_waits_and_those_at_the_same_time_wait_together(
    service: S3Server, far: Delaying
) -> None:
    near = Replica.open(service.url("waits"), **service.options).backend
    near.put("a", bytes(1000))
    away = Replica.open(
        f"s3://{service.bucket}/waits?endpoint={far.endpoint}&region=us-east-1", **service.options
    ).backend
    away.get("a")
    before, began = far.requests, time.monotonic()
    for _ in range(3):
        assert away.get("a", 5, 10) == bytes(5)
    assert time.monotonic() - began >= 3 * DELAY_S
    assert far.requests - before == 3
    before = far.requests
    assert away.get_ranges([("a", start, start + 10) for start in range(16)]) == (bytes(10),) * 16
    assert far.requests - before == 16


def test_a_scan_from_afar_has_its_pages_under_way_before_they_are_wanted(
    service: S3Server, far: Delaying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the proxy counts is what our backend counts, and many pages come with each wait of 25 ms."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    with origin(tmp_path, service.url("scan")) as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 8000)",
        )
        source.commit("UPDATE t SET b = 'x' WHERE id = 4000")
        before = far.requests
        url = f"s3://{service.bucket}/scan?endpoint={far.endpoint}&region=us-east-1"
        with closing(vfs.connect(url, poll_interval=3600)) as db:
            assert number(db, "SELECT id FROM t LIMIT 1") == 1
            opening = far.requests - before
            assert opening <= 7
            assert rows(db, "SELECT count(*), sum(length(b)) FROM t") == [(8000, 7_999_001)]
            told = json.loads(str(rows(db, "PRAGMA litestream_stats")[0][0]))
            assert far.requests - before == told["requests"] <= opening + 12
