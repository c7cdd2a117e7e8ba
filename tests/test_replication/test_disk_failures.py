"""A disk that fails under our checkpoints: the WAL stays, and with it the application's data, and all is captured."""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import apsw
import pytest

from ltx.replication import checkpoint, shrink
from ltx.replication.checkpoint import Limits
from ltx.replication.database import Database
from ltx.replication.locks import descriptors_of
from ltx.replication.pins import DiskError, Pins
from ltx.replication.waiters import Waiters
from tests.support.databases import connected, fill, image, make, scalar
from tests.support.replicating import eventually, followed, restored

PAGE_SIZE = 4096


def inode_of(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def fail_to_sync(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[int]:
    """Let syncs of one file fail; return the descriptors that it was tried with."""
    sync, tried = os.fsync, []

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) == inode_of(path):
            tried.append(descriptor)
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return tried


def commit_within_the_first_checkpoint(monkeypatch: pytest.MonkeyPatch, db: apsw.Connection) -> list[int]:
    """Leave a frame for the time behind the barrier; return how many checkpoints there were."""
    original, calls = checkpoint._checkpoint, []

    def checkpointed(connection: apsw.Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            db.execute("UPDATE t SET a = 1 WHERE id = 1")
        original(connection)

    monkeypatch.setattr(checkpoint, "_checkpoint", checkpointed)
    return calls


def check_that_all_is_kept(database: Database, db: apsw.Connection, url: Path, output: Path) -> None:
    """The application goes on, and checkpoints all it can: the WAL does not begin anew, and all is captured."""
    wal = Path(f"{database.path}-wal")
    end = 32 + database.status.wal_frames * (24 + PAGE_SIZE)
    before, count = wal.read_bytes()[:end], database.status.checkpoints
    for _ in range(3):
        fill(db, 20, size=3000)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        assert database.sync()
        assert not database.sync()
        assert database.uploaders[0].push()
        assert restored(str(url), output) == image(database.path)
    assert wal.read_bytes()[: len(before)] == before
    assert database.status.checkpoints == count
    assert database.status.error is None


def test_a_failed_sync_of_the_database_ends_our_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    with connected(path) as db, followed(path, url, Limits(min_pages=50, truncate_pages=60)) as database:
        checkpointing = descriptors_of(inode_of(path))  # the application's, and those of the pins
        tried = fail_to_sync(monkeypatch, path)
        calls = commit_within_the_first_checkpoint(monkeypatch, db)
        fill(db, 100, size=3000)
        database.sync()
        assert len(tried) == 1
        assert not checkpointing & set(tried)
        assert (len(calls), database.status.checkpoints) == (1, 0)
        found = database.status.wal_stuck
        assert found is not None
        assert "its disk failed while the database was written" in found
        assert "No space left on device" in found
        [record] = [record for record in caplog.records if record.levelname == "WARNING"]
        assert record.message == f"the WAL cannot shrink: {found}"
        check_that_all_is_kept(database, db, url, tmp_path / "out.db")
        assert (len(calls), len(tried)) == (1, 1)
        assert database.status.wal_stuck == found
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@pytest.mark.parametrize("failing", [1, 2])  # in front of the barrier, and behind it
def test_an_io_error_in_a_checkpoint_ends_our_checkpoints(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    calls = []

    class Failing:
        """A connection whose checkpoint fails as SQLite's does."""

        def __init__(self, connection: apsw.Connection) -> None:
            self.set_busy_timeout = connection.set_busy_timeout

        def wal_checkpoint(self, *_: object) -> None:
            raise apsw.IOError("disk I/O error")

    with connected(path) as db, followed(path, url, Limits(min_pages=50)) as database:
        commit_within_the_first_checkpoint(monkeypatch, db)
        original = checkpoint._checkpoint

        def checkpointed(connection: apsw.Connection) -> None:
            calls.append(1)
            original(cast(apsw.Connection, Failing(connection)) if len(calls) == failing else connection)

        monkeypatch.setattr(checkpoint, "_checkpoint", checkpointed)
        fill(db, 100, size=3000)
        database.sync()
        assert (len(calls), database.status.checkpoints) == (failing, 0)
        assert "disk I/O error" in str(database.status.wal_stuck)
        check_that_all_is_kept(database, db, url, tmp_path / "out.db")
        database._begin_anew()  # as after any error: all is compared, under the pin that there is
        pins = database._pins
        fill(db, 3)
        database.sync()
        assert (database.compared, database._pins) == (2, pins)
        check_that_all_is_kept(database, db, url, tmp_path / "out.db")
        database._let_go()  # as where the pin is lost
        fill(db, 100, size=3000)
        database.sync()
        fill(db, 100, size=3000)
        database.sync()
        assert len(calls) == failing
        assert "disk I/O error" in str(database.status.wal_stuck)


def test_a_failed_sync_of_the_wal_ends_cutting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrink, "_AT_ONCE", 1)
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    with connected(path) as db, followed(path, url, Limits(min_pages=50, truncate_pages=60)) as database:
        fill(db, 100, size=3000)
        database.sync()
        assert database.status.checkpoints == 1
        tried = fail_to_sync(monkeypatch, Path(f"{path}-wal"))
        fill(db, 3)
        database.sync()
        assert len(tried) == 1
        assert "No space left on device" in str(database.status.wal_stuck)
        check_that_all_is_kept(database, db, url, tmp_path / "out.db")
        assert len(tried) == 1


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx.replication.database._STUCK_S", 0)
    path, url = make(tmp_path / "a.db", page_size=PAGE_SIZE), tmp_path / "replica"
    with connected(path) as db, followed(path, url, Limits(min_pages=50)) as database:

        def full(connection: apsw.Connection) -> None:
            raise apsw.FullError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "_checkpoint", full)
            fill(db, 100, size=3000)
            assert database.sync()
        assert database.status.wal_stuck == "its disk has been full for long"
        time.sleep(0.2)
        database.sync()
        found = database.status
        assert found.checkpoints == 1
        assert found.wal_stuck is None
        assert database.uploaders[0].push()
        assert restored(str(url), tmp_path / "out.db") == image(path)
        assert database.compared == 1


def test_a_sync_that_fails_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.db")
    pins = Pins(path)
    try:
        tried = fail_to_sync(monkeypatch, path)
        pins.sync_database()  # there is no connection that checkpoints nothing
        assert tried == []
        pins.beside().close()  # SQLite keeps its descriptor while the pin has locks
        with pytest.raises(DiskError, match="No space left"):
            pins.sync_database()
        assert len(tried) == 1
    finally:
        pins.close()


def test_who_waits_can_be_asked_for_whatever_the_connections_do(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    pins, problems, is_over = Pins(path), [], threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                pins.waiting()
                assert pins.wal.name == "a.db-wal"
            except Exception as error:  # noqa: BLE001 - any
                problems.append(error)

    def slow(*_: object) -> int:
        time.sleep(0.2)
        return 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        pins.held.create_scalar_function("slow", slow)
        scalar(pins.held, "SELECT slow()")
    finally:
        pins.close()
        time.sleep(0.05)
        is_over.set()
        thread.join()
    assert problems == []


def test_one_database_that_cannot_be_asked_about_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> int:
        raise apsw.ConnectionClosedError("the connection has been closed")

    bad = cast(Database, Stub(path="bad.db", waiting=broken))
    good = cast(Database, Stub(path="good.db", waiting=lambda: 1))
    found: list[Database] = []
    waiters = Waiters(found.append)
    thread = threading.Thread(target=waiters.run)
    thread.start()
    try:
        for _ in range(2):
            found.clear()
            waiters.add(bad)
            waiters.add(good)
            eventually(lambda: found == [good])
            time.sleep(0.05)
        assert thread.is_alive()
    finally:
        waiters.end()
        thread.join()
    [record] = caplog.records
    assert (record.message, vars(record)["db"]) == ("cannot be asked who waits for it", "bad.db")


class Stub(SimpleNamespace):
    """Some attributes, and an identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]
