"""`--restore-if-db-not-exists`: only at the start, ended by a signal, and tried again while the storage is down."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends import BackendError
from ltx import Replica
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import eventually, ltx_process, restored


def published(path: Path, url: Path, count: int = 1) -> bytes:
    """Put a database on a replica in so many transactions, remove it here, and return what it was."""
    with Replica.open(str(url)) as replica:
        database = Database(path, [replica], Settings())
        for _ in range(count):
            with connected(path) as db:
                fill(db, 3)
            database.sync()
            assert database.uploaders[0].push()
        database.close()
    expected = image(path)
    remove(path)
    return expected


def remove(path: Path) -> None:
    for found in path.parent.glob(f"{path.name}*"):
        found.unlink()


@contextmanager
def running(path: Path, url: str) -> Iterator[Database]:
    with Replica.open(url) as replica:
        database = Database(path, [replica], Settings(sync_interval_s=0.02, look_s=0.1, restore=True))
        daemon = Daemon([database], flush_s=1)
        daemon.start()
        try:
            yield database
        finally:
            daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_during_the_restore_nothing_is_started(number: signal.Signals, tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    published(path, url, 60)
    program = tmp_path / "app.py"
    program.write_text(f"open({str(tmp_path / 'started')!r}, 'w')\n")
    slow = f"faulty+file://{url}?rate=1&kinds=slow&slow=0.2"
    command = f"{sys.executable} {program}"
    words = ("replicate", path, slow, "--restore-if-db-not-exists", "--exec", command)
    process = ltx_process(*words, folder=tmp_path)
    try:
        eventually(lambda: any(path.parent.glob(".*a.db*tmp*")) or process.poll() is not None)
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 5
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + number, err
    assert not (tmp_path / "started").exists()
    assert not path.exists()


def test_what_the_application_deletes_later_is_not_brought_back(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    expected = published(path, url)
    with running(path, str(url)) as database:
        eventually(lambda: path.exists() and database.status.state == "replicating")
        assert image(path) == expected
        remove(path)
        time.sleep(1)
        assert not path.exists()
        make(path, rows=3)
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))
    assert image(path) != expected


def test_a_restore_that_fails_is_tried_again_until_the_storage_is_back(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    expected = published(path, url)
    url.rename(tmp_path / "away")
    url.write_text("in the way")
    with running(path, str(url)) as database:
        eventually(lambda: isinstance(database.error, BackendError))
        time.sleep(0.5)
        assert not path.exists()
        url.unlink()
        (tmp_path / "away").rename(url)
        eventually(lambda: path.exists() and database.status.state == "replicating")
        assert image(path) == expected


def test_a_database_that_appears_while_the_storage_is_down_is_kept(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    published(path, url)
    url.rename(tmp_path / "away")
    url.write_text("in the way")
    with running(path, str(url)) as database:
        eventually(lambda: database.error is not None)
        make(path, rows=4)
        expected = image(path)
        eventually(lambda: not database.to_restore)
        os.unlink(url)
        (tmp_path / "away").rename(url)
        eventually(lambda: restored(str(url), tmp_path / "out.db") == expected)
    assert image(path) == expected
