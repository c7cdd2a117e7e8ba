"""A replica in which something is damaged, or that somebody else deletes in, becomes whole again while we run."""

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

import ltx
from ltx import Replica
from ltx.replica.compaction import compact, snapshot
from ltx.replica.levels import LevelPolicy
from ltx.replica.retention import RetentionPolicy
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.maintenance import Maintenance, Upkeep
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import eventually, restored

_SECOND = timedelta(seconds=1)
OFTEN = Upkeep(
    LevelPolicy((_SECOND, _SECOND), timedelta(days=365)),
    RetentionPolicy(level0=timedelta(seconds=0.2)),
    check_s=0.1,
)
SNAPSHOTS_OFTEN = Upkeep(LevelPolicy((timedelta(days=365),), _SECOND), check_s=0.1)


class World:
    """A database and its replica."""

    def __init__(self, folder: Path) -> None:
        self.path, self.url, self.out = make(folder / "a.db"), folder / "replica", folder / "out.db"
        self.replica = Replica.open(str(self.url))

    def commit(self) -> None:
        with connected(self.path) as db:
            fill(db, 3)

    def publish(self, count: int) -> None:
        """Commit and upload so many transactions. What is uploaded is then not kept here any more."""
        database = Database(self.path, [self.replica], Settings())
        for _ in range(count):
            self.commit()
            database.sync()
            assert database.uploaders[0].push()
        database.close()

    @contextmanager
    def running(self, upkeep: Upkeep) -> Iterator[Database]:
        database = Database(self.path, [self.replica], Settings(sync_interval_s=0.02, upkeep=upkeep))
        daemon = Daemon([database])
        daemon.start()
        try:
            yield database
        finally:
            assert daemon.stop()

    def keys(self) -> set[str]:
        return {file.key for file in self.replica.files()}

    def damage(self, key: str, *, cut: bool) -> None:
        path = self.url / key
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if cut else data)

    def is_whole(self) -> bool:
        try:
            return restored(str(self.url), self.out) == image(self.path)
        except ltx.CorruptError:
            return False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.replica.close()


def damaged_at(world: World, level: int) -> str:
    """Make a replica whose newest state needs a damaged file of a level; return its key."""
    world.publish(4)
    if level == 1:
        compact(world.replica, 1)
    elif level == 9:
        snapshot(world.replica)
    if level:
        world.replica.backend.delete([file.key for file in world.replica.files(0)])
    world.publish(3)
    if level == 1:
        compact(world.replica, 1)
    key = world.replica.files(level)[1 if level == 0 else 0].key
    world.damage(key, cut=level == 0)
    with pytest.raises(ltx.CorruptError):
        world.replica.restore(world.out, force=True)
    return key


@pytest.mark.parametrize(("level", "upkeep"), [(0, OFTEN), (1, OFTEN), (9, SNAPSHOTS_OFTEN)])
def test_a_damaged_file_is_told_of_and_made_up_for(world: World, level: int, upkeep: Upkeep) -> None:
    key = damaged_at(world, level)
    before = world.keys()
    with world.running(upkeep) as database:
        eventually(world.is_whole)
        for _ in range(4):
            world.commit()
            time.sleep(0.4)
        eventually(world.is_whole)
        eventually(lambda: not database.status.replicas[0]["needs_snapshot"])
        assert f"{key} is damaged" in str(database.status.replicas[0]["upkeep_error"])
        newest = database.line.txid
        assert not list((database.folder / "ltx" / "9").iterdir())  # it was as large as the database
        wanted = 1 if upkeep is OFTEN else 9
        eventually(lambda: any(file.max_txid >= newest for file in world.replica.files(wanted)))
    assert len([file for file in world.replica.files(9) if file.key != key]) == 1 or level == 9
    found = world.replica.verify()
    assert [each.file.key for each in found.files if each.fault] == [key]
    assert found.restorable[-1].txid == found.newest
    gone = before - world.keys()
    assert all(key.startswith("ltx/0/") for key in gone)
    assert key not in gone
    with world.running(upkeep):  # whether it is met anew or not, it is made up for already
        snapshots = world.replica.files(9)
        world.commit()
        time.sleep(1.5)
        assert world.replica.files(9) == snapshots or upkeep is SNAPSHOTS_OFTEN
    assert world.is_whole()


def test_a_damaged_snapshot_that_can_be_done_without_is_told_of(world: World) -> None:
    world.publish(3)
    snapshot(world.replica)
    [damaged] = world.replica.files(9)
    world.damage(damaged.key, cut=False)
    database = Database(world.path, [world.replica], Settings(upkeep=SNAPSHOTS_OFTEN))
    world.commit()
    database.sync()
    assert database.uploaders[0].push()
    time.sleep(1.1)
    Maintenance(database.uploaders[0], database.folder, SNAPSHOTS_OFTEN).run()
    assert f"{damaged.key} is damaged" in str(database.status.replicas[0]["upkeep_error"])
    assert not database.status.replicas[0]["needs_snapshot"]  # the one that was just made is sound
    assert [file.max_txid for file in world.replica.files(9)] == [3, 4]
    assert world.is_whole()
    database.close()


