"""Hydration goes on: after a kill, beside other processes, through errors of the storage, damage, and full disks."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import vfs
from backends import ConfigError, UnavailableError
from tests.test_vfs.hydrating import ALL, hydrated, progress, status, until, wait_until_complete
from tests.test_vfs.origin import Origin, number, origin, rows
from tests.test_vfs.storages import Hooks, Request, hooked
from vfs.hydration_place import Private
from vfs.hydration_store import HydrationStore

SUM = "SELECT count(*), sum(length(b)), sum(unicode(hex(b))) FROM t"
MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A snapshot of 9 MB and a file of 1 MB."""
    with origin(tmp_path) as made:
        fill(made)
        yield made


def fill(made: Origin) -> None:
    made.commit(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
        "INSERT INTO t SELECT value, randomblob(3000) FROM generate_series(1, 3000)",
    )
    made.commit("UPDATE t SET b = randomblob(3000) WHERE id % 10 = 0")


def data_requests(hooks: Hooks) -> int:
    return sum((each.end or 0) - each.start > 70_000 for each in hooks.log)


def test_a_restart_goes_on_from_what_is_there(source: Origin, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    db, hooks = hydrated(source, folder)

    def stop(request: Request) -> None:
        if data_requests(hooks) > 2:
            raise UnavailableError("the storage is gone", key=request.key)

    hooks.before = stop
    with closing(db):
        until(lambda: status(db).state == "failed")
        half = status(db).bytes_fetched
    db, hooks = hydrated(source, folder)
    with closing(db):
        wait_until_complete(db)
        whole = sum(file.size for file in source.replica.files())
        assert half > 4 * MIB
        assert status(db).bytes_fetched <= whole - 4 * MIB + 100
    db, hooks = hydrated(source, folder)
    with closing(db):
        wait_until_complete(db)
        assert (status(db).requests, status(db).bytes_fetched, progress(db)) == (0, 0, "100.0")
        assert rows(db, ALL) == rows(source.connection, ALL)
        assert data_requests(hooks) == 0


RUN = """
import json, sys, time, vfs
url, folder, expected = sys.argv[1:4]
db = vfs.connect(url, cache_dir=folder, hydrate=True, cache_size=1 << 20)
print("began", flush=True)
while True:
    told = json.loads(db.pragma("litestream_hydration_status"))
    if told["state"] == "complete":
        break
    time.sleep(0.01)
found = repr(db.execute("SELECT count(*), sum(length(b)), sum(unicode(hex(b))) FROM t").fetchall())
assert found == expected, found
print(told["requests"], told["bytes_fetched"], flush=True)
"""


def run(source: Origin, folder: Path) -> "subprocess.Popen[str]":
    expected = repr(source.connection.execute(SUM).fetchall())
    command = [sys.executable, "-c", RUN, source.url, str(folder), expected]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told_by(process: "subprocess.Popen[str]") -> tuple[int, int]:
    out, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    requests, fetched = out.split()[-2:]
    return int(requests), int(fetched)


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        fill(source)
        folder, chance = tmp_path / "cache", random.Random(7)
        for _ in range(3):
            victim = run(source, folder)
            assert victim.stdout
            assert victim.stdout.readline() == "began\n", victim.stderr and victim.stderr.read()
            time.sleep(chance.random() / 10)
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
        told_by(run(source, folder))
        assert told_by(run(source, folder)) == (0, 0)


def test_two_processes_with_one_folder_fetch_it_once(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        fill(source)
        both = [run(source, tmp_path / "cache") for _ in range(2)]
        told = [told_by(each) for each in both]
        sizes = sum(file.size for file in source.replica.files())
        assert sum(fetched for _, fetched in told) == sizes
        assert sum(requests for requests, _ in told) <= sizes / MIB


@pytest.mark.parametrize("seed", range(3))
def test_a_storage_that_fails_often_is_asked_again(
    seed: int, source: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.hydration._BACK_OFF_S", (0.01, 0.05))
    db, hooks = hydrated(source)
    chance = random.Random(seed)

    def fail(request: Request) -> None:
        if chance.random() < 0.5:
            raise UnavailableError("no answer", key=request.key)

    hooks.before = fail
    with closing(db):
        until(lambda: progress(db) == "100.0")
        until(lambda: status(db).error is None)
        assert rows(db, ALL) == rows(source.connection, ALL)


def gone(request: Request) -> None:
    """Answer nothing."""
    raise UnavailableError("the storage is gone", key=request.key)


def test_errors_are_told_and_raised_in_no_query(source: Origin) -> None:
    db, hooks = hydrated(source)

    def refuse(request: Request) -> None:
        if (request.end or 0) - request.start > 70_000:
            raise UnavailableError("come back later", key=request.key)

    hooks.before = refuse
    with closing(db):
        until(lambda: "come back later" in str(status(db).error))
        for each in range(1, 3000, 100):
            assert number(db, f"SELECT length(b) FROM t WHERE id = {each}") == 3000
        hooks.before = None
        wait_until_complete(db)
        assert status(db).error is None


def test_files_that_are_merged_and_gone_are_planned_around(source: Origin) -> None:
    source.commit("UPDATE t SET b = 'x' WHERE id = 7")
    db, hooks = hydrated(source, poll_interval=0)
    done: list[bool] = []

    def prune(request: Request) -> None:
        if (request.end or 0) - request.start > MIB and not done:
            done.append(True)
            source.snapshot()
            source.prune(0, source.newest + 1)

    hooks.before = prune
    with closing(db):
        until(lambda: bool(done))
        wait_until_complete(db)
        hooks.before = None
        assert rows(db, ALL) == rows(source.connection, ALL)
        assert {file.level for file in source.replica.files()} == {9}


def flipped(hooks: Hooks, key: str, place: int) -> None:
    """Have one byte of a file read wrong, always."""

    def flip(request: Request, data: bytes) -> bytes:
        end = request.start + len(data)
        if request.key != key or not request.start <= place < end:
            return data
        damaged = bytearray(data)
        damaged[place - request.start] ^= 0x40
        return bytes(damaged)

    hooks.answer = flip


@pytest.mark.parametrize("part", [0.5, 0.999999])
def test_a_damaged_file_is_named_and_what_is_whole_is_served(part: float, source: Origin) -> None:
    file = source.replica.files()[0]
    db, hooks = hydrated(source)
    flipped(hooks, file.key, int(file.size * part) - 60_000)
    with closing(db):
        until(lambda: status(db).state == "failed")
        assert file.key in str(status(db).error)
        assert number(db, "SELECT length(b) FROM t WHERE id = 17") == 3000
        assert progress(db) != "100.0"


def test_a_damaged_file_is_replaced_by_others_that_hold_the_same(source: Origin) -> None:
    file = source.replica.files()[1]
    source.merge(1, 2, 2)
    source.snapshot(1)
    db, hooks = hydrated(source)
    used = next(each for each in source.replica.files() if each.level == 1)
    flipped(hooks, used.key, used.size // 2)
    with closing(db):
        wait_until_complete(db)
        assert rows(db, ALL) == rows(source.connection, ALL)
        assert file.key != used.key


def test_a_bound_that_is_too_small_is_told_and_nothing_is_fetched_for_it(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(3000) FROM generate_series(1, 5000)",
        )
        db, _ = hydrated(source, tmp_path / "cache", cache_dir_size=16 * MIB)
        with closing(db):
            until(lambda: status(db).state == "failed")
            assert "16777216 bytes are too few" in str(status(db).error)
            assert "let cache_dir_size be more" in str(status(db).error)
            assert status(db).requests == 0
            assert rows(db, SUM) == rows(source.connection, SUM)
        db, _ = hydrated(source, tmp_path / "cache", cache_dir_size=19 * MIB + 5)
        with closing(db):  # its files fit, but not the way they are kept
            until(lambda: "too few" in str(status(db).error))
            taken = sum(
                each.stat().st_size for each in (tmp_path / "cache").iterdir() if each.suffix != ".db-shm"
            )
            assert taken <= 20 * MIB
            assert rows(db, SUM) == rows(source.connection, SUM)


def test_what_no_view_needs_any_more_goes(
    source: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.hydration._TRIM_SIZE", MIB)
    path = tmp_path / "here" / "shop.pages"
    db, hooks = hydrated(source, hydration_path=path, poll_interval=0)
    with closing(db):
        wait_until_complete(db)
        for each in range(12):
            source.commit(f"UPDATE t SET b = randomblob(3000) WHERE id % 5 = {each % 5}")
            number(db, "SELECT count(*) FROM t")
            wait_until_complete(db)
        assert path.stat().st_size < 2 * len(source.states[1])
        hooks.before = gone
        assert rows(db, ALL) == rows(source.connection, ALL)
        assert status(db).error is None


def test_a_file_that_is_named_lasts_and_no_other_is_taken_for_one(
    source: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "here" / "shop.pages"
    monkeypatch.setenv("LITESTREAM_HYDRATION_ENABLED", "true")
    monkeypatch.setenv("LITESTREAM_HYDRATION_PATH", str(path))
    url, _ = hooked(source.url)
    with closing(vfs.connect(url, cache_size=1)) as db:
        wait_until_complete(db)
        assert rows(db, "PRAGMA litestream_hydration_file") == [(str(path),)]
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    with closing(apsw.Connection(vfs.uri(url), flags=flags)) as db:
        wait_until_complete(db)
        assert status(db).requests == 0
    with closing(vfs.connect(url, hydrate=False)) as db:
        assert status(db).state == "off"
    for parameters, state in [("hydration_enabled=0", "off"), (f"hydration_path={path}2", "complete")]:
        with closing(apsw.Connection(f"{vfs.uri(url)}&{parameters}", flags=flags)) as db:
            until(lambda db=db, state=state: status(db).state == state)  # type: ignore[misc]
    whole = source.connection.serialize("main")
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match="is not a file that pages are kept in"):
        vfs.connect(url)
    assert path.read_bytes() == whole
    path.write_bytes(b"no database at all")
    with pytest.raises(ConfigError, match="is not a file that pages are kept in"):
        vfs.connect(url)


def test_a_full_disk_is_told(source: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydrationStore, "room", 1 << 40)
    db, _ = hydrated(source, tmp_path / "cache", cache_dir_size=16 * MIB)
    with closing(db):  # what SQLite says when a file may not grow
        until(lambda: "full" in str(status(db).error))
        assert rows(db, SUM) == rows(source.connection, SUM)


def test_the_folder_of_a_killed_process_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, used = tmp_path / "ltx-hydration-left", Private(os.getpid()).open()
    left.mkdir()
    (left / "lock").touch()
    for folder in (left, used.path.parent):
        os.utime(folder, (1, 1))
    other = Private(os.getpid()).open()
    assert not left.exists()
    assert used.path.parent.exists()
    del used, other
    assert list(tmp_path.iterdir()) == []
