"""Kill a follower with SIGKILL before each of its calls to the system and to SQLite, and look at the copy.

Run as a program, `python -m tests.test_replica.killed_following FOLDER`, since it forks: it prints how often it killed and
what it found, and raises when something is not as promised.
"""

import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections import Counter
from contextlib import closing
from io import IOBase
from pathlib import Path
from types import FrameType

import apsw

import ltx
from ltx.replica.follow import Follower
from tests.support.databases import connected, fill, image, make

_SYSTEM_CALLS = {
    "close", "fchmod", "flock", "fsync", "ftruncate", "link", "open", "pwrite", "rename", "replace", "stat", "unlink", "write",
}  # fmt: skip
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
            killed = _die(replica, place_of(place), found.total())
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


def _die(replica: ltx.Replica, path: Path, step: int) -> bool:
    """Follow in a child that dies before its call number `step`; return whether it got that far."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            left = step

            def profile(frame: FrameType, event: str, called: object) -> None:
                nonlocal left
                if event == "c_call" and _is_step(called):
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            threading.setprofile(profile)
            sys.setprofile(profile)
            _step(replica, path)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise AssertionError("a follower failed without being killed")
    return False


def _is_step(called: object) -> bool:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, apsw.Connection | apsw.VFSFile) or called in (apsw.Connection, apsw.VFSFile):
        return True
    name, module = getattr(called, "__name__", ""), getattr(called, "__module__", "")
    return name in _SYSTEM_CALLS and (isinstance(owner, IOBase) or module == "posix")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
