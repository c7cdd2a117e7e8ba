"""Databases that are there before a restore: at rest, or left behind by a process that was killed."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

__all__ = ["die_writing", "kill_a_writer", "old_database", "rows"]

_WRITE_AND_DIE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=1")
if sys.argv[2] == "delete":  # enough that pages go to the file, and their old images to the journal
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE t SET x = 'never committed'")
    connection.execute("INSERT INTO t SELECT randomblob(4000) FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8))")
    connection.execute("INSERT INTO t SELECT randomblob(4000) FROM t")
else:
    connection.execute("INSERT INTO t VALUES ('only in the log')")
os.kill(os.getpid(), signal.SIGKILL)
"""


def old_database(path: Path, journal_mode: str) -> Path:
    """Make a database with one row, `old`; nobody has it open."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES ('old')")
        connection.commit()
    return path


def kill_a_writer(path: Path, journal_mode: str) -> Path:
    """Make a database whose last user was killed: with a row in its WAL only, or with a hot journal."""
    old_database(path, journal_mode)
    die_writing(path, journal_mode)
    log = Path(f"{path}-{'wal' if journal_mode == 'wal' else 'journal'}")
    assert log.stat().st_size > 0
    assert os.path.lexists(path)
    return path


def die_writing(path: Path, journal_mode: str) -> None:
    """Let another process write to a database and be killed: in WAL mode committed, else in the middle."""
    subprocess.run([sys.executable, "-c", _WRITE_AND_DIE, path, journal_mode], check=False)


def rows(path: Path) -> list[str]:
    """Return the texts of a database that one of these functions made, as its next user sees them."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [
            text for (text,) in connection.execute("SELECT x FROM t WHERE typeof(x) = 'text' ORDER BY rowid")
        ]
