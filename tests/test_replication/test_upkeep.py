"""A replica that grows all the time stays small, and what is promised can be restored."""

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ltx import Replica
from ltx.replica.compaction import compact
from ltx.replica.levels import LevelPolicy
from ltx.replica.retention import RetentionPolicy
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.fleet import uploading
from ltx.replication.maintenance import Upkeep
from ltx.replication.metrics import Metrics
from tests.support.databases import image, make
from tests.support.replicating import differing, eventually, restored
from tests.support.writers import check_promise, prepare, writing
from tests.test_vfs.origin import origin

SECONDS = 9
UPKEEP = Upkeep(
    LevelPolicy((timedelta(seconds=1), timedelta(seconds=3)), timedelta(seconds=5)),
    RetentionPolicy(timedelta(seconds=6), timedelta(seconds=2), timedelta(0)),
    check_s=0.5,
)


def test_levels_are_made_and_pruned_under_load(tmp_path: Path) -> None:
    path, url = tmp_path / "a.db", str(tmp_path / "replica")
    prepare(path, mode="wal", page_size=1024)
    with Replica.open(url) as replica:
        database = Database(path, [replica], Settings(sync_interval_s=0.02, upkeep=UPKEEP))
        daemon = Daemon([database])
        daemon.start()
        with writing(path, processes=2, seed=time.time_ns() % 1_000_000):
            end = time.monotonic() + SECONDS
            counters = []
            while time.monotonic() < end:
                time.sleep(1)
                if replica.files():
                    restored(url, tmp_path / "out.db")
                    counters.append(check_promise(tmp_path / "out.db"))
        assert daemon.stop()
        assert counters == sorted(counters)
        files = replica.files()
        levels = [file.level for file in files]
        print({level: levels.count(level) for level in set(levels)}, database.status)
        assert {0, 1, 2, 9} <= set(levels)
        assert len(files) < database.line.txid
        assert replica.verify().is_sound
        assert database.compared == 1
        assert not database.uploaders[0].error
        before = dict(replica.backend.stats.requests)
        idle = Database(path, [replica], Settings(upkeep=UPKEEP))
        idle.sync()
        assert idle.uploaders[0].push()
        idle.close()
        assert sum(replica.backend.stats.requests.values()) - sum(before.values()) <= 3
    assert differing(restored(url, tmp_path / "out.db"), image(path), 1024) == []


def test_upkeep_that_fails_is_in_the_status(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    upkeep = replace(UPKEEP, check_s=0.1)
    with Replica.open(str(url)) as replica:
        database = Database(path, [replica], Settings(sync_interval_s=0.02, upkeep=upkeep))
        (url / "ltx").mkdir(parents=True)
        (url / "ltx" / "1").write_text("in the way")
        daemon = Daemon([database])
        daemon.start()
        eventually(lambda: database.status.replicas[0]["upkeep_error"] is not None)
        assert database.status.replicas[0]["error"] is None  # what is committed arrives all the same
        found = {
            sample.name: sample.value for metric in Metrics(daemon).collect() for sample in metric.samples
        }
        assert found["litestream_replica_upkeep_error"] == 1
        assert found["litestream_replica_error"] == 0
        assert restored(str(url), tmp_path / "out.db") == image(path)
        assert daemon.stop()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storage_of_which_one_call_in_ten_fails_keeps_no_merge_from_its_end(
    seed: int, tmp_path: Path
) -> None:
    """Else what is to be merged grows, and with it the chance that the next try fails, too."""
    url = f"file://{tmp_path}/replica"
    with origin(tmp_path, url, page_size=512) as source:
        source.commit("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
        for _ in range(120):
            source.commit("UPDATE t SET a = a + 1")
    faulty = f"faulty+{url}?seed={seed}&rate=0.1&slow=0.001&kinds=error,unreachable,throttle,lost"
    with uploading(Replica.open(faulty)) as replica:
        compact(replica, 1)
        assert replica.files(1)[-1].max_txid == 121
