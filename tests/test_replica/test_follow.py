"""A copy that keeps up: the same as its source, whole for whoever reads it, and nobody else's."""

import ast
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

import ltx
from ltx.replica.compaction import compact, snapshot
from ltx.replica.follow import Follower
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import ROOT, eventually, ltx_process, replicating
from tests.support.writers import prepare, writing
from tests.test_replica.killed_following import CHANGES, body

_READER = """
import sqlite3, sys, time
kept, seen = None, 0
while not sys.stdin.closed:
    if kept is None or seen % 7 == 0:
        kept = sqlite3.connect(sys.argv[1], timeout=20)
    [(one, other, counter)] = kept.execute(
        "SELECT (SELECT sum(a) FROM t), (SELECT sum(a) FROM u), n FROM counter").fetchall()
    assert one == other, (one, other)
    assert counter >= seen, (counter, seen)
    if counter > seen:
        assert kept.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        print(counter, flush=True)
    seen = counter
    time.sleep(0.002)
"""

_COUNTS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for _ in sys.stdin:
    print(db.execute("SELECT count(*), sum(length(b)) FROM t").fetchall(), flush=True)
"""
_READS_LONG = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
print(db.execute("SELECT count(*) FROM t").fetchall(), flush=True)
sys.stdin.read()
"""
_WRITES = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2]).fetchall()
"""


def program(text: str, *words: str | Path) -> "subprocess.Popen[str]":
    """Run a program that uses the standard library's SQLite."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Source:
    """A database, its replica, and a copy beside them."""

    def __init__(self, folder: Path) -> None:
        self.path, self.copy, self.url = (
            make(folder / "a.db", page_size=512),
            folder / "copy.db",
            folder / "replica",
        )
        self.replica = ltx.Replica.open(str(self.url))
        self.publish()

    def publish(self, sql: str = "") -> None:
        with connected(self.path) as db:
            for statement in sql.split(";"):
                db.execute(statement).fetchall()
            fill(db, 2)
        ltx.replicate_once(self.path, self.replica)

    def follower(self) -> Follower:
        return Follower(self.replica, self.copy)

    def check(self) -> None:
        assert body(self.copy.read_bytes()) == body(image(self.path))
        assert sorted(found.name for found in self.copy.parent.glob("copy.db*")) == [
            "copy.db",
            "copy.db-follow",
        ]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    source = Source(tmp_path)
    yield source
    source.replica.close()


def test_killed_before_any_call_the_copy_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.test_replica.killed_following", folder],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    for line in done.stdout.splitlines():
        name, _, counts = line.partition(" {")
        found: dict[str, int] = ast.literal_eval(f"{{{counts}")
        assert set(found) == {"none" if name == "begin" else "old", "new", "done"}
        assert sum(found.values()) > 30


def test_readers_see_every_change_and_never_half_of_one(tmp_path: Path) -> None:
    path, url, copy = tmp_path / "a.db", tmp_path / "replica", tmp_path / "copy.db"
    prepare(path, mode="wal", page_size=1024)
    seed = time.time_ns() % 1_000_000
    print(f"seed: {seed}")
    choice = Random(seed)
    words = ("restore", "-f", url, "-o", copy, "--follow-interval", "0.02")
    readers: list[subprocess.Popen[str]] = []
    with replicating(path, url, "--sync-interval", "0.02"), ltx.Replica.open(str(url)) as replica:
        eventually(lambda: bool(replica.files()))
        with writing(path, processes=2, seed=seed):
            for number in range(5):
                follower = ltx_process(*words, folder=tmp_path)
                if not readers:
                    eventually(copy.exists)
                    readers = [program(_READER, copy) for _ in range(3)]
                time.sleep(0.8 + choice.random())
                if number % 2:
                    snapshot(replica)
                follower.kill()
                follower.communicate()
    follower = ltx_process(*words, folder=tmp_path)
    eventually(lambda: body(_read(copy)) == body(image(path)))
    time.sleep(2)  # the one before may have brought all of it: let this one begin
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(10) == 0
    follower.communicate()
    with closing(sqlite3.connect(path)) as db:
        [(last,)] = db.execute("SELECT n FROM counter").fetchall()
    time.sleep(0.2)
    for reader in readers:
        assert reader.poll() is None, reader.communicate()
        reader.kill()
        out, err = reader.communicate()
        assert err == ""
        counters = [int(line) for line in out.splitlines()]
        assert counters[-1] == last
        assert len(counters) > 20


