"""While four processes write, checkpoint in all modes and VACUUM, every pin is one committed state."""

import time
from pathlib import Path

import apsw
import pytest

from ltx.errors import DatabaseError
from ltx.replication import source
from ltx.replication.source import MovedError, pinned
from tests.support.databases import connected, scalar
from tests.support.writers import check_promise, prepare, writing

SECONDS, PATIENCE = 4, 20
ENOUGH = 10
WRITERS = 4


def copy(path: Path, image: Path, *, dawdle: bool = False) -> bytes | None:
    """Write what a pin gives to a file; None where the WAL began anew meanwhile."""
    try:
        with pinned(path) as held, open(image, "wb") as file:
            for pgno, page in held.pages():
                file.write(page)
                if dawdle and pgno % 32 == 5:
                    time.sleep(0.002)  # for the writers to change what was not read yet
    except MovedError:
        return None
    return image.read_bytes()


def committed_count(path: Path) -> int:
    with connected(path, busy_ms=20_000) as db:
        found = scalar(db, "SELECT n FROM counter")
        assert isinstance(found, int)
        return found


def as_sqlite_reads_it(path: Path, image: Path) -> tuple[bytes | None, bytes]:
    """Take both images while every writer waits; checkpointers do not."""
    with connected(path, busy_ms=20_000) as db:
        db.execute("BEGIN IMMEDIATE")
        return copy(path, image), db.serialize("main")


@pytest.mark.parametrize(("mode", "page_size"), [("wal", 512), ("wal", 4096), ("delete", 1024)])
def test_every_pin_is_one_committed_state(
    mode: str, page_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_READ_SIZE", page_size)  # each page is read when its turn comes
    path, image = tmp_path / "a.db", tmp_path / "image.db"
    prepare(path, mode=mode, page_size=page_size)
    seed = time.time_ns() % 1_000_000
    print(f"writers' seed: {seed}")
    whole = moved = equal = 0
    counters = [0]
    with writing(path, processes=WRITERS, seed=seed):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or (equal <= ENOUGH and time.monotonic() < end + PATIENCE):
            before = committed_count(path)
            if copy(path, image, dawdle=True) is None:
                moved += 1
                continue
            counters.append(check_promise(image))
            whole += 1
            assert before <= counters[-1] <= committed_count(path)
            ours, sqlites = as_sqlite_reads_it(path, image)
            if ours is not None:
                assert ours == sqlites
                equal += 1
    print(f"{whole} whole images, {equal} equal to SQLite's own, {moved} moved, {counters[-1]} transactions")
    assert whole >= equal > ENOUGH
    assert counters == sorted(counters)
    assert counters[-1] > 40  # the writers did write
    with connected(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_pin_that_ends_in_an_error_leaves_nothing_locked(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    prepare(path, mode="delete", page_size=512)
    with pytest.raises(KeyError), pinned(path):  # noqa: PT012
        with connected(path, busy_ms=0) as db, pytest.raises(apsw.BusyError):
            db.execute("UPDATE counter SET n = 5")
        raise KeyError
    with connected(path, busy_ms=0) as db:
        db.execute("UPDATE counter SET n = 5")
    with pytest.raises(DatabaseError), pinned(tmp_path / "none"):
        pass
