"""Databases to measure with: rows like those of an application, that compress about as well as text does."""

import random
import subprocess
import sys
from pathlib import Path

import apsw

__all__ = ["make_database"]

_WORDS = [
    "salt",
    "bread",
    "cheese",
    "tomato",
    "basil",
    "mustard",
    "egg",
    "rye",
    "onion",
    "butter",
    "lettuce",
    "radish",
    "cress",
    "ham",
    "pepper",
    "olive",
]


def make_database(path: Path, megabytes: int) -> Path:
    """Make a database in WAL mode of about that size, checkpointed, always the same.

    It is made in a process of its own: a command that is measured inherits the peak memory of whoever starts it.
    """
    subprocess.run([sys.executable, "-m", "bench.database", str(path), str(megabytes)], check=True)
    return path


def _make(path: Path, megabytes: int, seed: int = 7) -> None:
    chance = random.Random(seed)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF")
    connection.execute(
        "CREATE TABLE ratings (id INTEGER PRIMARY KEY, sandwich TEXT, stars INTEGER, note BLOB)"
    )
    connection.execute("CREATE INDEX by_sandwich ON ratings (sandwich)")
    while path.stat().st_size < megabytes * 1_000_000:
        with connection:
            connection.executemany(
                "INSERT INTO ratings (sandwich, stars, note) VALUES (?, ?, ?)",
                (_row(chance) for _ in range(20_000)),
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def _row(chance: random.Random) -> tuple[str, int, bytes]:
    words = " ".join(chance.choices(_WORDS, k=4))
    text = " ".join(chance.choices(_WORDS, k=12)).encode()
    return words, chance.randint(1, 5), text + chance.randbytes(chance.randint(20, 120))


if __name__ == "__main__":
    _make(Path(sys.argv[1]), int(sys.argv[2]))
