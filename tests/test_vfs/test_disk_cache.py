"""Pages kept on disk: they spare requests after a restart, and nothing that happens to the disk changes an answer."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import vfs
from backends import ConfigError
from tests.test_vfs.origin import Origin, number, origin, rows, seen
from tests.test_vfs.storages import hooked
from vfs.disk_cache import DiskCache, open_disk_cache

COUNT = "SELECT count(*), sum(length(b)) FROM t"
SIZE = 32 << 20


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A snapshot of 3 MB and two increments."""
    with origin(tmp_path) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 3000)",
        )
        made.commit("UPDATE t SET b = 'x' WHERE id = 7")
        made.commit("UPDATE t SET b = 'y' WHERE id = 2000")
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def settled(folder: Path) -> None:
    """Wait until nothing more is written."""
    path, before = folder / "litestream-pages.db-wal", -1
    deadline = time.monotonic() + 10
    while (now := path.stat().st_mtime_ns if path.exists() else 0) != before or not now:
        assert time.monotonic() < deadline, "nothing is written"
        before = now
        time.sleep(0.2)


class Run:
    """One process's life: a connection with an empty memory."""

    _sizes = iter(range(64 << 20, 65 << 20))

    def __init__(self, source: Origin, folder: Path | str, size: int = SIZE) -> None:
        self.url, self.hooks = hooked(source.url)
        self.hooks.clear()
        self.hooks.log.clear()
        self.db = vfs.connect(
            self.url, poll_interval=3600, cache_size=next(self._sizes), cache_dir=folder, cache_dir_size=size
        )

    def answer(self) -> list[tuple[object, ...]]:
        return rows(self.db, COUNT)

    def log(self) -> list[tuple[str, int]]:
        taken = [(each.kind, (each.end or 0) - each.start) for each in self.hooks.log]
        self.hooks.log.clear()
        return taken


def test_a_restart_costs_a_listing_and_the_last_bytes_of_each_file(source: Origin, folder: Path) -> None:
    first = Run(source, folder)
    with closing(first.db):
        right = first.answer()
        settled(folder)
    again = Run(source, folder)
    with closing(again.db):
        assert again.log() == [("list", 0), ("get", 16), ("get", 16), ("get", 16)]
        assert again.answer() == right == rows(source.connection, COUNT)
        assert again.log() == []
        assert seen(again.db) == 3
    source.commit("UPDATE t SET b = 'zz' WHERE id = 1000")
    third = Run(source, folder)
    with closing(third.db):
        assert [kind for kind, _ in third.log()] == ["list", "get", "get", "get", "get"]
        assert third.answer() == rows(source.connection, COUNT)
        assert third.log() == []


def test_a_replica_made_anew_under_the_same_names_is_another(source: Origin, folder: Path) -> None:
    first = Run(source, folder)
    with closing(first.db):
        first.answer()
        settled(folder)
    source.begin_anew()
    source.commit("UPDATE t SET b = randomblob(1000)")
    second = Run(source, folder)
    with closing(second.db):
        assert second.answer() == rows(source.connection, COUNT)
        assert rows(second.db, "SELECT b FROM t WHERE id = 5") == rows(
            source.connection, "SELECT b FROM t WHERE id = 5"
        )


def test_flipped_bytes_are_a_miss(source: Origin, folder: Path) -> None:
    first = Run(source, folder)
    with closing(first.db):
        first.answer()
        settled(folder)
    with closing(apsw.Connection(str(folder / "litestream-pages.db"))) as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    path = folder / "litestream-pages.db"
    whole = path.read_bytes()
    chance = random.Random(3)
    for _ in range(12):
        damaged = bytearray(whole)
        for _ in range(300):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(damaged)
        run = Run(source, folder)
        with closing(run.db):
            assert run.answer() == rows(source.connection, COUNT)
            assert rows(run.db, "SELECT b FROM t WHERE id % 50 = 0") == rows(
                source.connection, "SELECT b FROM t WHERE id % 50 = 0"
            )


