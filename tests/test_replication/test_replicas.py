"""Several replicas of a database, and several writers of a replica."""

import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ltx import ConflictError, Replica
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import restored


@pytest.fixture
def opened(tmp_path: Path) -> "Opened":  # type: ignore[misc]
    with ExitStack() as stack:
        yield Opened(tmp_path, stack)


class Opened:
    """Databases that are replicated by hand."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack

    def database(
        self, path: Path, *urls: str | Path, keep_size: int = 1 << 30, adopt: bool = False
    ) -> Database:
        replicas = [self._stack.enter_context(Replica.open(str(url))) for url in urls]
        database = Database(path, replicas, Settings(keep_size=keep_size, adopt=adopt))
        self._stack.callback(database.close)
        return database

    def check(self, path: Path, *urls: Path) -> None:
        for url in urls:
            assert restored(str(url), self.folder / "out.db") == image(path)


def push(database: Database) -> None:
    for _ in range(3):
        database.sync()
        done = [uploader.push() for uploader in database.uploaders]  # each gets its turn
        if all(done):
            return
    raise AssertionError(database.status)


def change(path: Path, rows: int = 5) -> None:
    with connected(path) as db:
        fill(db, rows)


def levels(url: Path) -> set[int]:
    with Replica.open(str(url)) as replica:
        return {file.level for file in replica.files()}


def test_of_two_writers_one_goes_on_and_the_other_names_both(opened: Opened) -> None:
    one = make(opened.folder / "one.db", rows=99)
    other = Path(shutil.copy(one, opened.folder / "other.db"))
    change(other, 2)
    url = opened.folder / "replica"
    first = opened.database(one, url)
    push(first)
    second = opened.database(other, url, adopt=True)  # takes over: it publishes its own state on top
    push(second)
    opened.check(other, url)
    for _ in range(2):
        change(one)
        first.sync()
        assert not first.uploaders[0].push()
    error = first.uploaders[0].error
    assert isinstance(error, ConflictError)
    assert str(one) in str(error)
    assert str(other) in str(error)
    assert first.status.state == "stopped"
    change(other)
    push(second)
    opened.check(other, url)
    with Replica.open(str(url)) as replica:
        assert replica.verify().is_sound


def test_a_replica_of_another_database_is_refused_until_it_is_adopted(opened: Opened) -> None:
    one, other = make(opened.folder / "one.db", rows=99), make(opened.folder / "other.db", rows=77)
    url = opened.folder / "replica"
    push(opened.database(one, url))
    (url / "lineage.json").unlink()  # as of a writer that leaves no name: only the pages tell
    stranger = opened.database(other, url)
    for _ in range(2):
        with pytest.raises(ConflictError, match="holds another database"):
            stranger.sync()
    opened.check(one, url)
    assert levels(url) == {0}
    stranger.close()
    stranger = opened.database(other, url)
    with pytest.raises(ConflictError, match="holds another database"):
        stranger.sync()
    stranger.close()
    stranger = opened.database(other, url, adopt=True)
    push(stranger)
    opened.check(other, url)


def test_a_replica_that_is_added_later_begins_with_a_snapshot(opened: Opened) -> None:
    path = make(opened.folder / "a.db")
    old, new = opened.folder / "old", opened.folder / "new"
    database = opened.database(path, old)
    for _ in range(4):
        change(path)
        push(database)
    database.close()
    database = opened.database(path, old, new)
    change(path)
    push(database)
    change(path)
    push(database)
    opened.check(path, old, new)
    assert levels(old) == {0}
    assert levels(new) == {0, 9}


def test_a_replica_that_lags_beyond_what_is_kept_gets_a_snapshot(opened: Opened) -> None:
    path = make(opened.folder / "a.db")
    good, bad = opened.folder / "good", opened.folder / "bad"
    database = opened.database(path, good, bad, keep_size=20_000)
    push(database)
    shutil.move(bad, opened.folder / "aside")
    bad.write_text("in the way")
    for _ in range(300):
        change(path, 3)
        database.sync()
        database.uploaders[0].push()
    database.uploaders[1].push()
    assert database.uploaders[1].error
    database.sync()
    assert len(list((opened.folder / ".a.db-litestream" / "ltx" / "0").iterdir())) < 300
    bad.unlink()
    shutil.move(opened.folder / "aside", bad)
    push(database)
    opened.check(path, good, bad)
    assert levels(bad) == {0, 9}
    change(path)
    push(database)
    opened.check(path, good, bad)


def test_a_replica_that_did_not_answer_at_first_and_is_ahead_is_gone_on_from(opened: Opened) -> None:
    path, url = make(opened.folder / "a.db"), opened.folder / "replica"
    database = opened.database(path, url)
    push(database)
    database.close()
    meta = opened.folder / ".a.db-litestream"
    shutil.copytree(meta, opened.folder / "meta-then")
    database = opened.database(path, url)
    for _ in range(3):
        change(path)
        push(database)
    database.close()
    shutil.rmtree(meta)
    shutil.move(opened.folder / "meta-then", meta)  # as a machine that was rolled back has it
    shutil.move(url, opened.folder / "aside")
    url.write_text("in the way")
    change(path)
    database = opened.database(path, url)
    database.sync()
    assert not database.uploaders[0].push()
    url.unlink()
    shutil.move(opened.folder / "aside", url)
    push(database)
    opened.check(path, url)
    with Replica.open(str(url)) as replica:
        assert replica.verify().is_sound


GIVEN_UP = """
import os, signal, sys, apsw
shm = open(sys.argv[1] + "-shm", "r+b", buffering=0)
before = shm.read(96)  # both copies of the header of the WAL's index
db = apsw.Connection(sys.argv[1])
db.execute("PRAGMA wal_autocheckpoint = 0; UPDATE t SET a = 12345; ").fetchall()
shm.seek(0)
shm.write(before)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_transaction_whose_writer_died_before_it_told_anyone_is_not_published(opened: Opened) -> None:
    """Its frames are whole and end in a commit; yet no reader saw it, and the next writer writes over it."""
    path, url = make(opened.folder / "a.db", page_size=512, rows=100), opened.folder / "replica"
    with connected(path) as db:
        database = opened.database(path, url)
        push(database)
        fill(db, 2)
        push(database)
        txid = database.line.txid
        wal = Path(f"{path}-wal").stat().st_size
        done = subprocess.run([sys.executable, "-c", GIVEN_UP, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert Path(f"{path}-wal").stat().st_size > wal
        assert db.execute("SELECT count(*) FROM t WHERE a = 12345").fetchall() == [(0,)]
        push(database)
        assert database.line.txid == txid
        fill(db, 1)
        push(database)
        opened.check(path, url)
        assert database.compared == 1


def test_requests_are_few(opened: Opened) -> None:
    path, url = make(opened.folder / "a.db"), opened.folder / "replica"
    database = opened.database(path, url)
    push(database)
    stats = database.uploaders[0].replica.backend.stats
    assert dict(stats.requests) == {"list": 1, "put": 2}  # one names the writer
    change(path)
    push(database)
    assert dict(stats.requests) == {"list": 1, "put": 3}
    for _ in range(50):
        push(database)
    assert dict(stats.requests) == {"list": 1, "put": 3}