def _read(path: Path) -> bytes:
    with closing(sqlite3.connect(path, timeout=20)) as db:
        return db.serialize()


@pytest.mark.parametrize("change", CHANGES)
def test_a_reader_that_has_it_open_sees_whatever_became_of_the_source(source: Source, change: str) -> None:
    with closing(source.follower()) as follower:
        follower.step()
        with program(_COUNTS, source.copy) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            for sql in ("", CHANGES[change], "", "DELETE FROM t WHERE id % 3"):
                source.publish(sql)
                while follower.step():
                    pass
                source.check()
                reader.stdin.write("\n")
                reader.stdin.flush()
                with connected(source.path) as db:
                    expected = db.execute("SELECT count(*), sum(length(b)) FROM t").fetchall()
                assert reader.stdout.readline() == f"{expected}\n"


def test_what_was_merged_and_pruned_meanwhile_is_taken_from_what_is_left(source: Source) -> None:
    with closing(source.follower()) as follower:
        follower.step()
    for _ in range(5):
        source.publish()
    compact(source.replica, 1)
    for file in source.replica.files(0):
        source.replica.backend.delete([file.key])
    with closing(source.follower()) as follower:
        done = follower.step()
        assert done
        assert not done.is_whole
        source.check()
        for _ in range(3):
            source.publish()
        snapshot(source.replica)
        for file in source.replica.files():
            if file.level != 9:
                source.replica.backend.delete([file.key])
        done = follower.step()
        assert done
        assert done.is_whole
        assert done.page_count < 12  # those that were there already are not written again
        source.check()
        assert follower.step() is None


def bereft(source: Source) -> Follower:
    """Return a follower that is at the newest state of a replica that is gone, with all that was known of it."""
    for _ in range(3):
        source.publish()
    follower = source.follower()
    follower.step()
    shutil.rmtree(source.url)
    shutil.rmtree(source.path.parent / ".a.db-litestream")
    return follower


@pytest.mark.parametrize("more", [0, 5])
def test_a_replica_that_was_made_anew_is_taken_whole(source: Source, more: int) -> None:
    follower = bereft(source)
    assert follower.step() is None  # it is not there: the copy stays as it is
    for number in range(1 + more):
        source.publish("UPDATE t SET b = randomblob(200)" if number == 0 else "")
    done = follower.step()
    assert done
    assert done.is_whole
    source.check()
    follower.close()


@pytest.mark.parametrize("more", [0, 1])
def test_increments_of_another_history_are_never_put_on_the_copy(source: Source, more: int) -> None:
    """Its small files are merged and pruned already: the name that the copy came from is not there."""
    follower = bereft(source)
    source.publish("DELETE FROM t WHERE a % 3; UPDATE t SET b = randomblob(9); VACUUM")
    for _ in range(3):
        source.publish()
    snapshot(source.replica)
    for _ in range(more):
        source.publish()
    source.replica.backend.delete([file.key for file in source.replica.files(0) if file.max_txid <= 4])
    done = follower.step()
    assert done
    assert done.is_whole
    source.check()
    assert follower.step() is None
    follower.close()


