"""What an application feels of being replicated: how long its commits take, whatever its WAL's size and its checkpoints."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from ltx.replication import locks, shrink
from ltx.replication.checkpoint import Limits
from ltx.replication.pins import Pins
from tests.support.databases import connected, fill, image, make, scalar
from tests.support.replicating import eventually, followed, replicating, restored

PAGE_SIZE = 4096

WRITER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
db.execute("PRAGMA synchronous = NORMAL")
longest, end = 0.0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.perf_counter()
    db.execute("UPDATE t SET b = randomblob(1000) WHERE id = 1 + abs(random()) % 10")
    longest = max(longest, time.perf_counter() - began)
    time.sleep(0.01)
print(longest)
"""

CHECKPOINTER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=8)
end, busy = time.monotonic() + float(sys.argv[2]) - 0.5, 0
while time.monotonic() < end:
    time.sleep(0.3)
    busy += db.execute(f"PRAGMA wal_checkpoint({sys.argv[3]})").fetchall()[0][0]
print(busy)
"""

SLOW_DISK = """
import apsw, sys, time
class File(apsw.VFSFile):
    def __init__(self, *words): super().__init__("", *words)
    def xSync(self, flags): time.sleep(0.4); super().xSync(flags)
class Disk(apsw.VFS):
    def __init__(self): super().__init__("slow", "")
    def xOpen(self, name, flags): return File(name, flags)
