"""A reader sees one transaction from its first page to its last, and time never runs backwards for it."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest

import vfs
from backends import ObjectInfo
from ltx import LTXError, NoSnapshotError, NotReachableError
from tests.test_vfs.origin import Origin, as_read, catch_up, content, number, origin, rows, seen
from tests.test_vfs.storages import Request, hooked

ALL = "SELECT count(*), sum(n) FROM t"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A table in which every commit changes every row; small pages, so that there are many."""
    with origin(tmp_path, page_size=512) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, filler BLOB)",
            "INSERT INTO t SELECT value, 1, randomblob(100) FROM generate_series(1, 100)",
        )
        yield made


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let a minute pass for those who follow."""
    slept = [0.0]

    def sleep() -> None:
        slept[0] += 60.0

    for module in ("source", "finder"):
        monkeypatch.setattr(f"vfs.{module}.monotonic", lambda: time.monotonic() + slept[0])
    return sleep


def change(source: Origin) -> None:
    source.commit("UPDATE t SET n = n + 1")


def grow(source: Origin) -> None:
    source.commit(
        "INSERT INTO t (n, filler) SELECT n, randomblob(200) FROM t LIMIT 50", "UPDATE t SET n = n + 1"
    )


def follows(db: apsw.Connection, source: Origin) -> bool:
    """Whether a connection sees exactly what was published last, once it looked at a listing."""
    catch_up(db)
    return content(db) == as_read(source.states[source.newest]) and seen(db) == source.newest


def test_a_transaction_sees_one_state_while_everything_changes(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    db.execute("PRAGMA cache_size = 1; BEGIN")
    assert number(db, "SELECT sum(n) FROM t WHERE id < 5") == 4
    for _ in range(3):
        grow(source)
    source.snapshot(1)
    source.merge(1, 1, 4)
    source.prune(0, 4)
    source.commit("DELETE FROM t WHERE id > 20", "VACUUM")
    assert rows(db, ALL) == [(100, 100)]
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]
    assert content(db) == as_read(source.states[1])
    db.execute("COMMIT")
    assert follows(db, source)


def test_an_open_cursor_holds_its_state(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    cursor = db.execute("SELECT n FROM t ORDER BY id")
    first = cursor.fetchone()
    change(source)
    assert [first, *cursor.fetchall()] == [(1,)] * 100
    assert rows(db, ALL) == [(100, 200)]


def test_connections_hold_different_states_at_the_same_time(source: Origin) -> None:
    held = []
    for expected in range(1, 8):
        db = vfs.connect(source.url, poll_interval=0, cache_size=0)
        db.execute("BEGIN")
        assert number(db, "SELECT min(n) FROM t") == expected
        held.append(db)
        grow(source)
    for txid, db in enumerate(held, start=1):
        assert content(db) == as_read(source.states[txid])
        assert seen(db) == txid


def test_a_merged_file_that_arrives_late_takes_nothing_back(source: Origin) -> None:
    """Rule 15, and 62 and 63 in the catalogue of bugs: level 1 is older than what level 0 gave."""
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    for _ in range(5):
        grow(source)
        assert follows(db, source)
    source.merge(1, 2, 4)
    assert follows(db, source)
    source.prune(0, 4)
    assert follows(db, source)
    grow(source)
    assert follows(db, source)


def test_a_merged_file_that_straddles_the_position_is_taken(
    source: Origin, pause: Callable[[], None]
) -> None:
    """65 in the catalogue: the file begins below what is seen and ends beyond it."""
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    change(source)
    change(source)
    assert seen_after(db) == 3
    grow(source)
    source.commit("DELETE FROM t WHERE id % 3 = 0", "VACUUM")
    grow(source)
    source.merge(1, 2, 6)
    source.prune(0, 7)
    pause()
    assert follows(db, source)
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]


def seen_after(db: apsw.Connection) -> int:
    """Look, then return what is seen."""
    if not db.in_transaction:
        catch_up(db)
    rows(db, "SELECT count(*) FROM t")
    return seen(db)


def test_beyond_a_gap_a_reader_waits_until_it_is_filled(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    change(source)
    assert follows(db, source)
    change(source)
    (missing,) = (file for file in source.replica.files(0) if file.max_txid == 3)
    kept = source.replica.backend.get(missing.key)
    change(source)
    source.delete(missing)
    assert (seen_after(db), number(db, "SELECT max(n) FROM t")) == (2, 2)
    fresh = vfs.connect(source.url, poll_interval=0)
    assert seen_after(fresh) == 2
    source.replica.backend.put(missing.key, kept)
    assert follows(db, source)
    assert follows(fresh, source)


def test_what_lies_beyond_a_gap_is_warned_of_once_and_counts_as_lag(
    source: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        change(source)
    (missing,) = (file for file in source.replica.files(0) if file.max_txid == 3)
    kept = source.replica.backend.get(missing.key)
    source.delete(missing)
    db = vfs.connect(source.url, poll_interval=0)
    time.sleep(0.3)
    for _ in range(3):
        assert seen_after(db) == 2
    assert float(str(db.pragma("litestream_lag"))) >= 0.3
    [told] = [record.getMessage() for record in caplog.records if record.name == "vfs"]
    assert "is read as of TXID 0000000000000002 of " in told
    assert "the file of TXID 0000000000000003 is missing" in told
    source.replica.backend.put(missing.key, kept)
    assert follows(db, source)
    assert float(str(db.pragma("litestream_lag"))) < 0.3
    source.delete(missing)
    assert seen_after(db) == source.newest, "whoever is past the gap is told of nothing"
    assert float(str(db.pragma("litestream_lag"))) < 0.3
    assert len([record for record in caplog.records if record.name == "vfs"]) == 1


def test_a_gap_is_bridged_by_a_merged_file_or_a_snapshot(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    for _ in range(4):
        change(source)
    merged = source.merge(1, 2, 4)
    source.delete(*(file for file in source.replica.files(0) if 2 <= file.max_txid <= 4))
    assert follows(db, source)
    for _ in range(4):
        change(source)
    source.snapshot(8)
    source.delete(merged, *(file for file in source.replica.files(0) if file.max_txid <= 8))
    assert follows(db, source)


def test_a_shrink_drops_only_the_pages_beyond(tmp_path: Path) -> None:
    """64 in the catalogue: an incremental vacuum changes few pages and makes the file smaller."""
    with origin(tmp_path, page_size=512, setup="PRAGMA auto_vacuum=incremental") as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n)",
            "INSERT INTO t SELECT value, randomblob(400) FROM generate_series(1, 300)",
        )
        db = vfs.connect(source.url, poll_interval=0, cache_size=0)
        assert follows(db, source)
        for size in (1, 5, 40):
            source.commit(f"DELETE FROM t WHERE id > 300 - {size * 2}", f"PRAGMA incremental_vacuum({size})")
            newest = source.replica.files(0)[-1]
            assert newest.size < source.replica.files(0)[0].size / 2
            assert follows(db, source)
            assert rows(db, "PRAGMA integrity_check") == [("ok",)]


def test_a_held_view_outlives_the_files_it_began_with(source: Origin) -> None:
    """66 in the catalogue: the same TXID from other files."""
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    change(source)
    db.execute("PRAGMA cache_size = 1; BEGIN")
    assert seen_after(db) == 2
    source.merge(1, 1, 2)
    change(source)
    source.prune(0, 3)
    assert content(db) == as_read(source.states[2])
    source.snapshot(2)
    source.delete(*source.replica.files(1))
    assert content(db) == as_read(source.states[2])
    assert seen(db) == 2


def test_what_cannot_be_had_again_is_named_and_the_next_transaction_goes_on(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    change(source)
    db.execute("PRAGMA cache_size = 1; BEGIN")
    assert seen_after(db) == 2
    change(source)
    source.merge(1, 1, 3)
    source.prune(0, 4)
    with pytest.raises(
        NotReachableError, match=r"TXID 0000000000000002 .*nearest are none|TXID 0000000000000002"
    ):
        rows(db, ALL)
    db.execute("ROLLBACK")
    assert follows(db, source)


def test_a_fixed_view_survives_compaction_and_says_when_it_is_gone(source: Origin) -> None:
    change(source)
    change(source)
    db = vfs.connect(source.url, txid=2, cache_size=0)
    db.execute("PRAGMA cache_size = 1")
    assert content(db) == as_read(source.states[2])
    source.merge(1, 1, 2)
    source.prune(0, 3)
    assert content(db) == as_read(source.states[2])
    source.merge(2, 1, 2)
    source.delete(*source.replica.files(1))
    assert content(db) == as_read(source.states[2])
    source.snapshot(3)
    source.delete(*source.replica.files(2))
    for _ in range(2):
        with pytest.raises(NotReachableError, match="0000000000000002"):
            content(db)
    db.execute("PRAGMA litestream_time = latest")
    assert follows(db, source)


def test_a_sleep_through_the_pruning_of_everything_but_a_snapshot(
    source: Origin, pause: Callable[[], None]
) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    assert follows(db, source)
    for _ in range(9):
        grow(source)
    source.snapshot()
    source.delete(*(file for file in source.replica.files() if file.level != 9))
    pause()
    assert rows(db, "SELECT max(n) FROM t") == [(10,)], "at once"
    assert follows(db, source)
    grow(source)
    assert follows(db, source)


def instead(old: list[ObjectInfo], infos: list[ObjectInfo]) -> list[ObjectInfo]:
    return list(old)


def test_a_stale_listing_never_takes_a_reader_back(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=0, cache_size=0)
    stale: list[list[ObjectInfo]] = []

    def keep(infos: list[ObjectInfo]) -> list[ObjectInfo]:
        stale.append(infos)
        return infos

    hooks.listing = keep
    assert follows(db, source)
    for _ in range(3):
        change(source)
    assert follows(db, source)
    for old in ([], stale[0], stale[0][:0]):
        hooks.listing = partial(instead, old)
        assert follows(db, source)
        assert follows(vfs.connect(url, poll_interval=0, cache_size=0), source)
    hooks.clear()
    change(source)
    assert follows(db, source)


@pytest.mark.parametrize("is_new", [True, False])
def test_files_that_vanish_while_the_newest_state_is_opened_are_planned_around(
    is_new: bool, source: Origin
) -> None:
    """Compaction and pruning between the listing and the reading, for a new reader and for one that follows."""
    url, hooks = hooked(source.url)
    db = vfs.connect(source.url if is_new else url, poll_interval=0)
    assert follows(db, source)
    for _ in range(3):
        change(source)
    compacted: list[int] = []
    lock = threading.Lock()

    def compact(request: Request) -> None:
        with lock:
            if request.kind == "list" or compacted:
                return
            change(source)
            source.write(1, source.replica.plan().files)
            source.prune(0, source.newest + 1)
            compacted.append(source.newest)

    hooks.before = compact
    reader = vfs.connect(url, poll_interval=0) if is_new else db
    assert follows(reader, source)
    assert compacted == [5]


def test_files_that_vanish_while_a_past_state_is_opened_are_planned_around(source: Origin) -> None:
    url, hooks = hooked(source.url)
    for _ in range(4):
        change(source)

    lock = threading.Lock()

    def compact(request: Request) -> None:
        with lock:
            if request.kind == "get" and not source.replica.files(1):
                source.merge(1, 1, 3)
                source.prune(0, 4)

    hooks.before = compact
    db = vfs.connect(url, txid=3)
    assert content(db) == as_read(source.states[3])


def test_a_replica_made_anew_under_the_same_names_is_never_mixed_with_the_old_one(source: Origin) -> None:
    """Rule 19: names are used again. A reader that was open all the time, and one that is opened later."""
    for _ in range(4):
        change(source)
    source.merge(1, 2, 4)
    follower = vfs.connect(source.url, poll_interval=0)
    past = vfs.connect(source.url, txid=2)
    assert follows(follower, source)
    assert content(past) == as_read(source.states[2])
    source.begin_anew()
    source.commit("UPDATE t SET n = n + 1000")
    for _ in range(8):
        assert follows(follower, source)
        fresh = vfs.connect(source.url, poll_interval=0)
        assert follows(fresh, source)
        txid = max(1, source.newest - 1)
        assert content(vfs.connect(source.url, txid=txid)) == as_read(source.states[txid])
        source.commit("UPDATE t SET n = n + 10 WHERE id % 10 = 0")
    assert content(vfs.connect(source.url, txid=2)) == as_read(source.states[2])


def test_a_replica_made_anew_without_a_common_name_is_followed(source: Origin) -> None:
    """Its TXIDs are lower, and the file that we have the newest one from is gone: no listing is that stale."""
    for _ in range(4):
        change(source)
    source.snapshot()
    source.prune(0, 6)
    db = vfs.connect(source.url, poll_interval=0)
    assert follows(db, source)
    source.begin_anew()
    source.commit("UPDATE t SET n = n + 1000")
    assert follows(db, source)
    change(source)
    assert follows(db, source)
    assert follows(vfs.connect(source.url), source)


def test_a_replica_that_is_removed_is_said_to_be_gone(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    assert follows(db, source)
    source.begin_anew()
    with pytest.raises(NoSnapshotError, match=f"no LTX files lie at {source.url}"):
        catch_up(db)
    source.commit("UPDATE t SET n = 7")
    assert follows(db, source)


def test_another_database_in_the_same_place_has_a_schema_of_its_own(source: Origin, tmp_path: Path) -> None:
    """Both were made by one statement, so that the version of their schemas is the same."""
    db = vfs.connect(source.url, poll_interval=0)
    assert rows(db, ALL) == [(100, 100)]
    source.begin_anew()
    with origin(tmp_path, source.url, page_size=512) as other:
        other.commit("CREATE TABLE other (a, b)", "INSERT INTO other VALUES ('new', 1)")
        catch_up(db)
        with pytest.raises(apsw.SQLError, match="no such table: t"):
            rows(db, ALL)
        assert rows(db, "SELECT * FROM other") == [("new", 1)]
        assert follows(db, other)


def test_a_held_view_of_a_replica_made_anew_ends_in_an_error_that_says_so(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    db.execute("PRAGMA cache_size = 1; BEGIN")
    assert seen_after(db) == 1
    change(source)
    source.begin_anew()
    source.commit("DELETE FROM t WHERE id > 7", "UPDATE t SET n = 5")
    with pytest.raises(LTXError, match=r"0000000000000001.*(was made anew|damaged)"):
        rows(db, ALL)
    db.execute("ROLLBACK")
    assert follows(db, source)


def begin_anew(source: Origin) -> None:
    """Have another history with the same TXIDs up to 5."""
    source.begin_anew()
    source.commit("UPDATE t SET n = n + 1000")
    for _ in range(4):
        source.commit("UPDATE t SET n = n + 10 WHERE id % 10 = 0")


@pytest.mark.parametrize("txid", [None, 5], ids=["the newest", "a fixed one"])
def test_nothing_is_mixed_where_another_history_has_the_same_txid_in_files_of_other_names(
    txid: int | None, source: Origin
) -> None:
    """Its small files are merged and pruned already: of the files that a reader knows no name is there."""
    for _ in range(4):
        change(source)
    held = vfs.connect(source.url, poll_interval=0, cache_size=0, txid=txid)
    held.execute("PRAGMA cache_size = 1; BEGIN")
    assert rows(held, "SELECT n FROM t WHERE id = 1") == [(5,)]
    follower = vfs.connect(source.url, poll_interval=0)
    assert follows(follower, source)
    begin_anew(source)
    source.snapshot()
    source.merge(1, 1, 5)
    source.prune(0, 6)
    with pytest.raises(NotReachableError, match=r"0000000000000005.* same history"):
        rows(held, ALL)
    held.execute("ROLLBACK")
    assert content(vfs.connect(source.url, txid=5)) == as_read(source.states[5])
    assert follows(follower, source)
    source.commit("UPDATE t SET n = n + 10 WHERE id % 10 = 0")
    assert follows(follower, source)


def test_a_reader_that_slept_follows_no_other_history(source: Origin, pause: Callable[[], None]) -> None:
    for _ in range(4):
        change(source)
    follower = vfs.connect(source.url, poll_interval=0)
    assert follows(follower, source)
    begin_anew(source)
    source.merge(1, 1, 5)
    source.prune(0, 6)
    source.commit("UPDATE t SET n = n + 10 WHERE id % 10 = 0")
    pause()
    assert follows(follower, source)
