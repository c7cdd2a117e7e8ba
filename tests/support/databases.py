"""Live SQLite databases for tests: made, filled, looked at page by page."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

__all__ = ["SIDES", "connected", "fill", "image", "make", "scalar", "sealed", "side_files"]

SIDES = ("", "-wal", "-shm", "-journal")


@contextmanager
def connected(path: Path, *, busy_ms: int = 5000) -> Iterator[apsw.Connection]:
    """Open a database as an application does, without automatic checkpoints."""
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(busy_ms)
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        yield connection
    finally:
        connection.close()


def scalar(connection: apsw.Connection, sql: str) -> object:
    """Return the first value of a query."""
    return connection.execute(sql).fetchall()[0][0]


def make(path: Path, *, page_size: int = 4096, mode: str = "wal", rows: int = 20, pragmas: str = "") -> Path:
    """Make a database of that page size and journal mode, with some rows in it."""
    with connected(path) as db:
        db.execute(f"PRAGMA page_size = {page_size}; {pragmas}")
        assert scalar(db, f"PRAGMA journal_mode = {mode}") == mode
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB)")
        fill(db, rows, size=page_size // 3)
    return path


def fill(db: apsw.Connection, rows: int, *, size: int = 300) -> None:
    """Add rows of `size` random bytes in one transaction."""
    with db:
        db.executemany("INSERT INTO t (a, b) VALUES (?, randomblob(?))", [(row, size) for row in range(rows)])


def image(path: Path) -> bytes:
    """Return the whole database as SQLite itself reads it now, WAL and all."""
    with connected(path) as db:
        db.execute("BEGIN")
        return db.serialize("main")


def sealed(path: Path) -> bytes:
    """Return the database file after everything in its WAL was brought into it."""
    with connected(path) as db:
        [(busy, *_)] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert busy == 0
        return path.read_bytes()


def side_files(path: Path) -> dict[str, bytes]:
    """Return the bytes of the database and of what lies beside it, -shm apart, and which of them are there."""
    found = {}
    for suffix in SIDES:
        if os.path.exists(f"{path}{suffix}"):
            found[suffix] = b"" if suffix == "-shm" else Path(f"{path}{suffix}").read_bytes()
    return found
