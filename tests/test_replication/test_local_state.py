"""What waits on this machine for its upload is deleted or damaged while we run: it is made up for, and never uploaded."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import ltx
from ltx import DatabaseError, Replica
from ltx.replication.capture import Captured
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.guard import take_guard
from ltx.replication.staged import StagedFile
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import eventually, restored


class World:
    """A database that is replicated by hand, and a storage that can be out of reach."""

    def __init__(self, folder: Path) -> None:
        self.path, self.url, self.away = make(folder / "a.db"), folder / "replica", folder / "away"
        self.folder, self.out = folder / ".a.db-litestream", folder / "out.db"
        self.states: dict[int, bytes] = {}
        self.open()

    def open(self) -> None:
        self.replica = Replica.open(str(self.url))
        self.database = Database(self.path, [self.replica], Settings())
        self.uploader = self.database.uploaders[0]

    def close(self) -> None:
        self.database.close()
        self.replica.close()

    def commit(self, count: int = 1) -> None:
        for _ in range(count):
            with connected(self.path) as db:
                fill(db, 3)
            self.database.sync()
            self.states[self.database.line.txid] = image(self.path)

    def push(self) -> None:
        for _ in range(4):
            self.database.sync()
            if self.uploader.push():
                return
        raise AssertionError(self.database.status)

    def cut(self) -> None:
        if self.url.exists():
            self.url.rename(self.away)
        self.url.write_text("in the way")

    def join(self) -> None:
        self.url.unlink()
        if self.away.exists():
            self.away.rename(self.url)

    def waiting(self) -> list[Path]:
        return sorted((self.folder / "ltx" / "0").iterdir())

    def check(self, *lost: int) -> None:
        """Every state but those that were lost can be had, and all that is on the replica is sound."""
        assert restored(str(self.url), self.out) == image(self.path)
        with Replica.open(str(self.url)) as replica:
            assert replica.verify().is_sound
            there = {file.max_txid for file in replica.files()}
        for txid, state in self.states.items():
            if txid not in lost:
                assert txid in there
                assert restored(str(self.url), self.out, txid=txid) == state
            else:
                assert txid not in there


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def delete(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS = [delete, cut_short, flip, empty]


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_waits_and_is_lost_is_made_up_for(world: World, harm: Callable[[Path], None]) -> None:
    world.commit()
    world.push()
    world.cut()
    world.commit(5)  # 2 to 6
    assert not world.uploader.push()
    harm(world.waiting()[-3])  # 4: 2 and 3 can still be had, and 5 only with it
    world.join()
    world.push()
    world.check(4, 5)
    world.commit(3)
    world.push()
    world.check(4, 5)
    assert world.database.compared == 2  # the first time, and for the snapshot
    world.close()
    world.open()
    world.commit()
    world.push()
    world.check(4, 5)


@pytest.mark.parametrize("harm", HARMS)
def test_a_snapshot_that_waits_and_is_lost_is_made_anew(world: World, harm: Callable[[Path], None]) -> None:
    world.commit()
    world.push()
    world.uploader.heal(1)
    world.database.sync()
    [snapshot] = (world.folder / "ltx" / "9").iterdir()
    harm(snapshot)
    world.push()
    assert not world.uploader.needs_snapshot
    assert [file.max_txid for file in world.replica.files(9)] == [1]
    world.check()


@pytest.mark.parametrize("harm", HARMS)
def test_a_lost_file_that_the_table_lacks_is_made_up_for(
    world: World, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx.replication.line._ROLL_COUNT", 8)
    world.commit()
    world.push()
    world.cut()
    world.commit(5)
    world.database.line._hashes.clear()  # as after a table could not be written
    harm(world.waiting()[-1])  # 6
    world.commit(4)  # 9 is the eighth that the table lacks
    assert world.database.compared == 2  # at the start, and when the table was to be brought up to date
    world.join()
    world.push()
    assert [file.max_txid for file in world.replica.files(9)] == [10]
    world.check(6, 7, 8, 9)


def test_a_table_that_is_lost_is_made_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx.replication.line._ROLL_COUNT", 8)
    world.commit()
    world.push()
    world.cut()
    world.commit(3)
    [table] = world.folder.glob("pages-*")
    table.unlink()
    world.commit(10)
    assert table.exists()
    world.join()
    world.push()
    world.check()
    world.database.sync()
    assert len(world.waiting()) < 8


def delete_all(world: World) -> None:
    shutil.rmtree(world.folder)


def delete_the_files(world: World) -> None:
    shutil.rmtree(world.folder / "ltx")


def delete_level_0(world: World) -> None:
    shutil.rmtree(world.folder / "ltx" / "0")


@pytest.mark.parametrize("delete", [delete_all, delete_the_files, delete_level_0])
@pytest.mark.parametrize("is_down", [False, True])
def test_a_folder_that_is_deleted_is_made_anew(
    world: World, delete: Callable[[World], None], *, is_down: bool
) -> None:
    world.commit(3)
    world.push()
    if is_down:
        world.cut()
    world.commit()
    delete(world)
    world.commit(2)
    world.commit(2)
    if is_down:
        world.join()
    world.push()
    world.states.pop(4)  # it waited there
    if delete is not delete_all and not is_down:
        world.states = {txid: state for txid, state in world.states.items() if txid < 4 or txid > 7}
    world.commit()
    world.push()
    assert restored(str(world.url), world.out) == image(world.path)
    assert world.replica.verify().is_sound
    for txid in (1, 2, 3):
        assert restored(str(world.url), world.out, txid=txid) == world.states[txid]
    with Replica.open(str(world.url)) as replica, pytest.raises(DatabaseError, match="already: stop one"):
        ltx.replicate_once(world.path, replica)


def test_a_folder_that_somebody_else_has_now_is_left_to_them(world: World) -> None:
    world.commit()
    world.push()
    shutil.rmtree(world.folder)
    world.folder.mkdir()
    with closing(take_guard(world.folder, world.path)):
        for _ in range(2):
            with pytest.raises(DatabaseError, match="already: stop one"):
                world.commit()
        assert not world.database.is_open
    world.commit()
    world.push()
    world.check()


def delete_at_once(folder: Path) -> None:
    """Delete it, whatever is put there meanwhile."""
    aside = folder.with_name("deleted")
    folder.rename(aside)
    shutil.rmtree(aside)


def test_a_daemon_goes_on_when_its_folder_is_deleted(world: World) -> None:
    world.close()
    replica = world.replica = Replica.open(str(world.url))
    database = world.database = Database(world.path, [replica], Settings(sync_interval_s=0.02, look_s=0.1))
    daemon = Daemon([database], flush_s=5)
    daemon.start()

    def is_there() -> bool:
        return restored(str(world.url), world.out) == image(world.path)

    try:
        for _ in range(3):
            with connected(world.path) as db:
                fill(db, 3)
            eventually(is_there)
            delete_at_once(world.folder)
        eventually(is_there)
    finally:
        assert daemon.stop()
    assert is_there()
    assert replica.verify().is_sound


def test_where_the_disk_is_full_what_the_replica_has_makes_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        world.commit()
        world.push()
    kept = world.folder / "ltx" / "0"
    assert len(list(kept.iterdir())) == 5
    stage = world.database.line.stage

    def full(captured: Captured) -> StagedFile:
        monkeypatch.setattr(world.database.line, "stage", stage)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world.database.line, "stage", full)
    with connected(world.path) as db:
        fill(db, 3)
    with pytest.raises(OSError, match="No space"):
        world.database.sync()
    assert len(list(kept.iterdir())) <= 1
    world.push()
    assert restored(str(world.url), world.out) == image(world.path)


def test_with_the_table_and_all_files_lost_it_ends_quietly_and_begins_anew(world: World) -> None:
    for _ in range(4):
        world.commit()
        world.push()
    for path in (*(world.folder / "ltx" / "0").iterdir(), *world.folder.glob("pages-*")):
        path.unlink()
    world.close()
    world.open()
    world.commit()
    world.push()
    assert restored(str(world.url), world.out) == image(world.path)
