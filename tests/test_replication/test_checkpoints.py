"""Our checkpoints keep the WAL small, hold the application up for moments, and lose nothing."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from ltx import Replica
from ltx.replication.checkpoint import Limits
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import differing, restored

PAGE_SIZE = 4096

WRITER = """
import sys, time, apsw
db = apsw.Connection(sys.argv[1])
db.set_busy_timeout(10_000)
db.execute("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF").fetchall()
longest, end, count = 0.0, time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    began = time.perf_counter()
    with db:
        for _ in range(20):
            db.execute("INSERT INTO t (a, b) VALUES (abs(random()) % 1000, randomblob(3000))")
        db.execute("DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY a LIMIT 18)")
    longest = max(longest, time.perf_counter() - began)
    count += 1
    time.sleep(0.001)
print(count, longest)
"""


@contextmanager
def followed(path: Path, url: Path, limits: Limits) -> Iterator[Database]:
    with Replica.open(str(url)) as replica:
        database = Database(path, [replica], Settings(limits=limits))
        try:
            yield database
        finally:
            database.close()


def check(database: Database, url: Path, output: Path) -> None:
    database.sync()
    assert database.uploaders[0].push()
    assert differing(restored(str(url), output), image(database.path), PAGE_SIZE) == []
    assert database.compared == 1


def test_the_wal_of_an_application_that_never_checkpoints_stays_small(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    with followed(path, url, Limits(min_pages=300)) as database:
        database.sync()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "5"], stdout=subprocess.PIPE, text=True
        )
        largest = 0
        while writer.poll() is None:
            database.sync()
            database.uploaders[0].push()
            largest = max(largest, database.status.wal_frames)
            time.sleep(0.01)
        out, _ = writer.communicate()
        count, longest = out.split()
        status = database.status
        print(f"{count} transactions, longest {longest} s, {largest} frames, {status}")
        assert status.checkpoints >= 2
        assert largest < 5000
        assert status.longest_barrier_s < 0.1
        check(database, url, tmp_path / "out.db")


def test_a_big_wal_is_brought_over_without_holding_writers_up(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    limits = Limits(min_pages=20_000, truncate_pages=20_000)
    with followed(path, url, limits) as database, connected(path) as db:
        database.sync()
        fill(db, 25_000, size=3500)
        assert Path(f"{path}-wal").stat().st_size > 90 << 20
        database.sync()
        if not database.status.checkpoints:
            time.sleep(0.2)
            database.sync()
        status = database.status
        print(status)
        assert status.checkpoints == 1
        assert status.longest_barrier_s < 0.1
        assert Path(f"{path}-wal").stat().st_size == 0  # cut
        fill(db, 3)
        assert Path(f"{path}-wal").stat().st_size < 1 << 20
        check(database, url, tmp_path / "out.db")


def test_a_reader_of_an_old_state_is_waited_for_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ltx.replication.database._STUCK_S", 0.2)
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    with followed(path, url, Limits(min_pages=50)) as database, connected(path) as db:
        with connected(path) as reader:
            reader.execute("BEGIN; SELECT * FROM t").fetchall()
            for _ in range(30):
                fill(db, 20, size=3000)
                database.sync()
                time.sleep(0.02)
            assert database.status.checkpoints == 0
            assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
                "the WAL cannot shrink: somebody has been reading an old state for long"
            ]
        time.sleep(2)
        database.sync()
        assert database.status.checkpoints == 1
        fill(db, 1)
        database.sync()
        assert database.status.wal_frames < 10
        check(database, url, tmp_path / "out.db")


@pytest.mark.parametrize("mode", ["FULL", "RESTART", "TRUNCATE"])
def test_a_blocking_checkpoint_of_the_application_gets_through(mode: str, tmp_path: Path) -> None:
    """It waits for readers of old states, and we are one until the next look."""
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    program = (
        "import sys, sqlite3\ndb = sqlite3.connect(sys.argv[1], timeout=8, isolation_level=None)\n"
        f"print(db.execute('PRAGMA wal_checkpoint({mode})').fetchall()[0][0])\n"
    )
    with followed(path, url, Limits()) as database, connected(path) as db:
        database.sync()
        fill(db, 30)
        app = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
        while app.poll() is None:
            database.sync()
            time.sleep(0.01)
        assert app.communicate()[0].strip() == "0"
        with apsw.Connection(str(path)) as other:
            other.execute("UPDATE t SET a = 3")
        check(database, url, tmp_path / "out.db")


def test_a_checkpoint_whose_file_cannot_be_written_ends_in_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    with followed(path, url, Limits(min_pages=50)) as database, connected(path) as db:
        database.sync()
        fill(db, 100, size=3000)
        staged, calls = database.line.stage, []

        def first_then_full(captured: object) -> object:
            calls.append(captured)
            if len(calls) == 2:  # behind the barrier
                raise OSError(28, "No space left on device")
            found = staged(captured)  # type: ignore[arg-type]
            with connected(path) as late:  # a commit between the sync and the barrier
                fill(late, 1)
            return found

        monkeypatch.setattr(database.line, "stage", first_then_full)
        with pytest.raises(OSError, match="space"):
            database.sync()
        monkeypatch.undo()
        database.sync()
        assert database.compared == 2
        assert database.uploaders[0].push()
        assert restored(str(url), tmp_path / "out.db") == image(path)
