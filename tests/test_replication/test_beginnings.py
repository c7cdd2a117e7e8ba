"""Where replication cannot begin yet, or must not: a database that is missing, or is somebody else's to replicate."""

import json
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from backends import BackendError
from ltx import DatabaseError, Replica, replicate_once
from ltx.replication.database import Database, Settings
from ltx.replication.missing import restore_missing
from tests.support.databases import connected, fill, image, make, scalar
from tests.support.replicating import eventually, ltx_process, replicating, restored

SOON_S = 10
"""Well below the 30 s for which a replicator tries to upload what is left."""


def once(path: Path, url: Path) -> None:
    with Replica.open(str(url)) as replica:
        replicate_once(path, replica)


def states(folder: Path) -> dict[str, object]:
    out, _ = ltx_process("status", "--json", folder=folder).communicate(timeout=20)
    return {each["path"]: each["state"] for each in json.loads(out)}


def stopped(path: Path, url: Path, wanted: str) -> str:
    """Run a replicator until its status is what is wanted, stop it, and return what it logged."""
    process = ltx_process("replicate", path, url, folder=path.parent)
    try:
        eventually(lambda: states(path.parent).get(str(path)) == wanted)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < SOON_S
        assert process.returncode == 1
        return err
    finally:
        process.kill()
        process.communicate()


def remove(path: Path) -> None:
    for found in path.parent.glob(f"{path.name}*"):
        found.unlink()


def test_a_database_that_comes_after_its_replicator_goes_on_where_its_replica_ends(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    once(path, url)
    away = path.rename(tmp_path / "away.db")
    with replicating(path, url, "--sync-interval", "0.05"):
        time.sleep(3)  # longer than it takes until what was captured is uploaded for the first time
        away.rename(path)
        with connected(path) as db:
            fill(db, 5)
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))


def test_a_second_replicator_waits_says_why_and_ends_at_once(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    with replicating(path, url):
        eventually(lambda: bool(restored(str(url), tmp_path / "out.db")))
        (other := tmp_path / "other").mkdir()
        process = ltx_process("replicate", path, url, folder=other)
        eventually(lambda: states(other).get(str(path)) == "waiting")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SOON_S)
        assert process.returncode == 1
    assert "replicates" in err
    assert "already: stop one of them" in err
    assert "conflict" not in err.lower()
    assert "not ours" not in err


def test_a_second_replicator_takes_over_when_the_first_one_ends(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db"), tmp_path / "replica"
    (other := tmp_path / "other").mkdir()
    with replicating(path, url, "--sync-interval", "0.05"):
        eventually(lambda: bool(restored(str(url), tmp_path / "out.db")))
        second = ltx_process("replicate", path, url, "--sync-interval", "0.05", folder=other)
        eventually(lambda: states(other).get(str(path)) == "waiting")
    try:
        with connected(path) as db:
            fill(db, 5)
        eventually(lambda: restored(str(url), tmp_path / "out.db") == image(path))
    finally:
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=30)
    assert second.returncode == 0


def test_one_that_is_refused_is_stopped_in_its_status_claims_nothing_and_ends_at_once(tmp_path: Path) -> None:
    url = tmp_path / "replica"
    once(make(tmp_path / "a.db", rows=50), url)
    stranger = make(tmp_path / "b.db", rows=80)
    log = stopped(stranger, url, "stopped")
    assert "--adopt" in log
    assert "goes on" not in log
    assert "not replicated" in log


def test_what_was_captured_is_uploaded_before_a_missing_database_is_restored(tmp_path: Path) -> None:
    path, url = make(tmp_path / "a.db", rows=5), tmp_path / "replica"
    with Replica.open(str(url)) as replica:
        with closing(Database(path, [replica], Settings())) as database:
            database.sync()
            assert database.uploaders[0].push()
            with connected(path) as db:
                db.execute("CREATE TABLE late (x); INSERT INTO late VALUES (7)")
            database.sync()  # captured here, and not uploaded
            expected = image(path)
        remove(path)
        with closing(Database(path, [replica], Settings())) as database:
            restore_missing(database)
            assert image(path) == expected
            database.sync()
            assert database.uploaders[0].push()
    assert restored(str(url), tmp_path / "out.db") == expected
    with Replica.open(str(url)) as replica:
        assert max(file.max_txid for file in replica.files()) == 2  # nothing was undone


def test_a_missing_database_is_not_restored_without_what_was_captured_of_it(tmp_path: Path) -> None:
    path, good, bad = make(tmp_path / "a.db", rows=5), tmp_path / "good", tmp_path / "bad"
    with Replica.open(str(good)) as one, Replica.open(f"file://{bad}") as other:
        with closing(Database(path, [one], Settings())) as database:
            database.sync()
            assert database.uploaders[0].push()
            with connected(path) as db:
                fill(db, 5)
            database.sync()
            expected = image(path)
        remove(path)
        bad.write_text("in the way")
        good.rename(tmp_path / "away")
        good.write_text("in the way")
        with closing(Database(path, [one, other], Settings())) as database:
            with pytest.raises(BackendError):
                restore_missing(database)
            assert not path.exists()
            good.unlink()
            (tmp_path / "away").rename(good)
            restore_missing(database)  # one that has everything is enough
            assert image(path) == expected


def test_the_replica_that_has_most_is_restored(tmp_path: Path) -> None:
    path, old, new = make(tmp_path / "a.db", rows=5), tmp_path / "old", tmp_path / "new"
    once(path, old)
    with connected(path) as db:
        db.execute("CREATE TABLE late (x); INSERT INTO late VALUES (7)")
    with (
        Replica.open(str(old)) as first,
        Replica.open(str(new)) as second,
        closing(Database(path, [second], Settings())) as database,
    ):
        database.sync()
        assert database.uploaders[0].push()
        with connected(path) as db:
            db.execute("UPDATE late SET x = 8")
        database.sync()
        assert database.uploaders[0].push()
        elsewhere = Database(tmp_path / "b.db", [first, second], Settings())
        with closing(elsewhere):
            restore_missing(elsewhere)
    with connected(tmp_path / "b.db") as db:
        assert scalar(db, "SELECT x FROM late") == 8


def test_what_was_let_go_of_is_not_taken_up_again_by_who_still_asks(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with Replica.open(str(tmp_path / "replica")) as replica:
        database = Database(path, [replica], Settings())
        database.sync()
        database.close()
        with pytest.raises(DatabaseError, match="let go of"):
            database.sync()
        with closing(Database(path, [replica], Settings())) as other:
            other.sync()
            assert other.uploaders[0].push()
