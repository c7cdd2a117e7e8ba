"""What a connection takes is given back: files, threads, memory, whether it is closed or forgotten."""

import gc
import os
import resource
import threading
import time
import weakref
from pathlib import Path

import apsw
import pytest

import vfs
from ltx import LTXError
from tests.test_vfs.origin import Origin, number, origin
from vfs import open_files
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, Source, open_source

COUNT = "SELECT count(*) FROM t"


def source_of(url: str) -> "weakref.ref[Source]":
    """Return a reference to the replica that the connections of the process share."""
    return weakref.ref(open_source(url, DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {}))


def small(made: Origin) -> None:
    made.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (1), (2)")
    made.commit("INSERT INTO t VALUES (3)")


def resident() -> int:
    """Return the bytes of memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_closed_connection_lets_go_of_the_replica(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        small(source)
        db = vfs.connect(source.url)
        kept = source_of(source.url)
        assert number(db, COUNT) == 3
        assert kept() is not None
        db.close()
        time.sleep(0.05)
        assert kept() is None


def test_a_forgotten_connection_lets_go_of_the_replica(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        small(source)
        db = vfs.connect(source.url)
        cursor = db.execute(COUNT)
        kept, forgotten = source_of(source.url), weakref.ref(db)
        assert cursor.fetchone() == (3,)
        del db, cursor
        gc.collect()
        time.sleep(0.05)
        assert forgotten() is None
        assert kept() is None


def test_a_detached_replica_is_let_go(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        small(source)
        db = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
        db.execute("ATTACH ? AS r", (vfs.uri(source.url),))
        assert number(db, "SELECT count(*) FROM r.t") == 3
        kept = source_of(source.url)
        db.execute("DETACH r")
        time.sleep(0.05)
        assert kept() is None


def test_a_failed_open_leaves_nothing(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        small(source)
        for at, txid in 20 * ((None, 99), ("10 years ago", None), ("-", None)):
            with pytest.raises((LTXError, ValueError)):
                vfs.connect(source.url, at=at, txid=txid)
        gc.collect()
        time.sleep(0.05)
        assert not [
            each for each in gc.get_objects() if isinstance(each, Source) and each.replica.url == source.url
        ]


def test_a_thousand_connections_leave_no_files_threads_or_memory(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        small(source)
        rounds = []
        for _ in range(5):
            for place in range(200):
                db = vfs.connect(source.url, txid=1 + place % 2)
                assert number(db, COUNT) == 2 + place % 2
                if place % 3:
                    db.close()
            gc.collect()
            rounds.append((resident(), len(os.listdir("/proc/self/fd")), threading.active_count()))
        assert rounds[-1][0] - rounds[1][0] < 6 << 20
        assert rounds[-1][1] <= rounds[0][1] + 2
        assert rounds[-1][2] <= rounds[0][2] + 2


def test_following_for_long_keeps_no_files_that_no_page_lies_in(tmp_path: Path) -> None:
    with origin(tmp_path, page_size=512) as source:
        source.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (0)")
        db = vfs.connect(source.url, poll_interval=0)
        kept = open_source(source.url, DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {})
        for each in range(1, 60):
            source.commit(f"UPDATE t SET n = {each}")
            assert number(db, "SELECT n FROM t") == each
        assert len(kept.latest(3600, bool).files) <= 3


def test_files_that_pile_up_are_left_for_merged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds the newest page of some row, or was not verified: a reader for months would keep them all."""
    monkeypatch.setattr(open_files, "WHOLE_SIZE", 0)
    monkeypatch.setattr(open_files, "TAIL_SIZE", 100)
    with origin(tmp_path, page_size=512) as source:
        source.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, n)", "INSERT INTO t VALUES (1, 0), (2, 0)")
        db = vfs.connect(source.url, poll_interval=0)
        kept = open_source(source.url, DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {})
        counts = []
        for each in range(1, 90):
            source.commit(f"UPDATE t SET n = {each} WHERE id = {1 + each % 2}")
            if each == 62:
                source.write(1, source.replica.plan().files)
            assert number(db, "SELECT max(n) FROM t") == each
            counts.append(len(kept.latest(3600, bool).files))
        assert max(counts) > 60
        assert counts[-1] < 35


def test_the_cache_stays_within_its_size(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit(
            "CREATE TABLE t (n)", "INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 500)"
        )
        for size in (0, 100_000, 2_000_000):
            db = vfs.connect(source.url, cache_size=size)
            kept = open_source(source.url, size, DEFAULT_TIMEOUT_S, {})
            assert number(db, "SELECT count(*) FROM t WHERE length(n) > 5") == 500
            assert kept.cache.size <= size
            assert len(kept.cache) * 4096 <= size
