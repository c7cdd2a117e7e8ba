"""A database, its replica, and a copy of every state that was published: what queries are held against."""

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import apsw
import apsw.ext

from ltx import TXID, LTXFile, Replica, replicate_once
from ltx.format import Decoder, merge

__all__ = ["Origin", "as_read", "catch_up", "content", "number", "origin", "rows", "seen"]

_names = itertools.count(1)


class Origin:
    """The writer's side: a database in use, published when told to.

    Attributes:
        connection: On the database.
        replica: Where it is published.
        states: Bytes of the database by the TXID that published them.
        times: When each was published, by TXID.
    """

    def __init__(self, folder: Path, url: str, *, page_size: int = 4096, setup: str = "") -> None:
        self.path = folder / f"origin-{next(_names)}.db"
        self.replica = Replica.open(url)
        self.states: dict[int, bytes] = {}
        self.times: dict[int, datetime] = {}
        self.connection = apsw.Connection(str(self.path))
        series = apsw.ext.generate_series
        apsw.ext.make_virtual_module(self.connection, "generate_series", series)  # type: ignore[arg-type]
        self.connection.execute(
            f"PRAGMA page_size={page_size}; PRAGMA synchronous=off; {setup}; PRAGMA journal_mode=wal"
        ).fetchall()

    @property
    def url(self) -> str:
        """Where the replica lies."""
        return self.replica.url

    @property
    def newest(self) -> TXID:
        """The TXID last published."""
        return TXID(max(self.states))

    def commit(self, *statements: str) -> TXID:
        """Run statements, a transaction each, and publish what they made as one TXID."""
        for statement in statements:
            self.connection.execute(statement).fetchall()
        return self.publish()

    def publish(self) -> TXID:
        """Publish what is committed; its time is later than that of the one before by a few milliseconds."""
        time.sleep(0.003)  # times have milliseconds
        published = replicate_once(self.path, self.replica)
        assert published is not None, "nothing changed"
        self.states[published.txid] = self.connection.serialize("main")
        self.times[published.txid] = published.time
        return published.txid

    def merge(self, level: int, min_txid: int, max_txid: int) -> LTXFile:
        """Write one file of a level from those of the level below that it covers, as compaction does."""
        below = [
            file
            for file in self.replica.files(level - 1)
            if min_txid <= file.min_txid and file.max_txid <= max_txid
        ]
        assert below, "nothing to merge"
        return self.write(level, below)

    def snapshot(self, txid: int | None = None) -> LTXFile:
        """Write a snapshot of a state."""
        return self.write(9, self.replica.plan(txid=txid).files)

    def write(self, level: int, inputs: Sequence[LTXFile]) -> LTXFile:
        """Write what some files are together as one file of a level."""
        backend = self.replica.backend
        encoder = merge([Decoder([backend.get(file.key)]) for file in inputs])
        key = self.replica.layout.key(level, encoder.header.min_txid, encoder.header.max_txid)
        backend.put(key, b"".join(encoder))
        return next(file for file in self.replica.files(level) if file.key == key)

    def delete(self, *files: LTXFile) -> None:
        """Remove files, as retention does."""
        self.replica.backend.delete([file.key for file in files])

    def prune(self, level: int, below: int) -> None:
        """Remove the files of a level that end below a TXID."""
        self.delete(*(file for file in self.replica.files(level) if file.max_txid < below))

    def begin_anew(self) -> None:
        """Remove the whole replica and what replication knows of it: the next publish is TXID 1 again."""
        self.delete(*self.replica.files())
        shutil.rmtree(self.path.parent / f".{self.path.name}-litestream")
        self.states.clear()
        self.times.clear()


@contextmanager
def origin(folder: Path, url: str = "", *, page_size: int = 4096, setup: str = "") -> Iterator[Origin]:
    """Make an empty database with an empty replica, in memory unless a URL says otherwise."""
    made = Origin(folder, url or f"memory://origin-{next(_names)}", page_size=page_size, setup=setup)
    with closing(made.connection):
        yield made


def as_read(state: bytes) -> bytes:
    """Return a database's bytes without those in which a reader's page 1 differs from the source's.

    The version of the schema is one of them where a replica was made anew.
    """
    return state[:18] + state[20:24] + state[32:40] + state[44:92] + state[96:]


def content(connection: apsw.Connection, schema: str = "main") -> bytes:
    """Return every byte that a connection sees of a database, apart from those that `as_read` leaves out."""
    rows(connection, f"SELECT count(*) FROM {schema}.sqlite_schema")  # serialize would take an old page size
    return as_read(connection.serialize(schema))


def catch_up(connection: apsw.Connection) -> None:
    """Look until a look was at the whole listing: most are only at the next file's name (one in ten is a listing)."""
    for _ in range(10):
        rows(connection, "SELECT count(*) FROM sqlite_schema")


def rows(connection: apsw.Connection, sql: str) -> list[tuple[object, ...]]:
    """Run a statement and return what it answers."""
    return [tuple(row) for row in connection.execute(sql)]


def number(connection: apsw.Connection, sql: str) -> int:
    """Run a statement that answers one number."""
    return int(str(rows(connection, sql)[0][0]))


def seen(connection: apsw.Connection, schema: str = "main") -> int:
    """Return the TXID that a connection sees."""
    return int(str(rows(connection, f"PRAGMA {schema}.litestream_txid")[0][0]), 16)
