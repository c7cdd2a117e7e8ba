"""Whole round trips over a storage that fails: what comes back is right or a typed error, and nothing is lost."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import apsw
import pytest

import ltx.replica.replica
import vfs
from backends import Backend, BackendError
from backends.memory import MemoryBackend
from backends.retrying import Retry, RetryingBackend
from backends.testing import KINDS, TRANSIENT, FaultyBackend, RandomFaults
from ltx import LTXError, Replica, replicate_once
from ltx.replica.compaction import compact, snapshot
from ltx.replica.retention import retain
from tests.support.databases import connected, fill, image, make

AT_ONCE = Retry(tries=3, sleep=lambda _: None)
TYPED = (LTXError, BackendError)
QUESTION = "SELECT count(*), sum(a), sum(length(b)), max(hex(b)) FROM t"
ROUNDS = 4


class RoundTrips:
    """One database, one replica in memory behind faults, and all that the source ever was."""

    def __init__(self, folder: Path, seed: int, kinds: tuple[str, ...]) -> None:
        self.random = random.Random(seed)
        self.name = f"faults-{seed}-{token_hex(4)}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.rate = self.random.choice((0.1, 0.3, 0.6))
        self.seed, self.kinds = seed, kinds
        self.memory = MemoryBackend(self.name)
        self.faulty = FaultyBackend(self.memory, RandomFaults(seed, self.rate, kinds), sleep=lambda _: None)
        self.database = make(
            self.folder / "a.db", page_size=512, mode=self.random.choice(("wal", "delete")), rows=3
        )
        self.images: list[bytes] = []
        self.answers: set[tuple[object, ...]] = set()
        self.published: dict[int, bytes] = {}
        self.failed = self.done = 0
        self.follower: apsw.Connection | None = None
        self.seen = ""

    def replica(self, backend: Backend | None = None) -> Replica:
        tries = self.random.choice((1, 2, 3))
        return Replica(RetryingBackend(backend or self.faulty, replace(AT_ONCE, tries=tries)))

    def tried(self, step: Callable[[], None]) -> None:
        try:
            step()
        except TYPED:
            self.failed += 1
        else:
            self.done += 1

    def change(self) -> None:
        with connected(self.database) as db:
            fill(db, self.random.randrange(1, 6), size=self.random.randrange(20, 400))
            if self.random.random() < 0.3:
                db.execute("DELETE FROM t WHERE a = 0")
                db.execute("VACUUM")
            self.answers.add(db.execute(QUESTION).fetchall()[0])
        self.images.append(image(self.database))

    def replicate(self) -> None:
        if self.random.random() < 0.2:
            shutil.rmtree(self.folder / ".a.db-litestream", ignore_errors=True)  # what is known here is lost
        if done := replicate_once(self.database, self.replica()):
            self.published[done.txid] = self.images[-1]

    def upkeep(self) -> None:
        chosen = self.random.randrange(4)
        if chosen in (0, 3):
            snapshot(self.replica(), folder=self.folder)
            retain(self.replica(), now=datetime.now(UTC) + timedelta(days=30))
        else:
            compact(self.replica(), chosen, folder=self.folder)

    def restore(self) -> None:
        output = self.folder / "out.db"
        output.unlink(missing_ok=True)
        try:
            done = self.replica().restore(output)
        except TYPED:
            assert not output.exists()
            raise
        data = output.read_bytes()
        assert data in self.images
        assert data == self.published.get(done.txid, data)

    def restore_one(self) -> None:
        txid = self.random.choice([*self.published] or [1])
        output = self.folder / "one.db"
        self.replica().restore(output, txid=txid, force=True)
        assert output.read_bytes() == self.published.get(txid, output.read_bytes())

    def query(self) -> None:
        with closing(self.connection()) as db:
            assert db.execute(QUESTION).fetchall()[0] in self.answers

    def follow(self) -> None:
        self.follower = self.follower or self.connection()
        with self.follower:
            [(txid,)] = self.follower.execute("SELECT litestream_txid()").fetchall()
            answer = self.follower.execute(QUESTION).fetchall()[0]
        assert answer in self.answers
        assert str(txid) >= self.seen
        self.seen = str(txid)

    def connection(self) -> apsw.Connection:
        kinds = ",".join(self.kinds)
        url = f"faulty+memory://{self.name}?seed={self.seed}&rate={self.rate}&kinds={kinds}&slow=0"
        return vfs.connect(url, poll_interval=0)

    def verify(self) -> None:
        found = self.replica().verify()
        if set(self.kinds) <= set(TRANSIENT):
            assert not [checked for checked in found.files if checked.fault]

    def run(self) -> None:
        for _ in range(ROUNDS):
            self.change()
            self.tried(self.replicate)
            for step in self.random.sample(
                (self.upkeep, self.restore, self.restore_one, self.query, self.follow, self.verify), 3
            ):
                self.tried(step)
        if self.follower:
            self.follower.close()
        self.check_nothing_is_lost()

    def check_nothing_is_lost(self) -> None:
        """The faults end; what was late comes; then one more run has it all."""
        self.faulty.settle()
        replica = self.replica(self.memory)
        replicate_once(self.database, replica)
        output = self.folder / "end.db"
        replica.restore(output)
        assert output.read_bytes() == self.images[-1]
        assert replica.verify().is_sound
        reachable = {state.txid for state in replica.verify().restorable}
        for txid in reachable & set(self.published):
            replica.restore(output, txid=txid, force=True)
            assert output.read_bytes() == self.published[txid]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is tested here does not wait for disks."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("first", range(0, 200, 50))
@pytest.mark.parametrize("kinds", [TRANSIENT, KINDS], ids=["transient", "all"])
def test_round_trips(
    first: int, kinds: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ltx.replica.replica, "RetryingBackend", partial(RetryingBackend, retry=AT_ONCE))
    failed = done = 0
    for seed in range(first, first + 50):
        print("seed", seed, kinds)
        trips = RoundTrips(folder, seed, kinds)
        trips.run()
        failed, done = failed + trips.failed, done + trips.done
    assert done > failed > 100
