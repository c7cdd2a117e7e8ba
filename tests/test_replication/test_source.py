"""A pinned database is what SQLite reads at that moment, and nothing of it changes by being looked at."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from ltx.errors import DatabaseError
from ltx.replication import source, wal
from ltx.replication.source import MovedError, pinned
from tests.support.databases import connected, fill, image, make, scalar, side_files
from tests.support.ltxfiles import ALL_PAGE_SIZES
from tests.support.measure import seconds

MODES = ("wal", "delete", "truncate", "persist")


def taken(path: Path) -> bytes:
    """Return a database as `pinned` gives it; there is no lock page in databases as small as these."""
    with pinned(path) as held:
        pages = list(held.pages())
        assert [pgno for pgno, _ in pages] == list(range(1, held.commit + 1))
        assert {len(page) for _, page in pages} == {held.page_size}
        return b"".join(page for _, page in pages)


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_a_database_at_rest_is_its_file(mode: str, page_size: int, tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=page_size, mode=mode, rows=50)
    before = side_files(path)
    assert taken(path) == path.read_bytes() == image(path)
    assert side_files(path) == before


def change_nothing(db: apsw.Connection) -> None:
    pass


def append(db: apsw.Connection) -> None:
    fill(db, 40)


def checkpoint_part(db: apsw.Connection) -> None:
    """Leave frames in the WAL of which some are in the file already."""
    fill(db, 40)
    with connected(Path(db.filename)) as reader:
        reader.execute("BEGIN; SELECT * FROM t").fetchall()
        db.execute("UPDATE t SET a = -1 WHERE id < 9; PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def begin_anew(db: apsw.Connection) -> None:
    """Leave older frames behind the newest ones."""
    fill(db, 40)
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    db.execute("UPDATE t SET a = 4 WHERE id = 2")


def checkpoint_all(db: apsw.Connection) -> None:
    fill(db, 40)
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def truncate(db: apsw.Connection) -> None:
    fill(db, 40)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def shrink(db: apsw.Connection) -> None:
    fill(db, 90)
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    db.execute("DELETE FROM t WHERE id > 5; VACUUM")


def shrink_and_grow(db: apsw.Connection) -> None:
    shrink(db)
    fill(db, 30)


def leave_open(db: apsw.Connection) -> None:
    """Leave a transaction open of which a part is in the WAL, or the file, already."""
    db.execute("PRAGMA cache_size = 3; PRAGMA cache_spill = 3; BEGIN; UPDATE t SET b = randomblob(300)")


STATES = [
    change_nothing,
    append,
    checkpoint_part,
    begin_anew,
    checkpoint_all,
    truncate,
    shrink,
    shrink_and_grow,
    leave_open,
]


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("state", STATES)
def test_a_database_in_use_is_what_sqlite_reads(
    state: Callable[[apsw.Connection], None], page_size: int, tmp_path: Path
) -> None:
    path = make(tmp_path / "a.db", page_size=page_size, rows=60)
    with connected(path) as db:
        fill(db, 3)
        state(db)
        expected, before = image(path), side_files(path)
        assert taken(path) == expected
        assert side_files(path) == before
        assert taken(path) == expected  # and again: the first one left nothing behind


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_rollback_journal_database_in_use_is_what_sqlite_reads(mode: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512, mode=mode, rows=60)
    with connected(path) as db:
        db.execute("BEGIN IMMEDIATE; UPDATE t SET a = a + 1")
        before = side_files(path)
        assert taken(path) == path.read_bytes()
        assert side_files(path) == before
        db.execute("COMMIT; DELETE FROM t WHERE id > 7; VACUUM")
        assert taken(path) == image(path)


def killed_writer(path: Path, statements: str) -> None:
    """Let a process run statements and die by SIGKILL without closing anything."""
    program = (
        "import apsw, os, signal, sys\n"
        "db = apsw.Connection(sys.argv[1])\n"
        "db.execute(sys.argv[2]).fetchall()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path), statements], check=False, timeout=30)
    assert done.returncode == -9


SPILL = "PRAGMA cache_size = 3; PRAGMA cache_spill = 3; BEGIN IMMEDIATE; UPDATE t SET b = randomblob(150)"


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_hot_journal_is_played_back_first(mode: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512, mode=mode, rows=200)
    before = path.read_bytes()
    killed_writer(path, SPILL)
    assert path.read_bytes() != before
    assert taken(path) == before
    assert path.read_bytes() == before


def test_what_a_killed_writer_committed_is_there_and_what_it_spilled_is_not(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512, rows=200)
    killed_writer(path, "PRAGMA wal_autocheckpoint = 0; UPDATE t SET a = 500; " + SPILL)
    before = side_files(path)
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    assert taken(path) == image(tmp_path.parent / "copy" / "a.db")
    assert side_files(path) == before
    with connected(path) as db:
        assert scalar(db, "SELECT sum(a) FROM t") == 500 * 200


def test_a_wal_without_its_shm_gets_one_as_from_any_reader_and_is_left_as_it_was(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512, rows=200)
    killed_writer(path, "PRAGMA wal_autocheckpoint = 0; UPDATE t SET a = 500")
    os.unlink(f"{path}-shm")
    before = side_files(path)
    pages = taken(path)
    assert side_files(path) == {**before, "-shm": b""}
    assert pages == image(path)


def test_an_empty_wal_means_nothing_and_may_go(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    before = side_files(path)
    Path(f"{path}-wal").touch()
    assert taken(path) == before[""]
    assert side_files(path) == before


def test_a_commit_after_the_pin_does_not_tear_it(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512, rows=300)
    with connected(path) as db:
        fill(db, 3)
        expected = image(path)
        with pinned(path) as held:
            pages = held.pages()
            half = [next(pages) for _ in range(held.commit // 2)]
            db.execute("UPDATE t SET a = a + 1; PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            fill(db, 50)
            whole = b"".join(page for _, page in (*half, *pages))
        assert whole == expected != image(path)


def test_a_wal_that_begins_anew_under_the_pin_is_noticed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512, rows=300)
    with connected(path) as db:
        fill(db, 3)
        db.execute(
            "PRAGMA wal_checkpoint(PASSIVE)"
        ).fetchall()  # all of it: the pin then holds the file alone
        with pinned(path) as held:
            pages = held.pages()
            next(pages)
            fill(db, 3)
            with pytest.raises(MovedError, match="began anew"):
                list(pages)
        assert taken(path) == image(path)


def test_a_wal_that_begins_anew_while_it_is_scanned_is_scanned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a.db", page_size=512, rows=300)
    with connected(path) as db:
        fill(db, 3)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        scan, scans = wal.committed_frames, []

        def scan_slowly(*args: Any, **options: Any) -> wal.CommittedFrames:
            scans.append(scan(*args, **options))
            if len(scans) == 1:
                fill(db, 3)
            return scans[-1]

        monkeypatch.setattr(wal, "committed_frames", scan_slowly)
        assert taken(path) == image(path)
        assert len(scans) == 2


def test_a_database_that_is_replaced_under_the_pin_is_noticed(tmp_path: Path) -> None:
    path, other = make(tmp_path / "a.db", rows=300), make(tmp_path / "b.db", rows=300)
    with pytest.raises(DatabaseError, match="replaced"), pinned(path) as held:  # noqa: PT012
        os.replace(other, path)
        list(held.pages())


def test_writers_wait_only_in_rollback_journal_mode(tmp_path: Path) -> None:
    in_wal, rollback = make(tmp_path / "a.db"), make(tmp_path / "b.db", mode="delete")
    with pinned(in_wal), connected(in_wal, busy_ms=0) as db:
        fill(db, 1)
    with pinned(rollback), connected(rollback, busy_ms=0) as db, pytest.raises(apsw.BusyError):
        fill(db, 1)
    with connected(rollback, busy_ms=0) as db:
        fill(db, 1)


def test_names_with_special_characters_are_names(tmp_path: Path) -> None:
    for name in ("a b.db", "50%.db", "what?.db", "a#1.db", "émoji 🥪.db", "file:x.db", ":memory:"):
        path = make(tmp_path / "sub.db")
        os.replace(path, tmp_path / name)
        assert taken(tmp_path / name) == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no database"),
        ("folder", "is a folder: name the database in it"),
        ("empty", "is empty"),
        ("one byte", "is empty"),
        ("text", "is not a SQLite database"),
        ("encrypted", "is not a SQLite database"),
        ("cut short", "cannot be read"),
        ("a header of zeros", "is not a SQLite database"),
    ],
)
def test_what_cannot_be_read_says_so_and_stays_as_it_is(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    whole = make(tmp_path / "whole.db", rows=300, mode="delete").read_bytes()
    content = {
        "empty": b"",
        "one byte": b"x",
        "text": b"SQLite format 2\0 and then some text" * 100,
        "encrypted": Random(5).randbytes(20 * 4096),
        "cut short": whole[: len(whole) // 2],
        "a header of zeros": bytes(8192),
    }
    if kind == "folder":
        path.mkdir()
    elif kind in content:
        path.write_bytes(content[kind])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatabaseError, match=message), pinned(path):
        pass
    assert sorted(tmp_path.iterdir()) == before
    assert kind not in content or path.read_bytes() == content[kind]


def lock_rollback(db: apsw.Connection) -> None:
    db.execute("BEGIN EXCLUSIVE")


def lock_wal(db: apsw.Connection) -> None:
    db.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE").fetchall()


@pytest.mark.parametrize(("mode", "lock"), [("delete", lock_rollback), ("wal", lock_wal)])
def test_a_locked_database_is_given_up_in_time(
    mode: str, lock: Callable[[apsw.Connection], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a.db", mode=mode)

    def attempt() -> None:
        with pytest.raises(DatabaseError, match="locked"), pinned(path):
            pass

    monkeypatch.setattr(source, "_BUSY_TIMEOUT_MS", 1000)
    with connected(path) as db:
        lock(db)
        assert 0.9 < seconds(attempt) < 8
    assert taken(path) == image(path)
