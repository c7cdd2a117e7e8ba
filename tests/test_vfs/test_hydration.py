"""Hydration: the whole database comes to the disk in the background, and queries go on meanwhile, and without the storage."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import vfs
from backends import UnavailableError
from tests.test_vfs.hydrating import ALL, hydrated, progress, status, until, wait_until_complete
from tests.test_vfs.origin import Origin, number, origin, rows, seen
from tests.test_vfs.storages import Hooks, Request, delays, hooked
from vfs.hydration_files import BLOCK_SIZE
from vfs.hydration_place import remove_private
from vfs.source import open_source

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A snapshot of 9 MB, a file of 1 MB in which a newer page could hide, and a small one."""
    with origin(tmp_path) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(3000) FROM generate_series(1, 3000)",
        )
        made.commit("UPDATE t SET b = randomblob(3000) WHERE id % 10 = 0")
        made.commit("UPDATE t SET b = 'x' WHERE id = 7")
        yield made


def gone(hooks: Hooks) -> None:
    """Let the storage answer nothing any more."""

    def refuse(request: Request) -> None:
        raise UnavailableError("the storage is gone", key=request.key)

    hooks.before = refuse


def test_one_request_for_four_mib_and_none_afterwards_even_without_the_storage(source: Origin) -> None:
    db, hooks = hydrated(source)
    with closing(db):
        wait_until_complete(db)
        sizes = [file.size for file in source.replica.files()]
        opening, queries = [100, 16384, 65536, 65536, sizes[2]], 10_000
        lengths = sorted((each.end or 0) - each.start for each in hooks.log if each.kind == "get")
        fetched = [each for each in lengths if each > queries and each not in opening]
        assert len(fetched) == -(-sizes[0] // BLOCK_SIZE) + 1
        assert sum(fetched) == sizes[0] + sizes[1]
        assert status(db).requests == len(fetched) <= sum(sizes) / MIB
        assert status(db).bytes_fetched == sizes[0] + sizes[1]
        assert status(db).bytes == status(db).bytes_of_all == sum(sizes)
        assert progress(db) == "100.0"
        hooks.log.clear()
        gone(hooks)
        assert rows(db, ALL) == rows(source.connection, ALL)
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
        assert hooks.log == []


def test_queries_are_answered_meanwhile_and_wait_for_no_more_than_their_own_pages(source: Origin) -> None:
    with origin(source.path.parent) as other:
        other.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(3000) FROM generate_series(1, 3000)",
        )
        db, hooks = hydrated(other)
        held = threading.Event()

        def hold(request: Request) -> None:
            if (request.end or 0) - request.start > BLOCK_SIZE // 2:
                held.wait(30)

        hooks.before = hold
        with closing(db):
            until(lambda: any((each.end or 0) - each.start > BLOCK_SIZE // 2 for each in hooks.log))
            for each in range(1, 3000, 200):
                wanted = f"SELECT b FROM t WHERE id = {each}"
                assert rows(db, wanted) == rows(other.connection, wanted)
            assert status(db).state == "running"
            held.set()
            wait_until_complete(db)
            assert rows(db, ALL) == rows(other.connection, ALL)


def test_keeping_up_costs_nothing_beside_the_look(source: Origin) -> None:
    db, hooks = hydrated(source, poll_interval=0)
    with closing(db):
        wait_until_complete(db)
        before = status(db)
        for each in range(5):
            source.commit(f"UPDATE t SET b = 'new {each}' WHERE id = {500 * each + 1}")
            number(db, "SELECT count(*) FROM t")
            wait_until_complete(db)
        assert status(db).requests == before.requests
        source.commit("UPDATE t SET b = 'last' WHERE id = 1234")
        source.commit("INSERT INTO t VALUES (9999, 'more')")
        hooks.log.clear()
        assert number(db, "SELECT count(*) FROM t") == 3001
        wait_until_complete(db)
        names = [(each.kind, each.key[-8:-4], each.start) for each in hooks.log]
        assert sorted(names) == [
            ("get", "0008", -16),  # what was there is still what it was
            ("get", "0009", 0),
            ("get", "000a", 0),
            ("get", "000b", 0),  # which nobody has written yet
            ("get", "000c", 0),
        ]
        gone(hooks)
        assert rows(db, ALL) == rows(source.connection, ALL)
        assert status(db).requests == before.requests


def test_a_reader_keeps_its_state_while_newer_ones_come(source: Origin) -> None:
    db, _ = hydrated(source, poll_interval=0)
    reader, _ = hydrated(source, poll_interval=0, cache_size=1 << 19)
    with closing(db), closing(reader):
        reader.execute("BEGIN")
        old = rows(reader, ALL)
        for each in range(3):
            source.commit(f"UPDATE t SET b = randomblob(3000) WHERE id % 5 = {each}")
            assert number(db, "SELECT count(*) FROM t") == 3000
            assert rows(reader, ALL) == old
        wait_until_complete(db)
        assert rows(reader, ALL) == old
        reader.execute("COMMIT")
        assert rows(reader, ALL) == rows(db, ALL) == rows(source.connection, ALL)


def test_time_travel_on_a_hydrated_replica(source: Origin) -> None:
    then = source.times[source.newest]
    db, _ = hydrated(source, poll_interval=0)
    with closing(db):
        old = rows(db, ALL)
        source.commit("UPDATE t SET b = 'later' WHERE id < 100")
        new = rows(db, ALL)
        wait_until_complete(db)
        assert old != new
        rows(db, f"PRAGMA litestream_time = '{then.isoformat()}'")
        assert rows(db, ALL) == old
        assert progress(db) == "100.0"
        rows(db, "PRAGMA litestream_time = 'latest'")
        assert rows(db, ALL) == new


def test_a_connection_that_stays_at_a_time_has_that_state_hydrated(source: Origin) -> None:
    db, hooks = hydrated(source, txid=2)
    with closing(db):
        wait_until_complete(db)
        assert status(db).bytes == sum(file.size for file in source.replica.files()[:2])
        gone(hooks)
        assert seen(db) == 2
        assert number(db, "SELECT count(*) FROM t WHERE length(b) = 3000") == 3000


def hydrating() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "vfs-hydration"}


def test_connections_share_it_and_it_ends_with_the_last_one(source: Origin) -> None:
    before = hydrating()
    first, hooks = hydrated(source, cache_size=1 << 19)
    wait_until_complete(first)
    requests = len(hooks.log)
    second = vfs.connect(hooked(source.url)[0], poll_interval=3600, hydrate=True, cache_size=1 << 19)
    assert status(second) == status(first)
    assert len(hooks.log) == requests
    path = Path(str(rows(second, "PRAGMA litestream_hydration_file")[0][0]))
    first.close()
    assert path.exists()
    assert rows(second, ALL) == rows(source.connection, ALL)
    assert len(hooks.log) == requests
    second.close()
    del first, second
    until(lambda: not path.parent.exists(), "the temporary folder stays")
    until(lambda: hydrating() <= before, "the thread stays")


def test_it_stops_when_nobody_is_left(source: Origin) -> None:
    before = hydrating()
    db, hooks = hydrated(source)
    with delays(hooks, 0.2):
        until(lambda: len(hooks.log) > 6)
        db.close()
        closed = len(hooks.log)
        until(lambda: hydrating() <= before, "the thread stays")
        assert len(hooks.log) <= closed + 1


def test_without_it_the_pragmas_say_so(source: Origin) -> None:
    with closing(vfs.connect(source.url)) as db:
        assert progress(db) == "0"
        assert rows(db, "PRAGMA litestream_hydration_file") == [("",)]
        assert status(db).state == "off"
    db, _ = hydrated(source)
    with closing(db):
        for what in ("progress", "file", "status"):
            with pytest.raises(vfs.QueryError, match="only tells"):
                rows(db, f"PRAGMA litestream_hydration_{what} = 1")


def test_a_replica_made_anew_is_hydrated_anew(source: Origin) -> None:
    db, hooks = hydrated(source, poll_interval=0)
    with closing(db):
        wait_until_complete(db)
        source.begin_anew()
        source.commit("UPDATE t SET b = randomblob(3000)")
        for _ in range(10):
            number(db, "SELECT count(*) FROM t")
        wait_until_complete(db)
        gone(hooks)
        assert rows(db, ALL) == rows(source.connection, ALL)


def test_a_forked_child_goes_on_without_it(source: Origin) -> None:
    db, _ = hydrated(source)
    with closing(db):
        wait_until_complete(db)
        right = rows(db, ALL)
        path = str(rows(db, "PRAGMA litestream_hydration_file")[0][0])
        child = os.fork()
        if not child:
            try:
                told = status(db).state, progress(db)
                is_right = rows(db, ALL) == right and told == ("off", "0")
                other, _ = hydrated(source, cache_size=1 << 18)
                wait_until_complete(other)
                is_right &= rows(other, ALL) == right
                elsewhere = rows(other, "PRAGMA litestream_hydration_file") != [(path,)]
                remove_private()
                os._exit(0 if is_right and elsewhere else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert rows(db, ALL) == right
        assert Path(path).exists()


def test_a_query_is_interrupted_as_ever(source: Origin) -> None:
    db, hooks = hydrated(source)
    with closing(db), delays(hooks, 1):
        threading.Timer(0.2, db.interrupt).start()
        with pytest.raises((vfs.InterruptedQueryError, apsw.InterruptError)):
            rows(db, ALL)


@pytest.mark.parametrize("page_size", [512, 65536])
def test_every_page_size(page_size: int, tmp_path: Path) -> None:
    with origin(tmp_path, page_size=page_size) as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 2000)",
        )
        source.commit("DELETE FROM t WHERE id > 1000", "VACUUM")
        db, hooks = hydrated(source)
        with closing(db):
            wait_until_complete(db)
            gone(hooks)
            assert rows(db, ALL) == rows(source.connection, ALL)


