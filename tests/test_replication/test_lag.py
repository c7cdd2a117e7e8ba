"""What a replica lacks: it is told, above all when it is much; and what waits for a slow one has a bound."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ltx import Replica
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import eventually, restored

KEEP = 20_000


class World:
    """A database that is replicated by hand, and a storage that can be out of reach."""

    def __init__(self, folder: Path) -> None:
        self.path, self.url, self.away = make(folder / "a.db"), folder / "replica", folder / "away"
        self.folder, self.out = folder / ".a.db-litestream", folder / "out.db"
        self.replicas: list[Replica] = []
        self.open()

    def open(self) -> None:
        self.replicas.append(Replica.open(str(self.url)))
        self.database = Database(self.path, [self.replicas[-1]], Settings(keep_size=KEEP))
        self.uploader = self.database.uploaders[0]

    def commit(self, count: int = 1) -> None:
        for _ in range(count):
            with connected(self.path) as db:
                fill(db, 3)
            self.database.sync()

    def cut(self) -> None:
        self.url.rename(self.away)
        self.url.write_text("in the way")

    def join(self) -> None:
        self.url.unlink()
        self.away.rename(self.url)

    @property
    def lag(self) -> tuple[int, float, bool]:
        found = self.database.status.replicas[0]
        size, seconds, needs = found["lag_size"], found["lag_s"], found["needs_snapshot"]
        assert isinstance(size, int)
        assert isinstance(seconds, float)
        return size, seconds, bool(needs)

    def waiting(self) -> list[Path]:
        return sorted((self.folder / "ltx" / "0").iterdir())

    def is_there(self) -> bool:
        return restored(str(self.url), self.out) == image(self.path)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.database.close()
    for replica in world.replicas:
        replica.close()


def test_the_lag_is_told_while_nothing_is_known_of_the_replica(world: World) -> None:
    world.commit(3)
    assert world.uploader.push()
    assert world.lag == (0, 0.0, False)
    world.cut()
    world.commit(2)
    world.database.close()
    world.open()
    world.commit()
    assert not world.uploader.push()
    assert world.uploader.txid is None
    time.sleep(0.3)
    size, seconds, _ = world.lag
    assert size >= sum(path.stat().st_size for path in world.waiting()[-3:])
    assert 0.3 <= seconds < 30
    world.join()
    world.commit()
    assert world.uploader.push()
    assert world.lag == (0, 0.0, False)


def test_the_lag_is_told_beyond_what_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx.replication.line._ROLL_COUNT", 8)
    world.commit()
    assert world.uploader.push()
    world.cut()
    began = time.time()
    world.commit()
    first = world.waiting()[-1]
    assert not world.uploader.push()
    while first.exists():
        world.commit()
    time.sleep(0.2)
    world.commit(20)
    size, seconds, needs_snapshot = world.lag
    assert size > KEEP / 4
    assert seconds > 0.2
    assert time.time() - began - 0.2 < seconds <= time.time() - began + 0.2
    assert needs_snapshot
    world.join()
    for _ in range(3):
        world.uploader.push()
        world.database.sync()
    assert world.uploader.push()
    assert world.lag == (0, 0.0, False)
    assert world.is_there()


def test_a_replica_that_nothing_waits_for_yet_lags_by_the_database(world: World, tmp_path: Path) -> None:
    world.commit(3)
    assert world.uploader.push()
    world.database.close()
    with Replica.open(str(tmp_path / "other")) as other:
        database = Database(world.path, [world.replicas[0], other], Settings())
        world.database = database
        database.sync()
        (table,) = world.folder.glob("pages-*")
        assert table.exists()
        status = database.status.replicas[1]
        assert status["needs_snapshot"]
        assert status["lag_size"]
        assert status["lag_s"]


@contextmanager
def slow(world: World) -> Iterator[threading.Semaphore]:
    """Let every put wait until it may go on, and push all the time."""
    backend = world.replicas[0].backend.backend  # type: ignore[attr-defined]  # below the one that tries again
    put, allowed, over = backend.put, threading.Semaphore(0), threading.Event()

    def waiting(*args: object, **kwargs: object) -> None:
        allowed.acquire()
        put(*args, **kwargs)

    def pushing() -> None:
        while not over.wait(0.01):
            world.uploader.push()

    backend.put = waiting
    thread = threading.Thread(target=pushing)
    thread.start()
    try:
        yield allowed
    finally:
        over.set()
        allowed.release(1_000_000)
        thread.join()
        backend.put = put


def test_what_waits_for_a_slow_replica_has_a_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx.replication.line._ROLL_COUNT", 8)
    world.commit()
    assert world.uploader.push()
    with slow(world) as allowed:
        world.commit(100)  # the second is under way
        assert len(world.waiting()) < 60
        assert world.uploader.error is None
        assert world.lag[2]
        allowed.release()
        eventually(lambda: world.uploader.txid == 2)  # and was not broken off
        made = len(list((world.folder / "ltx" / "9").iterdir()))
        assert made == 1
        world.commit(3)
        allowed.release(1_000)
        eventually(lambda: world.uploader.is_current)
        world.commit(3)
        eventually(lambda: world.uploader.is_current)
    assert world.lag == (0, 0.0, False)
    assert world.is_there()
    with Replica.open(str(world.url)) as replica:
        assert replica.verify().is_sound
        [snapshot] = replica.files(9)
        assert [file.max_txid for file in replica.files(0) if file.max_txid < snapshot.max_txid] == [1, 2]


def test_a_snapshot_takes_the_place_only_of_what_is_more_than_it(world: World) -> None:
    with connected(world.path) as db:
        fill(db, 2_000)
    world.commit()
    assert world.uploader.push()
    with slow(world):
        with connected(world.path) as db:
            db.execute("UPDATE t SET a = a + 1")  # as large as the database, and soon under way
        world.database.sync()
        assert world.database.line.size > KEEP
        assert not world.lag[2]
        world.commit(10)
        assert not world.lag[2]
    while not world.uploader.push():
        pass
    assert {file.level for file in world.replicas[0].files()} == {0}
    assert world.is_there()