disk = Disk()
db = apsw.Connection(sys.argv[1], vfs="slow")
db.execute("PRAGMA synchronous = FULL; UPDATE t SET a = 4711")
time.sleep(4)  # closing it would change files
"""


def run(program: str, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("mode", "words"), [("TRUNCATE", ["--sync-interval", "5s"]), ("RESTART", [])])
def test_writers_do_not_wait_for_us_while_the_application_checkpoints(
    mode: str, words: list[str], tmp_path: Path
) -> None:
    path, url, seconds = make(tmp_path / "a.db"), tmp_path / "replica", 2.0
    with replicating(path, url, *words):
        eventually(lambda: (url / "ltx" / "0").exists())
        app = run(WRITER, path, seconds), run(CHECKPOINTER, path, seconds, mode)
        longest, busy = (float(process.communicate()[0]) for process in app)
    print(f"longest {longest} s")
    assert busy == 0
    assert (
        longest < 0.5
    )  # 0.08 s on a quiet machine; up to the sync interval and more if our pin stays where it is
    assert restored(str(url), tmp_path / "out.db") == image(path)


def test_a_checkpoint_that_waits_is_told_from_all_else(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with connected(path) as db:
        pins = Pins(path)
        try:
            open_before = os.listdir("/dev/fd")
            assert pins.waiting() is None
            assert os.listdir("/dev/fd") == open_before
            db.execute("BEGIN IMMEDIATE")  # in this process, whose locks do not count
            assert pins.waiting() is None
            db.execute("ROLLBACK")
            fill(db, 3)
            checkpointer = run(CHECKPOINTER, path, 0.6, "TRUNCATE")
            eventually(lambda: pins.waiting() is not None)
            assert pins.waiting() == path.with_name("a.db-wal").stat().st_mtime_ns
            while checkpointer.poll() is None:
                pins.slide()
                time.sleep(0.01)
            assert checkpointer.communicate()[0].strip() == "0"
            assert pins.waiting() is None
        finally:
            pins.close()
        assert pins.waiting() is None
    assert not locks.blocking_checkpoint(1 << 20)
    assert locks.descriptor_of((0, 0)) is None


def test_a_commit_whose_sync_takes_long_is_noticed_when_it_is_there(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    with replicating(path, url, "--sync-interval", "0.01"):
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))
        app = run(SLOW_DISK, path)
        began = time.monotonic()

        def arrived() -> bool:
            restored(str(url), tmp_path / "out.db")
            with closing(apsw.Connection(str(tmp_path / "out.db"))) as copy:
                found = scalar(copy, "SELECT count(*) FROM t WHERE a = 4711")
            return found == 20

        eventually(arrived)
        took_s = time.monotonic() - began
        app.kill()
        app.communicate()
    print(f"after {took_s} s")
    assert took_s < 5  # the slow look comes after ten


def test_a_big_wal_is_cut_in_steps_while_writers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrink, "_AT_ONCE", 1 << 20)
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    wal = Path(f"{path}-wal")
    with followed(path, url, Limits(min_pages=1000, truncate_pages=10_000)) as database:
        with connected(path) as db, connected(path) as reader:
            reader.execute("BEGIN; SELECT * FROM t").fetchall()
            fill(db, 25_000, size=3500)
            database.sync()
            assert database.status.checkpoints == 0
        writer = run(WRITER, path, 1.5)
        sizes = set()
        while writer.poll() is None:
            database.sync()
            sizes.add(wal.stat().st_size)
            time.sleep(0.02)
        longest = float(writer.communicate()[0])
        print(f"longest {longest} s, {database.status}")
        assert database.status.checkpoints >= 1
        assert max(sizes) > 90 << 20
        assert wal.stat().st_size < 10 << 20
        assert longest < 0.5
        assert database.status.longest_barrier_s < 0.1
        database.sync()
        assert database.uploaders[0].push()
        assert database.compared == 1
        assert restored(str(url), tmp_path / "out.db") == image(path)


def test_a_machine_that_fails_at_any_step_of_cutting_has_the_newest_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrink, "_AT_ONCE", 1)
    monkeypatch.setattr(shrink, "_STEP", 1 << 18)
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    wal, cut = Path(f"{path}-wal"), os.ftruncate
    copies: list[Path] = []

    def then_fail(descriptor: int, size: int) -> None:
        cut(descriptor, size)
        copy = tmp_path / f"{len(copies)}.db"
        shutil.copy(path, copy)
        shutil.copy(wal, f"{copy}-wal")  # without -shm: it is read as after a failure
        copies.append(copy)

    monkeypatch.setattr(os, "ftruncate", then_fail)
    with followed(path, url, Limits(min_pages=100, truncate_pages=200)) as database, connected(path) as db:
        for _ in range(3):  # the same pages again and again: every older frame holds an older state
            db.execute("UPDATE t SET a = a + 1")
            fill(db, 100, size=3000)
        database.sync()
        assert database.status.wal_frames == database.status.wal_frames_done > 200
        database.sync()
        assert copies == []  # old frames, from which a recovery would make a state: all or none of them
        db.execute("BEGIN IMMEDIATE; DELETE FROM t WHERE id = 0; ROLLBACK")  # nothing is written
        database.sync()
        assert copies == []
        db.execute("UPDATE t SET a = 7 WHERE id = 1")
        expected = image(path)
        database.sync()
        assert len(copies) >= 4
        assert wal.stat().st_size < 10 * PAGE_SIZE
        for copy in copies:
            assert image(copy) == expected
        fill(db, 3)
        database.sync()
        assert database.uploaders[0].push()
        assert restored(str(url), tmp_path / "out.db") == image(path)
        assert database.compared == 1


def test_a_truncate_that_met_a_reader_is_tried_again_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ltx.replication.database._STUCK_S", 0.1)
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    wal = Path(f"{path}-wal")
    with followed(path, url, Limits(min_pages=100, truncate_pages=200)) as database, connected(path) as db:
        with connected(path) as reader:
            fill(db, 300, size=3000)
            reader.execute(
                "BEGIN; SELECT count(*) FROM t"
            ).fetchall()  # of the newest state, and from the WAL
            for _ in range(4):
                database.sync()
                time.sleep(0.1)
            assert database.status.checkpoints == 1
            assert wal.stat().st_size > 200 * PAGE_SIZE
            why = "its file is cut as soon as nobody reads from it and something is committed"
            assert database.status.wal_stuck == why
            [record] = [record for record in caplog.records if record.levelname == "WARNING"]
            assert record.message == f"the WAL cannot shrink: {why}"
            assert vars(record)["wal_size"] == wal.stat().st_size

        def shrunk() -> bool:
            database.sync()
            return wal.stat().st_size == 0

        eventually(shrunk)  # nobody commits: it is cut as it is
        database.sync()
        found = database.status
        assert found.wal_stuck is None
        assert database.uploaders[0].push()
        assert found.longest_barrier_s < 0.1
        assert restored(str(url), tmp_path / "out.db") == image(path)