def test_a_process_that_forks_meanwhile_has_children_that_work(source: Origin) -> None:
    db, hooks = hydrated(source)
    with closing(db), delays(hooks, 0.02):
        children = []
        while status(db).state != "complete":
            child = os.fork()
            if not child:
                try:
                    with closing(apsw.Connection(":memory:")) as memory:
                        os._exit(0 if number(memory, "SELECT 7") == 7 else 1)
                finally:
                    os._exit(2)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(
            children
        )
        assert len(children) > 3
        assert rows(db, ALL) == rows(source.connection, ALL)


def test_long_indexes_are_loaded_in_pieces(source: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in [("TAIL_SIZE", 8 << 10), ("INDEX_SIZE", 0), ("_INDEX_PART", 1 << 30)]:
        monkeypatch.setattr(f"vfs.open_files.{name}", size)
    monkeypatch.setattr("vfs.index_search._PIECE_SIZE", 5000)
    db, hooks = hydrated(source)
    with closing(db):
        wait_until_complete(db)
        pieces = [each for each in hooks.log if (each.end or 0) - each.start == 5000]
        assert len(pieces) >= 3
        gone(hooks)
        assert rows(db, ALL) == rows(source.connection, ALL)


def test_the_pages_of_a_file_are_those_that_a_reader_finds_in_it(source: Origin) -> None:
    source.commit("UPDATE t SET b = 'y' WHERE id BETWEEN 100 AND 300")
    source.commit("DELETE FROM t WHERE id > 1500", "VACUUM")
    source.commit("INSERT INTO t VALUES (5000, 'z')")
    opened = open_source(source.url, 1 << 20, 60.0, {})
    for txid in (2, 3, 4, 5, 6):
        view = opened.at(bool, txid=txid)
        stored = [pgno for pgno in range(1, view.commit + 1) if pgno != view.lock_page]
        for file in view.files:
            found = view.pages_in(file, file.whole_index()).tolist()
            assert found == [pgno for pgno in stored if view.file_of(pgno) is file]
