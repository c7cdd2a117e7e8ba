"""Queries on an S3 service that is 25 ms away."""

import time
from collections.abc import Iterator

import pytest

from ltx import Replica
from tests.servers.delaying import Delaying, delaying
from tests.servers.seaweedfs import S3Server, seaweedfs

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
