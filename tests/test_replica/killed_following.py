"""Kill a follower with SIGKILL before each of its calls to the system and to SQLite, and look at the copy.

Run as a program, `python -m tests.test_replica.killed_following FOLDER`, since it forks: it prints how often it killed and
what it found, and raises when something is not as promised.
"""

import os
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import ltx
from ltx.replica.follow import Follower
from tests.support.databases import connected, fill, image, make
from tests.support.dying import dies_before

CHANGES = {
    "grow": "INSERT INTO t (a, b) SELECT a, randomblob(900) FROM t",
    "shrink": "DELETE FROM t WHERE id > 5; VACUUM",
    "change": "UPDATE t SET a = a + 1, b = randomblob(length(b))",
    "page size": "PRAGMA journal_mode = DELETE; PRAGMA page_size = 2048; VACUUM; PRAGMA journal_mode = WAL",
}


def main(folder: Path) -> None:
    """Kill followers, one step later each time, until one is done before it can be killed."""
    for name, sql in {"begin": "", **CHANGES}.items():
        print(name, dict(_kill(folder / name, sql)))


def _kill(folder: Path, sql: str) -> Counter[str]:
    folder.mkdir()
    kept, place, path = folder / "kept", folder / "place", folder / "a.db"
    make(path, page_size=512, rows=20)
    found: Counter[str] = Counter()
    kept.mkdir()
    with ltx.Replica.open(str(folder / "replica")) as replica:
        ltx.replicate_once(path, replica)
        old = body(image(path))
        if sql:
            _step(replica, place_of(kept))
            with connected(path) as db:
                for statement in sql.split(";"):
                    db.execute(statement).fetchall()
                fill(db, 1)
            ltx.replicate_once(path, replica)
        new = body(image(path))
        while not found["done"]:
            _again(kept, place)
            killed = dies_before(found.total(), lambda: _step(replica, place_of(place)))
            found[_state(place_of(place), old if sql else b"", new) if killed else "done"] += 1
            _step(replica, place_of(place))
            if body(place_of(place).read_bytes()) != new:
                raise AssertionError("it did not go on to the newest state")
    return found


def place_of(folder: Path) -> Path:
    return folder / "copy.db"


def body(data: bytes) -> bytes:
    """Return a database without the fields that a copy has for itself: formats, counters, SQLite's version."""
    return data[:18] + data[20:24] + data[28:92] + data[100:]


def _again(kept: Path, place: Path) -> None:
    """Bring the copy back to where it was, in the same file: a follower knows it by that."""
    place.mkdir(exist_ok=True)
    if not place_of(kept).exists():
        shutil.rmtree(place)
        place.mkdir()
        return
    path = place_of(place)
    Path(f"{path}-journal").unlink(missing_ok=True)
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.write(place_of(kept).read_bytes())
        file.truncate()
        inode = os.fstat(file.fileno()).st_ino
    beside = Path(f"{place_of(kept)}-follow").read_text()
    old_inode = os.stat(place_of(kept)).st_ino
    Path(f"{path}-follow").write_text(beside.replace(f'"inode": {old_inode}', f'"inode": {inode}'))


def _step(replica: ltx.Replica, path: Path) -> None:
    with closing(Follower(replica, path)) as follower:
        while follower.step():
            pass


def _state(path: Path, old: bytes, new: bytes) -> str:
    """Say which state there is, as another SQLite library finds it."""
    if not path.exists():
        return "none"
    with closing(sqlite3.connect(path)) as db:
        if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise AssertionError("the copy is malformed")
        found = body(db.serialize())
    if found not in (old, new):
        raise AssertionError("the copy is neither the old state nor the new one")
    return "old" if found == old else "new"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
