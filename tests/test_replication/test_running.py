"""`ltx replicate` as its users run it: killed, stopped, beside a dead storage, beside another one of its kind."""

import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

import ltx
from ltx import Replica
from tests.support.databases import connected, fill, image, make, scalar
from tests.support.replicating import differing, eventually, ltx_process, replicating, restored
from tests.support.s3_stub import silence
from tests.support.writers import check_promise, prepare, writing


def test_what_is_committed_is_on_the_replica_soon_and_idle_costs_nothing(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    level_0 = url / "ltx" / "0"

    def count() -> int:
        return len([name for name in os.listdir(level_0) if name.endswith(".ltx")]) if level_0.exists() else 0

    latencies = []
    with replicating(path, url), closing(sqlite3.connect(path, isolation_level=None)) as app:
        eventually(lambda: count() == 1)
        for number in range(5):
            time.sleep(1.05)  # quiet: longer than the sync interval
            app.execute("INSERT INTO t (a) VALUES (?)", (number,))
            began = time.monotonic()
            eventually(lambda wanted=number + 2: count() == wanted)  # type: ignore[misc]
            latencies.append(time.monotonic() - began)
        before = count()
        time.sleep(2)
        assert count() == before
        with connected(path) as db:
            expected = db.serialize("main")
    print(f"latencies: {[round(latency, 3) for latency in latencies]}")
    assert statistics.median(latencies) < 0.5  # 0.02 s on a quiet machine
    assert restored(str(url), tmp_path / "out.db") == expected
    assert sorted(found.name for found in tmp_path.glob(".a.db-litestream/*")) == [
        "lineage.json",
        "lock",
        "ltx",
        *sorted(found.name for found in tmp_path.glob(".a.db-litestream/pages-*")),
    ]


def test_sqlite_is_ready_before_several_threads_use_it() -> None:
    # Where the first connections of 16 threads made it ready, most runs with 300 databases crashed sooner or later.
    program = (
        "import apsw; from ltx.replication.run import prepare_process; prepare_process()\n"
        "try: apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 0, 0)\n"  # which SQLite refuses once it is
        "except apsw.MisuseError: print('ready')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "ready\n"


def test_killed_again_and_again_it_loses_nothing(tmp_path: Path) -> None:
    path, url = tmp_path / "a.db", tmp_path / "replica"
    prepare(path, mode="wal", page_size=1024)
    seed = time.time_ns() % 1_000_000
    print(f"seed: {seed}")
    choice = Random(seed)
    with writing(path, processes=3, seed=seed):
        for _ in range(6):
            process = ltx_process("replicate", path, url, "--sync-interval", "0.01", folder=tmp_path)
            time.sleep(0.5 + choice.random() * 1.2)
            process.kill()
            process.communicate()
        with replicating(path, url, "--sync-interval", "0.01"):
            time.sleep(2)
    with replicating(path, url):
        time.sleep(0.5)
    assert differing(restored(str(url), tmp_path / "out.db"), image(path), 1024) == []
    with Replica.open(str(url)) as replica:
        found = replica.verify()
        assert found.is_sound
        txids = sorted({file.max_txid for file in replica.files()})
        assert txids == list(range(1, txids[-1] + 1))
        for txid in choice.sample(txids, min(12, len(txids))):
            replica.restore(tmp_path / "out.db", txid=txid, force=True)
            check_promise(tmp_path / "out.db")


def test_an_application_killed_within_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", page_size=512, rows=300), tmp_path / "replica"
    program = (
        "import apsw, os, signal, sys\n"
        "db = apsw.Connection(sys.argv[1])\n"
        "db.execute('PRAGMA cache_size = 3; PRAGMA cache_spill = 3; UPDATE t SET a = 70')\n"
        "db.execute('BEGIN IMMEDIATE; UPDATE t SET b = randomblob(140)').fetchall()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with replicating(path, url, "--sync-interval", "0.01"):
        for _ in range(4):
            done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
            assert done.returncode == -signal.SIGKILL
            with connected(path) as db:
                fill(db, 3)
            eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))


def test_a_child_gives_its_exit_status_and_what_it_wrote_is_there(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    program = tmp_path / "app.py"
    program.write_text(
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('UPDATE t SET a = 99')\nsys.exit(7)\n"
    )
    command = f"{sys.executable} {program} {path}"
    process = ltx_process("replicate", path, url, "--exec", command, folder=tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 7, err
    assert restored(str(url), tmp_path / "out.db") == image(path)


def test_a_missing_database_is_restored_first(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    with replicating(path, url):
        eventually(lambda: bool(restored(str(url), tmp_path / "out.db")))
    expected = image(path)
    for found in tmp_path.glob("a.db*"):
        found.unlink()
    with replicating(path, url, "--restore-if-db-not-exists"):
        eventually(path.exists)
        assert image(path) == expected
        with connected(path) as db:
            fill(db, 5)
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))


def test_a_dead_storage_stops_nothing_and_catches_up(tmp_path: Path) -> None:
    path, good, bad = make(tmp_path / "a.db"), tmp_path / "good", tmp_path / "bad"
    bad.write_text("in the way")
    with replicating(path, good, f"file://{bad}", "--sync-interval", "0.05"):
        for _ in range(5):
            with connected(path) as db:
                fill(db, 5)
            eventually(lambda: restored(str(good), tmp_path / "out.db") == image(path))
        status = ltx_process("status", path, "--json", folder=tmp_path)
        out, _ = status.communicate(timeout=20)
        [found] = json.loads(out)
        assert status.returncode == 1
        assert [bool(replica["error"]) for replica in found["replicas"]] == [False, True]
        assert found["replicas"][1]["lag_size"] > 0
        bad.unlink()
        eventually(lambda: restored(str(bad), tmp_path / "out.db") == image(path), seconds=25)
    with Replica.open(str(bad)) as one, Replica.open(str(good)) as other:
        assert [file.name for file in one.files(0)] == [file.name for file in other.files(0)]


def test_a_second_replicator_of_one_database_is_refused(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    with replicating(path, url):
        eventually(lambda: bool(restored(str(url), tmp_path / "out.db")))
        with (
            Replica.open(str(url)) as replica,
            pytest.raises(ltx.DatabaseError, match="already: stop"),
        ):
            ltx.replicate_once(path, replica)


@pytest.mark.parametrize("mode", ["delete", "truncate"])
def test_a_rollback_journal_database_is_followed_and_may_change_its_mode(mode: str, tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", mode=mode), tmp_path / "replica"

    def is_there() -> bool:
        return restored(str(url), tmp_path / "out.db") == image(path)

    with replicating(path, url, "--sync-interval", "0.02"), connected(path, busy_ms=10_000) as db:
        for _ in range(3):
            fill(db, 5)
            eventually(is_there)
        assert db.execute("PRAGMA journal_mode = WAL").fetchall() == [("wal",)]
        for _ in range(3):
            fill(db, 5)
            eventually(is_there)


def test_a_database_is_brought_into_wal_mode_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", mode="delete"), tmp_path / "replica"

    def is_there() -> bool:
        return restored(str(url), tmp_path / "out.db") == image(path)

    def mode() -> object:
        with connected(path) as db:
            return scalar(db, "PRAGMA journal_mode")

    with replicating(path, url, "--sync-interval", "0.02"), connected(path, busy_ms=10_000) as db:
        fill(db, 5)
        eventually(is_there)
    assert mode() == "delete"
    with connected(path, busy_ms=10_000) as db:
        db.execute("BEGIN EXCLUSIVE")  # somebody holds a lock
        with replicating(path, url, "--sync-interval", "0.02", "--wal"):
            time.sleep(0.5)
            db.execute("COMMIT")
            for _ in range(3):
                fill(db, 5)
                eventually(is_there)
            assert mode() == "wal"
    assert restored(str(url), tmp_path / "out.db") == image(path)


def test_the_database_of_this_program_is_replicated_by_another_process(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", page_size=1024), str(tmp_path / "replica")
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        with ltx.replicate(path, url, sync_interval=0.05) as replication:
            for number in range(8):
                with closing(sqlite3.connect(path, isolation_level=None)) as other:  # and closes it again
                    other.execute("INSERT INTO t (a, b) VALUES (?, randomblob(2000))", (number,))
                app.execute("UPDATE t SET a = a + 1")
                replication.sync()
                assert restored(url, tmp_path / "out.db") == app.serialize()
            status = replication.status
            assert status["state"] == "replicating"
            assert status["compared"] == 1
            app.execute("DELETE FROM t WHERE id % 2")
        assert restored(url, tmp_path / "out.db") == app.serialize()
        assert app.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_cannot_be_replicated_says_so(tmp_path: Path) -> None:
    make(tmp_path / "a.db")
    with (
        pytest.raises(ltx.ReplicaError, match=r"^no backend for nowhere://"),
        ltx.replicate(tmp_path / "a.db", "nowhere://x"),
    ):
        pass
    (tmp_path / "in the way").write_text("")
    replication = ltx.replicate(tmp_path / "a.db", f"file://{tmp_path}/in%20the%20way", flush_timeout=0.5)
    with pytest.raises(ltx.ReplicaError, match="stays beside the database"), replication:
        pass


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"sync_interval": "x"}, TypeError, "sync_interval is a number of seconds: 'x'"),
        ({"sync_interval": True}, TypeError, "sync_interval is a number of seconds: True"),
        ({"sync_interval": -1}, ValueError, "sync_interval is a number of seconds, 0 or more"),
        ({"sync_interval": float("nan")}, ValueError, "sync_interval is a number of seconds, 0 or more"),
        ({"flush_timeout": float("inf")}, ValueError, "flush_timeout is a number of seconds, 0 or more"),
        ({"flush_timeout": None}, TypeError, "flush_timeout is a number of seconds: None"),
        ({"url": Path("replica")}, TypeError, "a replica is named by its URL"),
        ({"url": ["replica", 5]}, TypeError, "a replica is named by its URL"),
        ({"url": []}, ValueError, "a replica is needed"),
        ({"database": 5}, TypeError, "a database is a path: 5"),
    ],
)
def test_a_wrong_argument_is_refused_where_it_is_given(
    wrong: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        ltx.replicate(**{"database": "a.db", "url": "replica", **wrong})


def test_a_storage_that_is_silent_at_the_start_keeps_nothing_from_the_others(tmp_path: Path) -> None:
    """Its calls hang for 10 s and more, and it is the first replica of many databases."""
    paths = [make(tmp_path / f"{number}.db") for number in range(20)]
    with silence() as endpoint:
        host = endpoint.removeprefix("http://")
        entries = [
            f"  - path: {path}\n    replicas:\n      - url: webdav://{host}/{path.stem}\n"
            f"      - path: {tmp_path}/good/{path.stem}\n"
            for path in paths
        ]
        (tmp_path / "litestream.yml").write_text("dbs:\n" + "".join(entries))
        process = ltx_process("replicate", "--config", tmp_path / "litestream.yml", folder=tmp_path)
        until = time.monotonic() + 25  # four at a time would wait for 50 s
        try:
            for path in paths:
                good = tmp_path / "good" / path.stem
                eventually(
                    lambda: restored(str(good), tmp_path / "out.db") == image(path),  # noqa: B023
                    seconds=until - time.monotonic(),
                )
        finally:
            process.kill()
            process.communicate()
