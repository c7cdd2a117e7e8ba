"""Kill a restore with SIGKILL before each of its calls to the system and to SQLite, and look at what is there.

Run as a program, `python -m tests.test_replica.killed_restores FOLDER CASE`, since it forks: it prints how often it killed
and what it found, and raises when something is not as promised.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from backends.memory import MemoryBackend
from ltx import Replica
from tests.support.dying import dies_before
from tests.test_replica.histories import History
from tests.test_replica.old_databases import kill_a_writer, old_database, rows

__all__ = ["CASES"]

CASES: dict[str, Callable[[Path], object]] = {
    "new": lambda path: None,
    "new beside stale files": lambda path: Path(f"{path}-wal").write_bytes(b"stale"),
    "over one at rest": lambda path: old_database(path, "delete"),
    "over one with a WAL": lambda path: kill_a_writer(path, "wal"),
    "over one with a hot journal": lambda path: kill_a_writer(path, "delete"),
    "over plain text": lambda path: path.write_text("plain text"),
}


def main(folder: Path, case: str) -> None:
    """Kill restores of one case, one step later each time, until one is done before it can be killed."""
    history = History.random(12, seed=5)
    backend = MemoryBackend()
    history.put_all(backend)
    replica = Replica(backend)
    kept, place = folder / "kept", folder / "place"
    kept.mkdir()
    CASES[case](kept / "app.db")
    path = place / "app.db"
    found: Counter[str] = Counter()
    while not found["done"]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept, place)
        killed = dies_before(found.total(), lambda: replica.restore(path, force=path.exists()))
        found[_state(path, history.state(12)) if killed else "done"] += 1
        if not killed and path.read_bytes() != history.state(12):
            raise AssertionError("a restore that was not killed is not what it should be")
        replica.restore(path, force=True)
        if path.read_bytes() != history.state(12) or any(
            Path(f"{path}{end}").exists() for end in ("-wal", "-journal")
        ):
            raise AssertionError("a restore after a killed one is not what it should be")
    print(dict(found))


def _state(path: Path, new: bytes) -> str:
    """Say which database is there: the old one whole, the new one whole, or none where none was."""
    if not path.exists():
        return "none"
    if path.read_bytes() == new:
        left = [each for each in ("-wal", "-journal") if Path(f"{path}{each}").exists()]
        if left:
            raise AssertionError(f"the new database has an old {left} beside it")
        return "new"
    if path.read_bytes() == b"plain text":
        return "old"
    texts = rows(path)
    if texts not in (["old"], ["old", "only in the log"]):
        raise AssertionError(f"the old database has become {texts}")
    return f"old: {texts[-1]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
