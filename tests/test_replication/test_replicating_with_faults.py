"""Continuous replication to a storage that fails: nothing is lost, and nobody is taken for a second writer."""

import random
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import pytest

from backends import Backend, BackendError, UnavailableError
from backends.memory import MemoryBackend
from backends.retrying import Retry, RetryingBackend
from backends.testing import KINDS, TRANSIENT, Fault, FaultyBackend, RandomFaults, ScriptedFaults
from ltx import LTXError, Replica
from ltx.replica.compaction import compact, snapshot
from ltx.replica.retention import retain
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, fill, image, make

TYPED = (LTXError, BackendError)
ROUNDS = 8


class Continuous:
    """One database, replicated step by step to memory behind faults, with restarts and lost state."""

    def __init__(self, folder: Path, seed: int, kinds: tuple[str, ...]) -> None:
        self.random = random.Random(seed)
        self.folder = folder / f"{seed}-{token_hex(4)}"
        self.folder.mkdir()
        self.memory = MemoryBackend(self.folder.name)
        rate = self.random.choice((0.1, 0.3, 0.6))
        self.faulty = FaultyBackend(self.memory, RandomFaults(seed, rate, kinds), sleep=lambda _: None)
        mode = self.random.choice(("wal", "wal", "delete"))
        self.path = make(self.folder / "a.db", page_size=512, mode=mode, rows=3)
        self.history: set[bytes] = set()
        self.database: Database | None = None
        self.stopped = 0

    def replica(self, backend: Backend | None = None) -> Replica:
        retry = Retry(tries=self.random.choice((1, 2, 3)), sleep=lambda _: None)
        return Replica(RetryingBackend(backend or self.faulty, retry))

    def opened(self) -> Database:
        if self.database is None:
            settings = Settings(keep_size=self.random.choice((1, 2000, 1 << 30)))
            self.database = Database(self.path, [self.replica()], settings)
        return self.database

    def end(self) -> None:
        if self.database:
            self.database.close()
            self.database = None

    def round(self) -> None:
        with connected(self.path) as db:
            fill(db, self.random.randrange(1, 5), size=self.random.randrange(20, 300))
        self.history.add(image(self.path))
        database = self.opened()
        uploader = database.uploaders[0]
        for _ in range(self.random.randrange(3)):
            with suppress(*TYPED):
                database.sync()
            uploader.push()
            assert uploader.error is None or isinstance(uploader.error, TYPED)
        if uploader.stopped and not uploader.late:
            self.stopped += 1
        for step in self.random.sample((self.upkeep, self.restore, self.restart), 1):
            with suppress(*TYPED):
                step()
        if uploader.stopped:
            self.end()

    def upkeep(self) -> None:
        chosen = self.random.randrange(3)
        if chosen == 0:
            snapshot(self.replica(), folder=self.folder)
            retain(self.replica(), now=datetime.now(UTC) + timedelta(days=30))
        else:
            compact(self.replica(), chosen, folder=self.folder)

    def restore(self) -> None:
        output = self.folder / "out.db"
        output.unlink(missing_ok=True)
        self.replica().restore(output)
        assert output.read_bytes() in self.history

    def restart(self) -> None:
        self.end()
        if self.random.random() < 0.4:
            shutil.rmtree(self.folder / ".a.db-litestream", ignore_errors=True)

    def check_nothing_is_lost(self) -> None:
        """The faults end; what was late comes; then a new replicator brings it all."""
        self.end()
        self.faulty.settle()
        output, replica = self.folder / "end.db", self.replica(self.memory)
        with closing(Database(self.path, [replica], Settings())) as database:
            for _ in range(4):
                database.sync()
                database.uploaders[0].push()
            assert database.uploaders[0].is_current, database.uploaders[0].error
        replica.restore(output)
        assert output.read_bytes() == image(self.path)
        assert not [checked for checked in replica.verify().files if checked.fault]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is tested here does not wait for disks."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("first", [0, 60])
@pytest.mark.parametrize("kinds", [TRANSIENT, KINDS], ids=["transient", "all"])
def test_replicating(first: int, kinds: tuple[str, ...], folder: Path) -> None:
    for seed in range(first, first + 60):
        print("seed", seed, kinds)
        case = Continuous(folder, seed, kinds)
        for _ in range(ROUNDS):
            case.round()
        case.check_nothing_is_lost()
        if kinds == TRANSIENT:
            assert not case.stopped


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_storage_that_fails_while_we_find_out_what_it_has(number: int, tmp_path: Path) -> None:
    """Nothing is known here any more. An upload that comes before the next look is no conflict."""
    path, memory = make(tmp_path / "a.db"), MemoryBackend(token_hex(6))
    with closing(Database(path, [Replica(memory)], Settings())) as database:
        database.sync()
        assert database.uploaders[0].push()
    shutil.rmtree(tmp_path / ".a.db-litestream")
    with connected(path) as db:
        fill(db, 3)
    faulty = FaultyBackend(memory, ScriptedFaults(Fault("get", number, "error")))
    once = replace(Retry(), tries=1)
    with closing(Database(path, [Replica(RetryingBackend(faulty, once))], Settings())) as database:
        with suppress(UnavailableError):
            database.sync()
        database.uploaders[0].push()
        database.sync()
        assert database.uploaders[0].push()
    Replica(memory).restore(tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == image(path)


@pytest.mark.parametrize("times", [1, 2])
def test_a_checksum_that_is_cut_short_is_no_conflict(times: int, tmp_path: Path) -> None:
    path, memory = make(tmp_path / "a.db"), MemoryBackend(token_hex(6))
    script = [Fault("get", number, "short") for number in range(1, 1 + times)]
    faulty = FaultyBackend(memory, ScriptedFaults(Fault("put", 2, "duplicate"), *script))
    with closing(Database(path, [Replica(faulty)], Settings())) as database:
        database.sync()
        assert database.uploaders[0].push() is (times == 1)
        assert database.uploaders[0].push()
    assert len(faulty.injected) == 1 + times
    Replica(memory).restore(tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == image(path)


def test_a_last_writer_that_cannot_be_read_is_no_stranger(tmp_path: Path) -> None:
    """Of a database that changed wholly meanwhile only `lineage.json` says that the replica is its own."""
    path, memory = make(tmp_path / "a.db"), MemoryBackend(token_hex(6))
    with closing(Database(path, [Replica(memory)], Settings())) as database:
        database.sync()
        assert database.uploaders[0].push()
    shutil.rmtree(tmp_path / ".a.db-litestream")
    with connected(path) as db:
        db.execute("UPDATE t SET b = randomblob(length(b))")
    faulty = FaultyBackend(memory, ScriptedFaults(Fault("get", 1, "error", part="lineage.json")))
    with closing(Database(path, [Replica(faulty)], Settings())) as database:
        with pytest.raises(UnavailableError):
            database.sync()
        database.sync()
        assert database.uploaders[0].push()
