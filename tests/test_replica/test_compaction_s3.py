"""Merges, snapshots and retention on a real S3 service."""

from datetime import timedelta
from pathlib import Path

from ltx import Replica
from ltx.replica.compaction import compact, snapshot
from ltx.replica.layout import FLAT
from ltx.replica.levels import LevelPolicy
from ltx.replica.retention import RetentionPolicy, retain
from tests.servers.seaweedfs import S3Server
from tests.test_replica.histories import History, store
from tests.test_replica.upkeep import checked, merged

HISTORY = History.random(8, seed=2)


def test_they_cost_no_more_requests_than_they_must(s3_server: S3Server, s3_url: str, tmp_path: Path) -> None:
    with Replica.open(s3_url, **s3_server.options) as replica:
        for spec in HISTORY.specs:
            store(replica.backend, 0, spec, FLAT)
        before = replica.backend.stats.requests
        compact(replica, 1, policy=LevelPolicy((timedelta(hours=1),)))
        assert _since(replica, before) == {"list": 1, "get": 8, "put": 1}
        assert merged(replica, 1) == [(1, 8)]
        assert checked(replica, HISTORY, tmp_path) == list(range(1, 9))
        assert snapshot(replica)
        before = replica.backend.stats.requests
        done = retain(replica, RetentionPolicy(timedelta(0), timedelta(0)))
        assert [deleted.file.level for deleted in done.deleted] == [0] * 7
        assert _since(replica, before) == {"list": 1, "get": 2, "delete": 1}
        assert checked(replica, HISTORY, tmp_path) == [8]


def _since(replica: Replica, before: object) -> dict[str, int]:
    assert hasattr(before, "get")
    return {
        kind: count - before.get(kind, 0)
        for kind, count in replica.backend.stats.requests.items()
        if count > before.get(kind, 0)
    }
