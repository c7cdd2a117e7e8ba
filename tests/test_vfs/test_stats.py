"""A connection tells what its queries cost, and not what those of others do."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfs
from tests.test_vfs.origin import Origin, number, origin, rows
from tests.test_vfs.storages import delays, hooked

SCAN = "SELECT count(*) FROM t WHERE length(b) > 1"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 3000)",
        )
        made.commit("UPDATE t SET b = 'new' WHERE id = 7")
        yield made


def stats(db: apsw.Connection, schema: str = "main") -> dict[str, object]:
    told: dict[str, object] = json.loads(str(rows(db, f"PRAGMA {schema}.litestream_stats")[0][0]))
    return told


def test_requests_bytes_pages_and_waiting_are_told(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=3600)
    opening = stats(db)
    assert opening["requests_by_kind"] == {"get": 3, "list": 1}
    assert opening["requests"] == 4
    with delays(hooks, 0.05):
        assert number(db, "SELECT length(b) FROM t WHERE id = 2000") == 1000
    told = stats(db)
    assert told["requests"] == 4 + 2
    assert 80_000 < int(str(told["bytes"])) < 110_000
    assert told["cache_misses"] == 2
    assert 0.1 <= float(str(told["waited_s"])) < 20
    db.execute("PRAGMA cache_size = 1")
    for _ in range(2):
        assert number(db, SCAN) == 3000
    again = stats(db)
    assert number(db, SCAN) == 3000
    last = stats(db)
    assert last["requests"] == again["requests"]
    assert last["cache_misses"] == again["cache_misses"]
    assert int(str(last["cache_hits"])) - int(str(again["cache_hits"])) > 700
    assert last["requests"] == len(hooks.log)


def test_each_connection_and_each_attached_database_has_its_own(source: Origin) -> None:
    url, _ = hooked(source.url)
    first, second = (vfs.connect(url, poll_interval=3600) for _ in range(2))
    before = stats(second)
    assert before["requests"] == 0, "the first one's look is fresh, and the files are open"
    assert number(first, SCAN) == 3000
    assert stats(second) == before
    assert number(second, SCAN) == 3000
    assert stats(second)["requests"] == 0
    second.execute("ATTACH ? AS past", (vfs.uri(url, txid=1),))
    assert number(second, SCAN.replace("t WHERE", "past.t WHERE")) == 3000
    assert stats(second)["requests"] == 0
    assert stats(second, "past")["requests"] != 0


def test_threads_that_query_at_once_are_told_apart(source: Origin) -> None:
    url, hooks = hooked(source.url)
    kept = vfs.connect(url, poll_interval=3600)
    opened = len(hooks.log)
    connections = [vfs.connect(url, txid=1, cache_size=1000 + each) for each in range(4)]
    threads = [threading.Thread(target=number, args=(db, SCAN)) for db in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(int(str(stats(db)["requests"])) for db in connections) == len(hooks.log) - opened
    assert kept


def test_the_pragma_takes_no_value(source: Origin) -> None:
    with pytest.raises(vfs.QueryError, match="only tells"):
        rows(vfs.connect(source.url), "PRAGMA litestream_stats = 0")


def test_the_shell_says_after_each_statement_what_it_cost(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        source.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (7)")
        done = subprocess.run(
            [sys.executable, "-m", "vfs", source.url, "--stats", "SELECT n FROM t", ".tables", "SELECT 2"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["7", "t", "2"]
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("cost: 2 requests (1 get, 1 list), ")
    assert lines[0].endswith(" to open")
    assert all(line.startswith("cost: 0 requests, 0 bytes, ") for line in lines[1:])
