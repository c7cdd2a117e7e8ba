"""Processes that write to one database all the time, and keep a promise that any torn page would break.

Each transaction changes both tables by the same amount, so that at every commit `sum(t.a) == sum(u.a)`, and adds
one to the counter. Run as a program: `python -m tests.support.writers DATABASE SEED`; it writes until it is killed.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import apsw

__all__ = ["PROMISE", "check_promise", "prepare", "writing"]

PROMISE = "SELECT (SELECT sum(a) FROM t), (SELECT sum(a) FROM u), n FROM counter"
"""Two sums that are equal at every commit, and a counter that never goes back."""

_CHECKPOINTS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")


def prepare(path: Path, *, mode: str, page_size: int) -> None:
    """Make the database that the writers write to."""
    db = apsw.Connection(str(path))
    db.execute(
        f"PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = {mode}"
    )
    db.execute(
        """
        CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB);
        CREATE TABLE u (id INTEGER PRIMARY KEY, a INTEGER);
        CREATE INDEX by_a ON t (a);
        CREATE TABLE counter (n INTEGER);
        INSERT INTO counter VALUES (0);
        """
    )
    with db:
        for row in range(200):
            db.execute("INSERT INTO t (a, b) VALUES (?, randomblob(200))", (row,))
            db.execute("INSERT INTO u (a) VALUES (?)", (row,))
    db.close()


def check_promise(image: Path) -> int:
    """Raise unless a copy of the database is whole and keeps the promise; return its counter."""
    db = apsw.Connection(f"file:{image}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        found = db.execute(PROMISE).fetchall()
        [(one, other, counter)] = found
        assert one == other, found
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert isinstance(counter, int)
        return counter
    finally:
        db.close()


@contextmanager
def writing(path: Path, *, processes: int, seed: int) -> Iterator[None]:
    """Let processes write to a database meanwhile; raise when one of them failed."""
    command = [sys.executable, "-m", "tests.support.writers", str(path)]
    running = [
        subprocess.Popen([*command, str(seed + place)], stderr=subprocess.PIPE) for place in range(processes)
    ]
    failed = [b""]
    try:
        yield
        failed = [process.communicate()[1] for process in running if process.poll() is not None]
        assert not failed, b"\n".join(failed).decode()
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _write(path: str, seed: int) -> None:
    """Write for ever: small and big transactions, deletions, checkpoints of all modes, VACUUM."""
    choice = Random(seed)
    db = apsw.Connection(path)
    db.set_busy_timeout(10_000)
    db.execute("PRAGMA wal_autocheckpoint = 40; PRAGMA cache_size = 20; PRAGMA synchronous = OFF").fetchall()
    while True:
        try:
            _step(db, choice)
        except apsw.BusyError:
            if not db.get_autocommit():
                db.execute("ROLLBACK")
        time.sleep(choice.random() * 0.004)


def _step(db: apsw.Connection, choice: Random) -> None:
    kind = choice.random()
    if kind < 0.1:
        db.execute(f"PRAGMA wal_checkpoint({choice.choice(_CHECKPOINTS)})").fetchall()
    elif kind < 0.12:
        db.execute("VACUUM")
    elif kind < 0.16:
        db.execute("PRAGMA incremental_vacuum(5)").fetchall()
    else:
        _change(db, choice)


def _change(db: apsw.Connection, choice: Random) -> None:
    rows = choice.choice((1, 1, 3, 60))
    db.execute("BEGIN IMMEDIATE")
    if choice.random() < 0.4:
        low = choice.randrange(400)
        db.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (low, low + rows))
        db.execute("DELETE FROM u WHERE id BETWEEN ? AND ?", (low, low + rows))
    for _ in range(rows):
        where, amount, size = choice.randrange(400), choice.randrange(1000), choice.randrange(900)
        db.execute("INSERT OR REPLACE INTO t VALUES (?, ?, randomblob(?))", (where, amount, size))
        db.execute("INSERT OR REPLACE INTO u VALUES (?, ?)", (where, amount))
    db.execute("UPDATE counter SET n = n + 1")
    db.execute("ROLLBACK" if choice.random() < 0.1 else "COMMIT")


if __name__ == "__main__":
    _write(sys.argv[1], int(sys.argv[2]))
