"""Databases to measure with: rows like those of an application, that compress about as well as text does."""

import random
import subprocess
import sys
from pathlib import Path

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
    "ham",
]


def make_database(path: Path, megabytes: int) -> Path:
    """Make a database in WAL mode of about that size, checkpointed, always the same.

    It is made in a process of its own: a command that is measured inherits the peak memory of whoever starts it.
    """
    subprocess.run([sys.executable, "-m", "bench.database", str(path), str(megabytes)], check=True)
    return path


def _make(path: Path, megabytes: int, seed: int = 7) -> None:
    import apsw  # only in the process that makes it: whoever starts what is measured stays small

    chance = random.Random(seed)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF")
    connection.execute(
        "CREATE TABLE ratings (id INTEGER PRIMARY KEY, sandwich TEXT, stars INTEGER, rated TEXT, rater BLOB, note TEXT)"
    )
    connection.execute("CREATE INDEX by_sandwich ON ratings (sandwich)")
    while path.stat().st_size < megabytes * 1_000_000:
        with connection:
            connection.executemany(
                "INSERT INTO ratings (sandwich, stars, rated, rater, note) VALUES (?, ?, ?, ?, ?)",
                (_row(chance) for _ in range(20_000)),
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def _row(chance: random.Random) -> tuple[str, int, str, bytes, str]:
    """A rating: words, a number, a time, sixteen random bytes as a UUID has, and a sentence."""
    words = " ".join(chance.choices(_WORDS, k=4))
    hour, day, month = chance.randint(0, 23), chance.randint(1, 28), chance.randint(1, 12)
    time = f"2026-{month:02}-{day:02}T{hour:02}:15:{chance.random():.3f}"
    return words, chance.randint(1, 5), time, chance.randbytes(16), " ".join(chance.choices(_WORDS, k=18))


if __name__ == "__main__":
    _make(Path(sys.argv[1]), int(sys.argv[2]))
