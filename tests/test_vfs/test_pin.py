"""A view that is pinned can be read to its end, whatever merges and retention do meanwhile."""

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import vfs
from ltx import NotReachableError
from tests.test_vfs.origin import Origin, as_read, content, number, origin, rows, seen
from vfs.source import DEFAULT_TIMEOUT_S, Source, open_source

SUM = "SELECT count(*), sum(n) FROM t"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path, page_size=512) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, filler BLOB)",
            "INSERT INTO t SELECT value, 1, randomblob(100) FROM generate_series(1, 100)",
        )
        for _ in range(3):
            made.commit("UPDATE t SET n = n + 1")
        yield made


def source_of(url: str) -> Source:
    return open_source(url, 0, DEFAULT_TIMEOUT_S, {})


def test_a_pinned_time_outlives_its_files(source: Origin) -> None:
    db = vfs.connect(source.url, txid=3, cache_size=0, pin=True)
    db.execute("PRAGMA cache_size = 1")
    kept = source_of(source.url)
    kept.keeper.look()
    source.merge(1, 1, 4)
    source.snapshot()
    kept.keeper.look()
    source.delete(*(file for file in source.replica.files() if file.level != 9))
    assert content(db) == as_read(source.states[3])
    assert seen(db) == 3
    with pytest.raises(NotReachableError, match=r"0000000000000003.*nearest are|0000000000000003"):
        vfs.connect(source.url, txid=3)
    rows(db, "PRAGMA litestream_time = latest")
    assert seen(db) == 4


def test_a_pinned_transaction_outlives_its_files(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0, pin=True)
    db.execute("PRAGMA cache_size = 1; BEGIN")
    assert number(db, "SELECT n FROM t WHERE id = 1") == 4
    source.commit("UPDATE t SET n = n + 1")
    source.merge(1, 1, 5)
    source_of(source.url).keeper.look()
    source.prune(0, 5)
    assert rows(db, SUM) == [(100, 400)]
    assert content(db) == as_read(source.states[4])
    db.execute("COMMIT")
    assert rows(db, SUM) == [(100, 500)]


def test_nothing_is_fetched_while_nothing_is_held_or_other_files_have_it_too(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=3600, cache_size=0, pin=True)
    kept = source_of(source.url)
    source.merge(1, 1, 4)
    before = dict(kept.replica.backend.stats.requests)
    kept.keeper.look()
    assert kept.replica.backend.stats.requests == before, "not even a listing"
    db.execute("BEGIN")
    number(db, "SELECT n FROM t WHERE id = 1")
    before = dict(kept.replica.backend.stats.requests)
    kept.keeper.look()
    assert kept.replica.backend.stats.requests == {**before, "list": before["list"] + 1}
    source.prune(0, 5)
    assert rows(db, SUM) == [(100, 400)], "the merged file ends with the same TXID"


def test_what_is_kept_goes_with_the_view(source: Origin) -> None:
    db = vfs.connect(source.url, txid=2, cache_size=0, pin=True)
    kept = source_of(source.url)
    source.merge(1, 1, 4)
    kept.keeper.look()
    assert len(kept.keeper._kept) == 1
    rows(db, "PRAGMA litestream_time = latest")
    db.close()
    assert len(kept.keeper._kept) == 0


def test_a_thread_looks_by_itself(source: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfs.keeper.LOOK_S", 0.05)
    before = set(threading.enumerate())
    db = vfs.connect(source.url, txid=3, cache_size=0, pin=True)
    db.execute("PRAGMA cache_size = 1")
    source.merge(1, 1, 4)
    keeper = source_of(source.url).keeper
    deadline = time.monotonic() + 20
    while not any(len(kept.files) == 2 for kept in keeper._kept.values()):  # all that its pages lie in
        assert time.monotonic() < deadline
        time.sleep(0.02)
    source.prune(0, 5)
    assert content(db) == as_read(source.states[3])
    db.close()
    del db, keeper
    while any(thread.name == "vfs-keeper" for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < deadline, "the thread stays behind"
        gc.collect()  # of the errors by which it was found that files are gone
        time.sleep(0.02)
