"""Random writing, publishing, merging and pruning under readers: each answer is that of a state that was."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

import vfs
from ltx import NotReachableError
from tests.support.ltxfiles import ALL_PAGE_SIZES
from tests.test_vfs.origin import Origin, as_read, content, origin, rows, seen
from tests.test_vfs.storages import pages_of
from vfs import index_search, open_files

SEEDS = range(int(os.environ.get("VFS_FUZZ_SEEDS", "32")))
STEPS = 45


class Fuzz:
    """One seed's run. A reader is held to the TXID that it says it sees, and that never to go back."""

    def __init__(self, source: Origin, seed: int) -> None:
        self.source = source
        self.random = random.Random(seed)
        self.readers: list[apsw.Connection] = []
        self.last: dict[int, int] = {}
        self.answers = 0

    def run(self) -> None:
        self.write()
        actions: list[tuple[Callable[[], None], int]] = [
            (self.write, 12),
            (self.open, 3),
            (self.read, 14),
            (self.hold, 3),
            (self.travel, 4),
            (self.close, 1),
            (self.merge, 4),
            (self.prune, 2),
            (self.snapshot, 1),
        ]
        chosen = self.random.choices(
            [action for action, _ in actions], [weight for _, weight in actions], k=STEPS
        )
        for action in (self.open, self.open, *chosen, self.read, self.read):
            action()
        for db in self.readers:
            with contextlib.suppress(apsw.SQLError):
                db.execute("COMMIT")
            rows(db, "PRAGMA litestream_time = latest")
            self.check(db)
            assert seen(db) == self.source.newest

    def write(self) -> None:
        """Change the database in some way, and publish it."""
        draw = self.random.randrange
        size = draw(3000)
        statement = self.random.choice(
            [
                f"INSERT INTO t (a, b) SELECT value % 7, randomblob({size}) FROM generate_series(1, {1 + draw(12)})",
                f"INSERT INTO t (a, b) VALUES ({draw(9)}, zeroblob({size * 20}))",
                f"UPDATE t SET b = randomblob({size}) WHERE id % {2 + draw(9)} = 0",
                f"UPDATE t SET a = a + 1 WHERE id % {1 + draw(4)} = 0",
                f"DELETE FROM t WHERE id % {2 + draw(6)} = 1",
                "DELETE FROM t WHERE id > 40",
                "VACUUM",
                f"PRAGMA incremental_vacuum({1 + draw(20)})",
                f"CREATE TABLE IF NOT EXISTS u{draw(3)} (x PRIMARY KEY) WITHOUT ROWID",
                f"CREATE INDEX IF NOT EXISTS i{draw(2)} ON t (a)",
                "DROP INDEX IF EXISTS i0",
            ]
        )
        self.source.connection.execute(statement).fetchall()
        self.source.connection.execute("UPDATE counter SET n = n + 1")
        self.source.publish()

    def open(self) -> None:
        txid = self.reachable() if self.random.random() < 0.3 else None
        size = self.random.choice([0, 20_000, 1 << 24])
        db = vfs.connect(self.source.url, poll_interval=0, cache_size=size, txid=txid)
        db.execute(f"PRAGMA cache_size = {self.random.choice([1, 10, -2000])}")
        self.readers.append(db)
        self.check(db)

    def read(self) -> None:
        if self.readers:
            self.check(self.random.choice(self.readers))

    def hold(self) -> None:
        """Begin or end a transaction."""
        if self.readers:
            db = self.random.choice(self.readers)
            rows(db, "COMMIT" if db.in_transaction else "BEGIN")
            self.check(db)

    def travel(self) -> None:
        free = [db for db in self.readers if not db.in_transaction]
        if free:
            db, txid = self.random.choice(free), self.reachable()
            to = self.source.times[txid].isoformat() if self.random.random() < 0.7 else "latest"
            self.last.pop(id(db), None)
            rows(db, f"PRAGMA litestream_time = '{to}'")
            self.check(db)
            assert seen(db) == (self.source.newest if to == "latest" else txid)

    def close(self) -> None:
        if len(self.readers) > 2:
            db = self.readers.pop(self.random.randrange(len(self.readers)))
            self.last.pop(id(db), None)
            db.close()

    def merge(self) -> None:
        """Merge a run of files into the next level, as far as that one does not have it."""
        level = self.random.choice([1, 1, 2])
        below, there = self.source.replica.files(level - 1), self.source.replica.files(level)
        after = max((file.max_txid for file in there), default=0)
        inputs = [file for file in below if file.max_txid > after][: 1 + self.random.randrange(8)]
        follow = all(a.max_txid + 1 == b.min_txid for a, b in pairwise(inputs))
        if inputs and follow and (inputs[0].min_txid <= after + 1):
            self.source.write(level, inputs)

    def prune(self) -> None:
        """Remove files of level 0 or 1 that the level above holds, but for the newest."""
        level = self.random.choice([0, 1])
        merged = max((file.max_txid for file in self.source.replica.files(level + 1)), default=0)
        self.source.prune(level, min(merged + 1, self.source.newest))

    def snapshot(self) -> None:
        self.source.snapshot()

    def reachable(self) -> int:
        """Choose a TXID that the replica can still give."""
        while True:
            txid = self.random.choice(list(self.source.states))
            with contextlib.suppress(NotReachableError):
                self.source.replica.plan(txid=txid)
                return txid

    def check(self, db: apsw.Connection) -> None:
        """Hold every byte that a reader sees to the state that it says it sees; a held state may be gone."""
        try:
            found = content(db)
        except NotReachableError as error:
            self.check_gone(seen(db), str(error))
            if db.in_transaction:
                rows(db, "ROLLBACK")
            self.last.pop(id(db), None)
            rows(db, "PRAGMA litestream_time = latest")
            found = content(db)
        txid = seen(db)
        assert found == as_read(self.source.states[txid])
        assert self.last.get(id(db), 0) <= txid
        self.last[id(db)] = txid
        self.answers += 1
        if self.random.random() < 0.1:
            assert rows(db, "PRAGMA integrity_check") == [("ok",)]

    def check_gone(self, txid: int, error: str) -> None:
        """See that a state which a reader could not have again is really gone, and named."""
        assert f"TXID {txid:016x}" in error
        with pytest.raises(NotReachableError):
            self.source.replica.plan(txid=txid)


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed{seed}")
def fuzz(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuzz]:
    """A seed: it chooses the page size, whether files are read whole, listed in pages, and all that happens."""
    seed: int = request.param
    vacuum = ("none", "full", "incremental")[seed % 3]
    if seed % 2:
        monkeypatch.setattr(open_files, "WHOLE_SIZE", 2000)
        monkeypatch.setattr(open_files, "TAIL_SIZE", 300)
    if seed % 4 == 3:
        monkeypatch.setattr(open_files, "INDEX_SIZE", 0)
        monkeypatch.setattr(index_search, "DENSE_BLOCK_SIZE", 100)
        monkeypatch.setattr(index_search, "BLOCK_SIZE", 100)
    page_size = ALL_PAGE_SIZES[seed % 4] if seed % 5 else 65536
    listed = pages_of((3, 8)[seed // 3 % 2]) if seed % 3 == 2 else contextlib.nullcontext()
    with listed, origin(tmp_path, page_size=page_size, setup=f"PRAGMA auto_vacuum={vacuum}") as source:
        source.connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); CREATE TABLE counter (n)")
        source.connection.execute("INSERT INTO counter VALUES (0)")
        yield Fuzz(source, seed)


def test_each_answer_is_that_of_a_state_that_was(fuzz: Fuzz) -> None:
    fuzz.run()
    assert fuzz.answers > 10
