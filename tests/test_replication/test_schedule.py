"""Tasks on pools: what goes wrong in one is heard of, and none is waited for that will never run."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ltx import Replica
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.schedule import Scheduler, Task
from tests.support.databases import image, make
from tests.support.replicating import eventually, restored


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    found = Scheduler()
    thread = threading.Thread(target=found.run)
    thread.start()
    yield found
    found.end()
    thread.join()


def test_what_a_shut_pool_never_began_is_not_waited_for(scheduler: Scheduler) -> None:
    pool, begun, release = ThreadPoolExecutor(1), threading.Event(), threading.Event()

    def work() -> float:
        begun.set()
        release.wait()
        return 60.0

    busy, waiting, late = (Task(work, pool) for _ in range(3))
    scheduler.add(busy)
    assert begun.wait(10)
    scheduler.add(waiting)
    eventually(lambda: waiting.running)
    pool.shutdown(wait=False, cancel_futures=True)
    scheduler.add(late)
    assert scheduler.remove([waiting, late], timeout_s=10)
    assert not scheduler.remove([busy], timeout_s=0.01)  # it does run
    release.set()
    assert scheduler.remove([busy], timeout_s=10)


def test_what_escapes_a_task_is_logged(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    def work() -> float:
        raise ValueError("nobody foresaw it")

    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.ERROR, "ltx"):
        task = Task(work, pool)
        scheduler.add(task)
        eventually(lambda: "nobody foresaw it" in caplog.text)
        scheduler.remove([task])


def test_an_unforeseen_failure_of_one_database_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, url = make(tmp_path / "a.db"), str(tmp_path / "replica")
    broken, sync = threading.Event(), Database.sync
    broken.set()

    def failing(self: Database) -> bool:
        if broken.is_set():
            raise ValueError("nobody foresaw it")
        return sync(self)

    monkeypatch.setattr(Database, "sync", failing)
    with Replica.open(url) as replica, closing(Database(path, [replica], Settings())) as database:
        daemon = Daemon([database])
        daemon.start()
        try:
            eventually(lambda: daemon.counts(database)[1] >= 2)
            assert "nobody foresaw it" in str(database.status.error)
            assert caplog.text.count("Traceback") == 1
            broken.clear()
            eventually(lambda: database.error is None and database.uploaders[0].txid == 1)
        finally:
            assert daemon.stop()
    assert restored(url, tmp_path / "out.db") == image(path)
