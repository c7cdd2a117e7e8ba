"""Replicas of more keys than a storage lists at once: few requests, and still the newest state there is.

Pages of 10 keys stand for those of 1,000; `tests/test_replica/test_newest.py` has the real numbers.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

import vfs
from tests.test_vfs.origin import Origin, as_read, catch_up, content, number, origin, rows, seen
from tests.test_vfs.storages import Request, hooked, pages_of
from vfs.open_files import FileOpener

LISTS = ["", "ltx/1/", "", "ltx/0/"]
"""What there is at all; level 1, and what lies behind it; the tail of level 0."""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """40 transactions, a snapshot of the 35th, nothing merged."""
    with pages_of(10), origin(tmp_path, page_size=512) as made:
        made.commit("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
        for _ in range(39):
            made.commit("UPDATE t SET a = a + 1")
        made.snapshot(35)
        yield made


def test_opening_lists_from_the_newest_snapshot(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=3600)
    assert rows(db, "SELECT a FROM t") == [(40,)]
    assert sorted(request.key for request in hooks.log if request.kind == "list") == sorted(LISTS)
    assert hooks.count("get") == 6, "the snapshot whole, and five files"
    assert content(db) == as_read(source.states[40])


def test_following_lists_as_little(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=0)
    number(db, "SELECT a FROM t")
    source.commit("UPDATE t SET a = 'new'")
    number(db, "SELECT count(*) FROM t")
    assert seen(db) == 41
    hooks.log.clear()
    catch_up(db)
    assert sorted(request.key for request in hooks.log if request.kind == "list") == sorted(LISTS)


def test_an_older_state_lists_all(source: Origin) -> None:
    url, hooks = hooked(source.url)
    assert rows(vfs.connect(url, txid=7), "SELECT a FROM t") == [(7,)]
    assert [request.key for request in hooks.log if request.kind == "list"] == [""]


def test_what_is_merged_and_pruned_between_two_listings_is_found(source: Origin) -> None:
    """Level 1 is listed before it has the merged file, level 0 after it lost what that holds."""
    url, hooks = hooked(source.url)

    def merge(request: Request) -> None:
        if request.kind == "list" and request.key == "ltx/0/":
            hooks.before = None
            source.merge(1, 1, 39)
            source.prune(0, 40)

    hooks.before = merge
    db = vfs.connect(url)
    assert content(db) == as_read(source.states[40])
    assert hooks.before is None


def test_a_damaged_file_is_planned_around_with_files_that_were_not_listed(source: Origin) -> None:
    """The newest snapshot is cut short; the older files have what it holds."""
    snapshot = source.replica.files(9)[0]
    data = source.replica.backend.get(snapshot.key)
    source.replica.backend.put(snapshot.key, data[:200] + bytes(len(data) - 200))
    assert content(vfs.connect(source.url)) == as_read(source.states[40])


def test_a_reader_far_behind_goes_on_from_the_snapshot(
    source: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    assert seen(db) == 40
    for _ in range(60):
        source.commit("UPDATE t SET a = a + 1")
    source.snapshot(95)
    source.prune(0, 90)
    monkeypatch.setattr(FileOpener, "open_next", lambda *_: None)
    catch_up(db)
    assert content(db) == as_read(source.states[100])


def test_a_replica_made_anew_is_noticed(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    assert seen(db) == 40
    source.begin_anew()
    source.connection.execute("DELETE FROM t")
    for _ in range(45):
        source.commit("INSERT INTO t VALUES (1)")
    source.snapshot(41)
    catch_up(db)
    assert content(db) == as_read(source.states[45])
