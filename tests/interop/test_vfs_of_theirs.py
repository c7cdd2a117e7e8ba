"""The real Litestream's own VFS reads replicas that we wrote: the program loads it, as its users do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.support.replicating import replicating
from tests.support.writers import PROMISE, prepare, writing
from tests.test_vfs.origin import Origin, origin, rows

THEIRS = """
import json, os, sys, apsw, litestream_vfs
db = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
db.enable_load_extension(True)
db.load_extension(litestream_vfs.loadable_path().removesuffix(".so"))
db.execute("ATTACH 'file:replica.db?vfs=litestream' AS r")
print(json.dumps([db.execute(statement).fetchall() for statement in sys.argv[1:]]), file=sys.stderr, flush=True)
os._exit(0)  # its Go runtime stays behind
"""


def ask_theirs(url: str, *statements: str) -> Sequence[object]:
    """Run statements in a process that loads their VFS; the replica is attached as `r`."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LITESTREAM_"))}
    done = subprocess.run(
        [sys.executable, "-c", THEIRS, *statements],
        env={**bare, "LITESTREAM_REPLICA_URL": url, "LITESTREAM_LOG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: Sequence[object] = json.loads(done.stderr.splitlines()[-1])
    return found


def lists(source: Origin, statement: str) -> list[list[object]]:
    return [list(row) for row in rows(source.connection, statement)]


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_their_vfs_answers_on_our_replica_as_the_source_does(page_size: int, tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica", page_size=page_size) as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b BLOB)",
            "INSERT INTO t SELECT value, 'text ' || value, randomblob(value * 9) FROM generate_series(1, 150)",
            "CREATE INDEX by_a ON t (a)",
        )
        source.commit("UPDATE t SET a = 'changed' WHERE id % 7 = 0")
        source.commit("INSERT INTO t SELECT value, 'new', zeroblob(500) FROM generate_series(200, 260)")
        source.commit("DELETE FROM t WHERE id BETWEEN 20 AND 40")
        asked = "SELECT id, a, hex(b) FROM {}t ORDER BY a, id"
        answered = ask_theirs(
            source.url, asked.format("r."), "PRAGMA r.litestream_txid", "PRAGMA r.integrity_check"
        )
        assert answered == [lists(source, asked.format("")), [[f"{source.newest:016x}"]], [["ok"]]]


def test_their_vfs_answers_on_files_that_we_merged(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        source.commit("CREATE TABLE t (n)", "INSERT INTO t SELECT value FROM generate_series(1, 500)")
        for each in range(6):
            source.commit(
                f"UPDATE t SET n = n + {each + 1} WHERE n % 3 = {each % 3}", "INSERT INTO t VALUES (1)"
            )
        source.snapshot(3)
        source.merge(1, 1, 4)
        source.prune(0, 5)
        answered = ask_theirs(source.url, "SELECT count(*), sum(n) FROM r.t", "PRAGMA r.litestream_txid")
        assert answered == [lists(source, "SELECT count(*), sum(n) FROM t"), [[f"{source.newest:016x}"]]]


def test_their_vfs_answers_on_what_we_write_under_load(tmp_path: Path) -> None:
    """Any state that they open meanwhile keeps the promise; the last one is the source's.

    They are not asked for `integrity_check`: after a VACUUM they still count pages beyond the new end.
    """
    path, url = tmp_path / "app.db", f"file://{tmp_path}/replica"
    prepare(path, mode="wal", page_size=4096)
    answered: list[int] = []
    with replicating(path, url, "--sync-interval", "0.1"), writing(path, processes=2, seed=20261130):
        for _ in range(3):
            time.sleep(1)
            found: Any = ask_theirs(url, PROMISE.replace("FROM ", "FROM r."))
            [[[one, other, counter]]] = found
            assert one == other
            answered.append(counter)
    assert answered == sorted(answered)
    asked = "SELECT id, a, hex(b) FROM {}t ORDER BY id"
    with closing(apsw.Connection(str(path))) as db:
        source = [list(row) for row in db.execute(asked.format(""))]
        promise = [list(row) for row in db.execute(PROMISE)]
    assert ask_theirs(url, asked.format("r."), PROMISE.replace("FROM ", "FROM r.")) == [source, promise]