def test_a_merge_that_fails_leaves_no_file_open(world: World) -> None:
    damaged_at(world, 0)
    database = Database(world.path, [world.replica], Settings(upkeep=OFTEN))
    world.commit()
    database.sync()
    assert database.uploaders[0].push()
    time.sleep(1.1)
    gc.collect()
    gc.disable()  # only what is let go of at once counts
    try:
        Maintenance(database.uploaders[0], database.folder, OFTEN).run()
        assert database.uploaders[0].upkeep_error
        opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        assert [path for path in opened if path.endswith(".ltx")] == []
    finally:
        gc.enable()
    database.close()


def test_nothing_is_deleted_for_a_damaged_file_that_should_replace_it(world: World) -> None:
    world.publish(3)
    compact(world.replica, 1)
    [damaged] = world.replica.files(1)
    world.damage(damaged.key, cut=False)
    before = world.keys()
    database = Database(world.path, [world.replica], Settings(upkeep=OFTEN))
    database.sync()
    assert database.uploaders[0].push()
    time.sleep(0.3)
    Maintenance(database.uploaders[0], database.folder, OFTEN).run()
    assert f"{damaged.key} is damaged" in str(database.status.replicas[0]["upkeep_error"])
    assert not database.status.replicas[0][
        "needs_snapshot"
    ]  # the first one was due, and is made of what is sound
    assert world.keys() - before == {f"ltx/9/{1:016x}-{3:016x}.ltx"}
    assert before <= world.keys()
    assert world.is_whole()
    database.close()


def test_a_damaged_file_is_not_taken_for_another_writers(world: World) -> None:
    database = Database(world.path, [world.replica], Settings())
    uploader = database.uploaders[0]
    for _ in range(4):
        world.commit()
        database.sync()
        assert uploader.push()
    *_, last, newest = sorted(world.keys())
    (world.url / newest).unlink()
    world.damage(last, cut=True)
    uploader.doubt()
    for _ in range(2):
        uploader.push()
        database.sync()
    assert uploader.push()
    assert not uploader.error
    assert world.is_whole()
    database.close()


def test_whatever_somebody_else_does_it_is_whole_again_in_the_end(world: World) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed: {seed}")
    choice = Random(seed)
    upkeep = Upkeep(
        LevelPolicy((_SECOND, 2 * _SECOND), 4 * _SECOND),
        RetentionPolicy(5 * _SECOND, timedelta(seconds=0.5), timedelta(0)),
        check_s=0.2,
    )
    with world.running(upkeep) as database:
        for number in range(240):
            world.commit()
            time.sleep(choice.random() * 0.05)
            files = world.replica.files()
            if number % 20 == 19 and files:
                file = choice.choice([*files, max(files, key=lambda file: file.max_txid)])
                with suppress(FileNotFoundError):
                    match choice.choice(["damage", "cut", "delete", "delete level", "delete all"]):
                        case "delete":
                            (world.url / file.key).unlink()
                        case "delete level":
                            shutil.rmtree(world.url / "ltx" / str(file.level), ignore_errors=True)
                        case "delete all":
                            shutil.rmtree(world.url, ignore_errors=True)  # what is put meanwhile may stay
                        case how:
                            world.damage(file.key, cut=how == "cut")

        def is_whole() -> bool:
            world.commit()
            time.sleep(0.3)
            return world.is_whole()

        eventually(is_whole, seconds=25)
        assert database.status.replicas[0]["error"] is None


def delete_level_0(world: World) -> None:
    for path in (world.url / "ltx" / "0").iterdir():
        path.unlink()


def delete_one_in_the_middle(world: World) -> None:
    [key] = [file.key for file in world.replica.files(0) if file.max_txid == 3]
    (world.url / key).unlink()


def delete_all(world: World) -> None:
    shutil.rmtree(world.url, ignore_errors=True)  # what is put meanwhile may stay


def delete_the_beginning(world: World) -> None:
    (world.url / world.replica.files(0)[0].key).unlink()


@pytest.mark.parametrize(
    "delete", [delete_level_0, delete_one_in_the_middle, delete_all, delete_the_beginning]
)
def test_what_somebody_else_deletes_is_made_up_for(world: World, delete: Callable[[World], None]) -> None:
    world.publish(5)
    with world.running(OFTEN) as database:
        world.commit()
        eventually(lambda: world.is_whole() and (world.url / "lineage.json").exists())
        delete(world)
        world.commit()
        eventually(world.is_whole)
        eventually(lambda: database.status.replicas[0]["upkeep_error"] is None)
        for _ in range(3):
            world.commit()
            time.sleep(0.4)
        eventually(world.is_whole)
        assert database.status.replicas[0]["error"] is None
    found = world.replica.verify()
    assert found.restorable[-1].txid == found.newest
    assert not any(each.fault for each in found.files)
    assert (world.url / "lineage.json").exists()


def test_an_idle_replica_costs_no_request(world: World) -> None:
    world.publish(5)
    with world.running(OFTEN) as database:
        eventually(lambda: len(world.replica.files(1)) > 0 and database.uploaders[0].is_current)
        time.sleep(2)
        before = dict(world.replica.backend.stats.requests)
        time.sleep(1.5)
        assert dict(world.replica.backend.stats.requests) == before
