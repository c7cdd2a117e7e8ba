"""A live database that grows, shrinks and changes, one committed step at a time."""

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

__all__ = ["Application", "application"]


class Application:
    """The one writer of a database. Each step is one committed transaction, or one VACUUM.

    Args:
        path: Where it lies; it is made in WAL mode.
        page_size: Bytes of a page.
        seed: Of the contents and of the order of steps.
    """

    def __init__(self, path: Path, page_size: int, seed: int, *, journal_mode: str = "wal") -> None:
        self.path = path
        self.page_size = page_size
        self.steps = 0
        self._random = random.Random(seed)
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(10_000)
        self._connection.execute(f"PRAGMA page_size={page_size}; PRAGMA journal_mode={journal_mode}")
        self._commit("CREATE TABLE sandwiches (id INTEGER PRIMARY KEY, name TEXT, rating INTEGER, note BLOB)")
        self._commit("CREATE INDEX by_rating ON sandwiches (rating)")
        self.grow(3)

    def step(self) -> None:
        """Do the next thing: after any 24 steps everything happened at least once."""
        place = self.steps % 24
        self.steps += 1
        if place == 11:
            self.grow(12)
        elif place == 13:
            self.delete_most()
        elif place == 14:
            self.vacuum()
        elif place == 20:
            self.rewrite_everything()
        elif place % 3 == 0:
            self.update()
        elif place % 7 == 0:
            self.delete_some()
        else:
            self.grow(1)

    def grow(self, pages: int) -> None:
        """Add rows that take about so many pages; half of a row compresses, half does not."""
        size = max(20, self.page_size // 4)
        rows = [
            (self._name(), self._random.randrange(6), bytes(size // 2) + self._random.randbytes(size // 2))
            for _ in range(pages * 4)
        ]
        with self._connection:
            self._connection.executemany("INSERT INTO sandwiches (name, rating, note) VALUES (?, ?, ?)", rows)

    def update(self) -> None:
        """Change a few rows in place."""
        chosen, seed = self._random.randrange(5), self._random.randrange(6)
        self._commit(
            "UPDATE sandwiches SET rating = ?, name = ? WHERE id % 5 = ?", (seed, self._name(), chosen)
        )

    def rewrite_everything(self) -> None:
        """Change every row."""
        self._commit("UPDATE sandwiches SET rating = 5 - rating")

    def delete_some(self) -> None:
        """Delete a part of the rows: pages become free, the file keeps its size."""
        self._commit("DELETE FROM sandwiches WHERE id % 7 = ?", (self._random.randrange(7),))

    def delete_most(self) -> None:
        """Delete nearly all rows."""
        self._commit("DELETE FROM sandwiches WHERE id % 9 <> 0")

    def vacuum(self) -> None:
        """Let the file shrink."""
        self._connection.execute("VACUUM")

    def restart_wal(self) -> None:
        """Do what any application may do at any time: bring the WAL into the database and begin it anew."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def committed(self) -> bytes:
        """Return the database as it is committed now, WAL included: SQLite's own copy.

        By a connection of its own: the writer's cache may hold free pages that it never wrote.
        """
        with closing(apsw.Connection(str(self.path))) as reader:
            reader.set_busy_timeout(10_000)
            return reader.serialize("main")

    def close(self) -> None:
        """Stop writing."""
        self._connection.close()

    def _commit(self, statement: str, values: tuple[object, ...] = ()) -> None:
        with self._connection:
            self._connection.execute(statement, values)

    def _name(self) -> str:
        return f"sandwich {self._random.randrange(1000)}"


@contextmanager
def application(
    path: Path, page_size: int = 4096, seed: int = 1, *, journal_mode: str = "wal"
) -> Iterator[Application]:
    """Open a database with a first few rows in it."""
    with closing(Application(path, page_size, seed, journal_mode=journal_mode)) as opened:
        yield opened
