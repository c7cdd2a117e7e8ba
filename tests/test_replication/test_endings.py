"""How replication ends: at once where waiting cannot help, with words that are true, and an exit code that says it."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

import ltx
from backends import PermissionDeniedError
from ltx import Replica
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.failures import describe
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import ROOT, eventually, ltx_process, replicating, restored

SOON_S = 8
"""Well below the 30 s for which a replicator tries to upload what is left."""


def put_nothing(path: Path) -> str:
    return f"there is no database {path}"


def put_an_empty_file(path: Path) -> str:
    path.touch()
    return "is empty"


def put_something_else(path: Path) -> str:
    path.write_bytes(b"no database" * 1000)
    return "is not a SQLite database"


def put_a_folder(path: Path) -> str:
    path.mkdir()
    return "is a folder"


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (put_nothing, ()),
        (put_an_empty_file, ()),  # with --wal it becomes a database
        (put_something_else, ()),
        (put_something_else, ("--wal",)),
    ],
)
def test_what_cannot_be_replicated_ends_at_once_as_an_error(
    put: Callable[[Path], str], words: Sequence[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    reason = put(path)
    process = ltx_process("replicate", path, tmp_path / "replica", *words, folder=tmp_path)
    try:
        eventually(lambda: (tmp_path / "ltx" / f"{process.pid}.sock").exists())
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=40)
        assert time.monotonic() - began < SOON_S
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert reason in err
    assert "ended; it was not replicated" in err
    assert "on every replica" not in err
    if put is put_nothing:
        assert "waits for its databases databases=0" in err
        assert "INFO replicates" not in err


@pytest.mark.parametrize("put", [put_nothing, put_an_empty_file, put_something_else, put_a_folder])
def test_in_a_program_it_is_an_error_at_the_end(put: Callable[[Path], str], tmp_path: Path) -> None:
    reason = put(tmp_path / "a.db")
    began = time.monotonic()
    replication = ltx.replicate(tmp_path / "a.db", str(tmp_path / "replica"))
    with pytest.raises(ltx.ReplicaError, match=r"it was not replicated: .*") as raised, replication:
        pass
    assert reason in str(raised.value)
    assert time.monotonic() - began < SOON_S


def test_a_database_that_was_replicated_and_deleted_is_no_error(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    expected = image(path)
    with replicating(path, url) as process:
        eventually(lambda: restored(str(url), tmp_path / "out.db") == expected)
        for found in tmp_path.glob("a.db*"):
            found.unlink()
        time.sleep(0.5)
    assert process.returncode == 0


def test_a_database_that_cannot_be_read_any_more_ends_at_once(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    expected = image(path)
    process = ltx_process("replicate", path, url, folder=tmp_path)
    try:
        eventually(lambda: restored(str(url), tmp_path / "out.db") == expected)
        (tmp_path / "other").write_bytes(b"no database" * 1000)
        os.replace(tmp_path / "other", path)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=40)
        assert time.monotonic() - began < SOON_S
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "it cannot be read any more, and what was captured of it is on every replica" in err


def test_a_database_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", mode="delete"), tmp_path / "replica"
    with replicating(path, url) as process:
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))
        with connected(path) as db:
            db.execute("BEGIN EXCLUSIVE; UPDATE t SET a = 12").fetchall()
            process.send_signal(signal.SIGTERM)
            time.sleep(2)
            assert process.poll() is None
            db.execute("COMMIT")
        process.wait(20)
    assert process.returncode == 0
    assert restored(str(url), tmp_path / "out.db") == image(path)


def test_a_folder_that_cannot_be_written_to_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    opened = os.open

    def refusing(name: str | Path, *args: object, **kwargs: object) -> int:
        if "/.tmp-" in str(name):
            raise PermissionError(13, "Permission denied", str(name))
        return opened(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    with Replica.open(str(url)) as replica:
        database = Database(path, [replica], Settings(look_s=0.1, sync_interval_s=0.02))
        daemon = Daemon([database], flush_s=0.1)
        daemon.start()
        eventually(lambda: isinstance(database.uploaders[0].error, PermissionDeniedError))
        time.sleep(2)
        status = database.status.replicas[0]["error"]
        assert not daemon.stop()
    told = [record for record in caplog.records if record.getMessage() == "cannot be uploaded"]
    assert len(told) == 1
    assert f"{url}; check who may" in str(status) or f"{url}/ltx/0; check who may" in str(status)


def test_names_that_change_with_every_try_are_not_told() -> None:
    one = OSError(28, "No space left on device", "/srv/.a.db-litestream/ltx/0/0123456789ab.tmp")
    other = OSError(28, "No space left on device", "/srv/.a.db-litestream/ltx/0/ba9876543210.tmp")
    assert describe(one) == describe(other)
    assert "'/srv/.a.db-litestream/ltx/0'" in str(describe(one))
    kept = OSError(2, "No such file", "/srv/.tmp-folder/a.tmp")
    assert describe(kept) == str(kept)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_flushes(number: signal.Signals, tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    process = ltx_process("replicate", path, url, "--sync-interval", "60", folder=tmp_path)
    try:
        eventually(lambda: bool(restored(str(url), tmp_path / "out.db")))
        for _ in range(3):
            with connected(path) as db:
                fill(db, 5)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert restored(str(url), tmp_path / "out.db") == image(path)


def test_a_second_signal_ends_it_at_once_and_loses_nothing(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    url.write_text("in the way")
    process = ltx_process("replicate", path, f"file://{url}", folder=tmp_path)
    try:
        eventually(lambda: (tmp_path / "ltx" / f"{process.pid}.sock").exists())
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None  # it tries to upload what is left
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - began < 2
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    url.unlink()
    with replicating(path, url):
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))


PARENT = """
import os, signal, sqlite3, sys, time, ltx
path, url = sys.argv[1:]
with ltx.replicate(path, url, sync_interval=60) as replication:
    replication.sync()
    db = sqlite3.connect(path, isolation_level=None)
    for number in range(5):
        db.execute("INSERT INTO t (a) VALUES (?)", (number,))
    print(replication._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_program_that_is_killed_leaves_all_on_the_replica(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(path), str(url)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)

    def has_ended() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    eventually(has_ended)
    assert restored(str(url), tmp_path / "out.db") == image(path)


def test_many_small_commits_are_few_files(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    over = threading.Event()
    with replicating(path, url, "--sync-interval", "0.5"):
        eventually(lambda: bool(restored(str(url), tmp_path / "out.db")))
        began = time.monotonic()
        with closing(sqlite3.connect(path, isolation_level=None)) as app:
            for number in range(300):
                app.execute("INSERT INTO t (a) VALUES (?)", (number,))
                over.wait(0.01)
        took_s = time.monotonic() - began
    with Replica.open(str(url)) as replica:
        assert len(replica.files(0)) <= took_s / 0.5 + 4
    assert restored(str(url), tmp_path / "out.db") == image(path)
