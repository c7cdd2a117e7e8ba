"""What one look at the WAL finds: each page as SQLite reads it, also those that no frame holds."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import apsw
import numpy as np
import pytest
from numpy.typing import NDArray

from ltx.replication import capture as capture_module
from ltx.replication.capture import Capture
from ltx.replication.pins import Doubt, Pins
from tests.support.databases import connected, fill, image, make

BIG = "INSERT INTO t (id, a, b) VALUES (10000, 1, zeroblob(60000))"


class Copy:
    """A copy of a database that is kept current by increments only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pins = Pins(path)
        self.capture = Capture(self.pins, path.parent)
        source = self.capture.rebase()
        self.pages = dict(source.pages())
        self.capture.follow(source)
        self.capture.slide()

    def look(self) -> int:
        """Apply what is new, and return how many pages it was."""
        captured = self.capture.increment()
        if captured is None:
            self.capture.relax()
            return 0
        old_commit = max(self.pages)
        found = dict(captured.pages())
        assert len(found) == captured.page_count
        assert set(range(old_commit + 1, captured.commit + 1)) <= set(found)  # rule 13
        assert max(found) <= captured.commit
        self.pages |= found
        self.pages = {pgno: page for pgno, page in self.pages.items() if pgno <= captured.commit}
        self.capture.accept(captured)
        captured.close()
        return len(found)

    def check(self) -> None:
        self.look()
        assert b"".join(self.pages[pgno] for pgno in sorted(self.pages)) == image(self.path)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    path = make(tmp_path / "a.db", page_size=512, rows=60, pragmas="PRAGMA auto_vacuum = INCREMENTAL")
    copy = Copy(path)
    yield copy
    copy.pins.close()


def grow_by_free_pages(db: apsw.Connection) -> None:
    """Pages that are taken and given back within a transaction are in no frame, and the database is larger."""
    db.execute(f"BEGIN; {BIG}; DELETE FROM t WHERE id = 10000; COMMIT")


def grow_shrink_and_grow(db: apsw.Connection) -> None:
    db.execute(BIG)
    db.execute("DELETE FROM t WHERE id = 10000; PRAGMA incremental_vacuum").fetchall()
    grow_by_free_pages(db)


def grow_look_shrink_and_grow(db: apsw.Connection, look: Callable[[], int]) -> None:
    db.execute("INSERT INTO t (id, a, b) VALUES (10000, 1, randomblob(60000))")
    look()
    db.execute("DELETE FROM t WHERE id = 10000; PRAGMA incremental_vacuum").fetchall()
    look()
    grow_by_free_pages(db)


def test_pages_that_no_frame_holds_are_there(copy: Copy) -> None:
    with connected(copy.path) as db:
        for work in (grow_by_free_pages, grow_shrink_and_grow, grow_by_free_pages):
            work(db)
            copy.check()
        grow_look_shrink_and_grow(db, copy.look)
        copy.check()


def test_a_page_by_which_the_database_grew_is_never_missing(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite writes them all today; where a frame is not among the new ones, the page is read."""
    newest = capture_module._newest
    dropped = []

    def without_some(pgnos: NDArray[np.uint32], size: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        found, places = newest(pgnos, size)
        kept = (found < 80) | (found % 3 > 0)
        dropped.extend(found[~kept].tolist())
        return found[kept], places[kept]

    monkeypatch.setattr(capture_module, "_newest", without_some)
    with connected(copy.path) as db:
        fill(db, 90)
        copy.check()
    assert len(dropped) > 5


def test_the_wal_begins_anew_many_times(copy: Copy) -> None:
    headers = set()
    with connected(copy.path, busy_ms=0) as db:
        for number in range(40):
            fill(db, 2)
            copy.check()
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            copy.look()  # the pin reads the file alone from now on
            db.execute(f"PRAGMA wal_checkpoint({('PASSIVE', 'TRUNCATE', 'FULL')[number % 3]})").fetchall()
            copy.look()
            assert copy.capture.followed
            headers.add(copy.capture.followed.raw_header)
    assert len(headers) > 20


def test_a_transaction_larger_than_memory_allows_goes_to_a_file(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "_IN_MEMORY", 10_000)
    with connected(copy.path) as db:
        fill(db, 3000)
        db.execute("BEGIN; UPDATE t SET b = randomblob(400)")
        assert copy.look() > 1000  # of the open transaction nothing
        db.execute("COMMIT")
        copy.check()
        db.execute("DELETE FROM t WHERE id > 50; VACUUM")
        copy.check()


def test_doubt_is_raised_and_nothing_guessed(copy: Copy) -> None:
    with connected(copy.path) as db:
        fill(db, 5)
        copy.check()
    copy.pins.held.execute("ROLLBACK")
    with pytest.raises(Doubt, match="ended by itself"):
        copy.look()


@pytest.mark.parametrize("side", ["", "-wal", "-shm"])
def test_a_file_that_is_another_one_now_is_doubt(side: str, copy: Copy) -> None:
    path = Path(f"{copy.path}{side}")
    content = path.read_bytes()
    path.unlink()
    path.with_suffix(".keep").write_bytes(b"")  # so that the inode is not used again
    path.write_bytes(content)
    with pytest.raises(Doubt, match="replaced"):
        copy.look()


def test_an_application_cannot_leave_wal_mode_meanwhile(copy: Copy) -> None:
    with connected(copy.path, busy_ms=0) as db, pytest.raises(apsw.BusyError):
        db.execute("PRAGMA journal_mode = DELETE").fetchall()


def test_how_far_the_wal_is_can_be_seen_in_the_middle_of_a_commit(copy: Copy) -> None:
    # SQLite says "busy" where a writer is just telling of its commit: two writers made it do so 100 times a second.
    program = (
        "import apsw, sys\n"
        "db = apsw.Connection(sys.argv[1])\n"
        "db.set_busy_timeout(10_000)\n"
        "db.execute('PRAGMA synchronous = OFF')\n"
        "print('ready', flush=True)\n"
        "while True: db.execute('UPDATE t SET a = a + 1 WHERE id = 1')\n"
    )
    with ExitStack() as stack:
        for _ in range(2):
            writer = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program, str(copy.path)], stdout=subprocess.PIPE)
            )
            stack.callback(writer.kill)
            assert writer.stdout
            writer.stdout.readline()
        before, end = copy.pins.frame_counts()[0], time.monotonic() + 1.5
        while time.monotonic() < end:
            counts = copy.pins.frame_counts()
            assert counts[0] >= before
            before = counts[0]