def test_the_bound_is_held_and_what_was_used_last_stays(folder: Path) -> None:
    size = 20 << 20
    cache = open_disk_cache(str(folder), size)
    name = ("place", b"trailer")
    for begin in range(1, 16_000, 500):
        cache.put(name, [(pgno, random.Random(pgno).randbytes(4000)) for pgno in range(begin, begin + 500)])
        taken = sum(path.stat().st_size for path in folder.iterdir() if not path.name.endswith("-shm"))
        assert taken <= size
    kept = cache.count(name)
    assert 2000 < kept < 5000
    assert len(cache.get(name, range(15_500, 16_001))) == 501
    assert not cache.get(name, range(1, 500))


@pytest.mark.parametrize("what", ["full", "read-only", "no database"])
def test_without_the_disk_queries_go_on(what: str, source: Origin, folder: Path) -> None:
    folder.mkdir()
    if what == "no database":
        (folder / "litestream-pages.db").write_bytes(b"something else" * 1000)
    cache = open_disk_cache(str(folder), SIZE)
    if what == "full":
        cache._guarded(lambda db: db.pragma("max_page_count", 5), None)
    if what == "read-only":
        cache._guarded(lambda db: db.pragma("query_only", True), None)
    for _ in range(2):
        run = Run(source, folder)
        with closing(run.db):
            assert run.answer() == rows(source.connection, COUNT)


def test_a_wrong_folder_or_size_is_told(source: Origin, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="no cache can be kept at"):
        Run(source, tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="at least 16777216 bytes, not 5"):
        Run(source, tmp_path / "cache", 5)


def test_the_environment_and_a_uri_name_the_folder_too(
    source: Origin, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITESTREAM_CACHE_DIR", str(folder / "a"))
    with closing(vfs.connect(source.url, cache_size=1 << 20)) as db:
        assert number(db, "SELECT count(*) FROM t") == 3000
        settled(folder / "a")
    uri = f"{vfs.uri(source.url)}&cache_dir={folder}/b&cache_dir_size={SIZE}"
    with closing(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READONLY)) as db:
        assert number(db, "SELECT count(*) FROM t") == 3000
        settled(folder / "b")


def test_a_forked_child_goes_on_without_it(source: Origin, folder: Path) -> None:
    run = Run(source, folder)
    with closing(run.db):
        right = run.answer()
        child = os.fork()
        if not child:
            try:
                other = Run(source, folder)
                os._exit(0 if run.answer() == right == other.answer() else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert run.answer() == right


READER = """
import sys, vfs
url, folder, expected = sys.argv[1:4]
while True:
    db = vfs.connect(url, cache_size=1 << 20, cache_dir=folder, cache_dir_size=17 << 20)
    found = db.execute("SELECT count(*), sum(length(b)), sum(unicode(hex(b))) FROM t").fetchall()
    assert repr(found) == expected, found
    print("right", flush=True)
    db.close()
"""


def test_processes_share_it_and_a_kill_at_any_moment_harms_nobody(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 20000)",
        )
        expected = repr(
            source.connection.execute(
                "SELECT count(*), sum(length(b)), sum(unicode(hex(b))) FROM t"
            ).fetchall()
        )
        folder, chance = tmp_path / "cache", random.Random(5)
        command = [sys.executable, "-c", READER, source.url, str(folder), expected]

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        steady = start()
        for _ in range(6):
            victim = start()
            assert victim.stdout
            assert victim.stdout.readline() == "right\n", victim.stderr and victim.stderr.read()
            time.sleep(chance.random() / 2)
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
        assert steady.poll() is None, steady.stderr and steady.stderr.read()
        steady.kill()
        told, errors = steady.communicate()
        assert told.startswith("right\n"), errors
        with closing(apsw.Connection(str(folder / "litestream-pages.db"))) as plain:
            assert plain.pragma("integrity_check") == "ok"


def test_only_what_is_asked_for_comes_back(folder: Path) -> None:
    cache = DiskCache(folder / "x.db", SIZE)
    folder.mkdir()
    cache.put(("a", b"1"), [(1, b"one"), (2, b"two"), (9, b"nine")])
    cache.put(("a", b"2"), [(1, b"other")])
    assert dict(cache.get(("a", b"1"), [1, 9])) == {1: b"one", 9: b"nine"}
    assert dict(cache.get(("a", b"2"), [1, 2])) == {1: b"other"}
    assert dict(cache.get(("b", b"1"), [1])) == {}