def test_a_copy_goes_on_from_its_own_state_when_that_is_in_a_merged_file(source: Source) -> None:
    """The time of its last transaction shows that the files are of its history."""
    source.publish()
    compact(source.replica, 1)
    source.publish()
    with closing(source.follower()) as follower:
        follower.step()
        compact(source.replica, 1)
        source.replica.backend.delete([file.key for file in source.replica.files(0)])
        assert follower.step() is None
        source.publish()
        done = follower.step()
        assert done
        assert not done.is_whole
        source.check()


def test_a_gap_is_waited_out(source: Source) -> None:
    with closing(source.follower()) as follower:
        follower.step()
        source.publish()
        source.publish()
        [key] = [file.key for file in source.replica.files(0) if file.max_txid == 2]
        data = source.replica.backend.get(key)
        source.replica.backend.delete([key])
        assert follower.step() is None
        assert follower.txid == 1
        source.replica.backend.put(key, data)
        assert follower.step()
        source.check()


def test_a_reader_that_does_not_go_is_waited_for(source: Source) -> None:
    with closing(source.follower()) as follower:
        follower.step()
        source.publish()
        with program(_READS_LONG, source.copy) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "[(22,)]\n"
            assert follower.step() is None
        assert follower.step()
        source.check()


def test_a_damaged_file_changes_nothing(source: Source) -> None:
    with closing(source.follower()) as follower:
        follower.step()
        before = source.copy.read_bytes()
        source.publish()
        path = source.url / "ltx" / "0" / "0000000000000002-0000000000000002.ltx"
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
        assert follower.step() is None
        assert source.copy.read_bytes() == before
        source.path.parent.joinpath(".a.db-litestream").rename(source.path.parent / "forgotten")
        source.publish()  # a file that cannot be read is as good as a hole: this is a snapshot
        assert follower.step()
        source.check()


@pytest.mark.parametrize("when", ["while it follows", "while it does not"])
@pytest.mark.parametrize("sql", ["UPDATE t SET a = 0", "PRAGMA journal_mode = WAL", "VACUUM"])
def test_a_copy_that_somebody_else_wrote_to_is_refused(source: Source, when: str, sql: str) -> None:
    follower = source.follower()
    follower.step()
    if when == "while it does not":
        follower.close()
    with program(_WRITES, source.copy, sql) as writer:
        assert writer.wait() == 0
    before = source.copy.read_bytes()
    source.publish()
    with pytest.raises(ltx.OutputExistsError, match="somebody else"):
        follower.step() if when == "while it follows" else source.follower()
    follower.close()
    assert source.copy.read_bytes() == before
    with closing(Follower(source.replica, source.copy, force=True)) as follower:
        follower.step()
        source.check()


def test_only_a_copy_of_this_replica_is_gone_on_with(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ltx.OutputExistsError, match="no copy that follows"):
        Follower(source.replica, source.path)
    with closing(source.follower()) as follower:
        follower.step()
        with pytest.raises(ltx.DatabaseError, match="another part of this program"):
            source.follower()
    shutil.copytree(source.url, tmp_path / "other")
    other = ltx.Replica.open(str(tmp_path / "other"))
    with closing(other), pytest.raises(ltx.OutputExistsError, match="another replica"):
        Follower(other, source.copy)
    with ltx.Replica.open(str(tmp_path / "empty")) as empty, pytest.raises(ltx.NoSnapshotError):
        next(empty.follow(tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists()


def test_the_command_says_what_it_does_and_ends_well(source: Source) -> None:
    words = ("restore", "-f", source.url, "-o", source.copy, "--follow-interval", "0.02", "--json")
    process = ltx_process(*words, folder=source.path.parent)
    assert process.stdout is not None
    for txid in (1, 2, 3):
        found = json.loads(process.stdout.readline())
        assert found["txid"] == f"{txid:016x}"
        source.check()
        source.publish()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    process = ltx_process(
        "restore", "-f", source.url, "-o", source.copy, "--txid", f"{1:016x}", folder=source.path.parent
    )
    assert "newest state" in process.communicate(timeout=15)[1]
    assert process.returncode == 2
