"""What queries cost: exact numbers of requests and bytes, since people pay for them."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfs
from backends import Backend
from ltx import TXID, LTXFile
from tests.test_vfs.origin import Origin, catch_up, number, origin, rows, seen
from tests.test_vfs.storages import Waves, hooked
from vfs.open_files import WHOLE_SIZE, _ends_of
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, open_source

SCAN = "SELECT count(*) FROM t WHERE length(b) > 1"
POINT = "SELECT length(b) FROM t WHERE id = 777"


class Meter:
    """What one replica was asked for since the last reading, by its backend's own count."""

    def __init__(self, url: str) -> None:
        self._backend: Backend = open_source(url, DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {}).replica.backend
        self._requests: Counter[str] = Counter(self._backend.stats.requests)
        self._received = self._backend.stats.received

    def read(self) -> dict[str, int]:
        """Return the requests by kind."""
        before, self._requests = self._requests, Counter(self._backend.stats.requests)
        return dict(self._requests - before)

    def bytes(self) -> int:
        """Return the bytes received."""
        before, self._received = self._received, self._backend.stats.received
        return self._received - before


@pytest.fixture(params=["memory", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Origin]:
    """A snapshot of 3 MB, about 760 pages, and five increments of some KB."""
    url = "" if request.param == "memory" else f"file://{tmp_path}/replica"
    with origin(tmp_path, url) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 3000)",
        )
        for txid in range(2, 7):
            made.commit(f"UPDATE t SET b = '{txid}' WHERE id = {txid * 100}")
        yield made


def quiet(url: str) -> apsw.Connection:
    """Open without any look of its own after the first."""
    return vfs.connect(url, poll_interval=3600)


def test_opening_takes_one_listing_and_one_or_two_reads_a_file(source: Origin) -> None:
    kept, meter = open_source(source.url, DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {}), Meter(source.url)
    db = quiet(source.url)
    small = [file.size for file in source.replica.files()[1:]]
    assert max(small) < 1 << 16
    assert meter.read() == {"list": 1, "get": 2 + len(small)}, (
        "a head with page 1 in it, a tail, each small file"
    )
    assert meter.bytes() == (16 << 10) + (64 << 10) + sum(small)
    assert kept.replica.url == source.url
    assert seen(db) == 6


def test_a_longer_page_index_comes_with_the_first_read_of_few_files_and_many_cost_little_more() -> None:
    """A page index is 1/250 of a file of pages that become half as long: for 100 MB it is 208 KB."""
    files = [LTXFile(0, TXID(txid), TXID(txid), 53_014_254, f"{txid}") for txid in range(1, 101)]
    (one,) = _ends_of(files[:1])
    assert one.size - (16 << 10) > 207_775
    for count in (1, 2, 5, 21):
        assert sum(ends.size for ends in _ends_of(files[:count])) < (512 << 10) + (18 << 10)
    assert sum(ends.size for ends in _ends_of(files)) < (512 << 10) + 79 * (32 << 10) + (28 << 10)
    (huge,) = _ends_of([LTXFile(0, TXID(1), TXID(1), 1 << 40, "1")])
    assert huge.size == (16 << 10) + (64 << 10), "it is searched: more of it would not help"


def test_a_point_query_reads_its_path_through_the_tree(source: Origin) -> None:
    db = quiet(source.url)
    meter = Meter(source.url)
    assert rows(db, POINT) == [(1000,)]
    assert meter.read() == {"get": 2}, "an interior page and a leaf; page 1 is there"
    assert meter.bytes() < 20_000
    assert rows(db, POINT) == [(1000,)]
    assert meter.read() == {}
    assert rows(db, "SELECT b FROM t WHERE id = 300") == [("3",)]
    assert meter.read() == {}, "a page of a small increment came when the increment was opened"


def test_a_scan_takes_few_requests_and_reads_nothing_twice(source: Origin) -> None:
    db = quiet(source.url)
    meter = Meter(source.url)
    assert number(db, SCAN) == 2995
    assert meter.read()["get"] <= 16
    assert meter.bytes() < source.replica.files()[0].size * 1.02
    db.execute("PRAGMA shrink_memory")
    assert number(db, SCAN) == 2995
    assert meter.read() == {}


def test_an_idle_connection_asks_for_nothing(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0.01)
    number(db, SCAN)
    meter = Meter(source.url)
    time.sleep(0.2)
    assert meter.read() == {}
    assert seen(db) == 6
    assert float(str(rows(db, "PRAGMA litestream_lag")[0][0])) > 0.2
    assert meter.read() == {}


def test_a_look_that_finds_nothing_is_one_request_and_one_that_finds_something_a_read_a_file(
    source: Origin,
) -> None:
    """The next file's name is asked for until one is missing; 16 bytes say that the history is still the same."""
    db = vfs.connect(source.url, poll_interval=0)
    number(db, SCAN)
    meter = Meter(source.url)
    number(db, POINT)
    assert meter.read() == {"get": 1}
    assert meter.bytes() == 0
    source.commit("UPDATE t SET b = 'new' WHERE id = 777")
    assert number(db, POINT) == 3
    assert meter.read() == {"get": 3}
    assert meter.bytes() == source.replica.files()[-1].size + 16
    for text in ("newer", "newest"):
        source.commit(f"UPDATE t SET b = '{text}' WHERE id = 777")
    assert number(db, POINT) == 6
    assert meter.read() == {"get": 5}, "two files, two names that are not there, and the 16 bytes"
    assert number(db, SCAN) == 2995
    assert meter.read() == {"get": 1}


def test_one_look_in_ten_is_a_listing(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    number(db, POINT)
    catch_up(db)
    meter = Meter(source.url)
    for _ in range(30):
        number(db, POINT)
    assert meter.read() == {"get": 27, "list": 3}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that followers go by; a test moves it."""
    now = [1000.0]
    for module in ("source", "finder"):
        monkeypatch.setattr(f"vfs.{module}.monotonic", lambda: now[0])
    return now


def test_sixty_idle_seconds_cost_nothing_and_sixty_busy_ones_a_request_a_second(
    source: Origin, clock: list[float]
) -> None:
    db, idle = vfs.connect(source.url), vfs.connect(source.url)
    number(db, POINT)
    meter = Meter(source.url)
    clock[0] += 60
    assert seen(idle) == 6
    assert meter.read() == {}
    number(db, POINT)
    assert meter.read() == {"list": 1}, "after a pause"
    for _ in range(480):
        clock[0] += 0.125
        number(db, POINT)
    requests = meter.read()
    assert requests == {"get": 54, "list": 6}
    assert meter.bytes() == 0


def test_a_sleep_through_the_pruning_of_level_0_costs_a_listing_and_the_new_files(
    source: Origin, clock: list[float]
) -> None:
    db = vfs.connect(source.url)
    number(db, SCAN)
    for each in range(7, 17):
        source.commit(f"UPDATE t SET b = 'new {each}' WHERE id = 777")
    merged = source.merge(1, 7, 16)
    source.prune(0, 17)
    meter = Meter(source.url)
    clock[0] += 3600
    assert number(db, POINT) == len("new 16")
    assert meter.read() == {"list": 1, "get": 1}
    assert meter.bytes() == merged.size
    assert seen(db) == 16


def test_looks_come_no_more_often_than_the_interval(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0.25)
    meter = Meter(source.url)
    began = time.monotonic()
    while time.monotonic() - began < 0.6:
        number(db, POINT)
    assert meter.read()["get"] <= 2 + 3


def test_connections_share_looks_and_pages(source: Origin) -> None:
    first = quiet(source.url)
    number(first, SCAN)
    meter = Meter(source.url)
    others = [quiet(source.url) for _ in range(5)]
    others.append(apsw.Connection(vfs.uri(source.url, poll_interval=3600), flags=apsw.SQLITE_OPEN_URI | 1))
    for other in others:
        assert number(other, SCAN) == 2995
    assert meter.read() == {}


def test_a_big_increment_costs_a_small_read_beside_a_page_and_nothing_again(source: Origin) -> None:
    """It is not verified whole: that it lacks a page is looked up in it, once for each place in its index."""
    source.commit("UPDATE t SET b = randomblob(1000) WHERE id BETWEEN 1000 AND 1700")
    assert source.replica.files()[-1].size > WHOLE_SIZE
    db = quiet(source.url)
    meter = Meter(source.url)
    assert rows(db, "SELECT length(b) FROM t WHERE id = 10") == [(1000,)]
    assert meter.read()["get"] <= 4
    assert meter.bytes() < 30_000
    assert number(db, SCAN) == 2995
    assert meter.read()["get"] < 25
    assert meter.bytes() < sum(file.size for file in source.replica.files()) * 1.1
    for other in (db, quiet(source.url)):
        assert number(other, SCAN) == 2995
    assert meter.read() == {}


def test_travel_there_and_back_reads_only_what_differs(source: Origin) -> None:
    db = quiet(source.url)
    number(db, SCAN)
    meter = Meter(source.url)
    rows(db, f"PRAGMA litestream_time = '{source.times[4].isoformat()}'")
    assert meter.read()["list"] == 1
    assert meter.bytes() <= 6 * 100, "headers, for their times"
    assert number(db, SCAN) == 2997
    assert meter.read()["get"] <= 2, "the two pages that changed later"
    assert meter.bytes() < 20_000
    rows(db, "PRAGMA litestream_time = latest")
    assert number(db, SCAN) == 2995
    assert meter.read() == {}, "within the interval not even a look"
    rows(db, f"PRAGMA litestream_time = '{source.times[4].isoformat()}'")
    assert number(db, SCAN) == 2997
    assert meter.read() == {"list": 1}


def test_a_state_of_known_txid_needs_no_times(source: Origin) -> None:
    kept = quiet(source.url)
    meter = Meter(source.url)
    assert seen(vfs.connect(source.url, txid=4)) == 4
    assert meter.read() == {"list": 1}
    assert seen(kept) == 6


def test_sqlites_own_cache_is_kept_while_nothing_changed(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    db.execute("PRAGMA cache_size = 2000")
    number(db, SCAN)
    before = db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
    for _ in range(3):
        number(db, SCAN)
    assert db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] == before
    source.commit("UPDATE t SET b = 'new' WHERE id = 777")
    number(db, SCAN)
    assert db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] > before


def test_a_merged_file_costs_nothing_to_who_has_its_pages(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    number(db, SCAN)
    source.merge(1, 2, 6)
    source.prune(0, 7)
    meter = Meter(source.url)
    for _ in range(10):
        assert number(db, SCAN) == 2995
    assert meter.read() == {"list": 1, "get": 9}
    assert meter.bytes() == 0


def test_a_folder_that_was_copied_or_given_other_rights_costs_a_few_bytes_once(tmp_path: Path) -> None:
    """Its files look new to the storage, and hold what they held."""
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        source.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES (777, 'x')")
        source.commit("INSERT INTO t VALUES (778, 'x')")
        db = vfs.connect(source.url, poll_interval=0)
        number(db, SCAN.replace("> 1", "> 0"))
        for path in (tmp_path / "replica").rglob("*.ltx"):
            path.chmod(0o640)
        meter = Meter(source.url)
        catch_up(db)
        assert meter.read() == {"list": 1, "get": 9 + 2}
        assert meter.bytes() == 2 * 16
        catch_up(db)
        assert meter.read() == {"list": 1, "get": 9}


@pytest.mark.parametrize(("count", "waves"), [(1, [1, 1]), (10, [1, 10]), (100, [1, 32, 32, 32, 4])])
def test_a_first_answer_takes_two_round_trips_however_many_files(
    count: int, waves: list[int], tmp_path: Path
) -> None:
    """The listing, then all files at once, 32 at a time."""
    with origin(tmp_path) as source:
        source.commit("CREATE TABLE t (n)")
        for each in range(count - 1):
            source.commit(f"INSERT INTO t VALUES ({each})")
        url, hooks = hooked(source.url)
        trips = Waves(hooks)
        db = vfs.connect(url, poll_interval=3600)
        assert number(db, "SELECT count(*) FROM t") == count - 1
        assert len(trips.sizes) <= len(waves), trips.sizes
        assert sum(trips.sizes) == 1 + count
        if count < 32:
            assert trips.sizes == waves


def test_a_first_answer_of_a_bigger_database_takes_four_round_trips(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(1000) FROM generate_series(1, 3000)",
        )
        source.commit("UPDATE t SET b = 'new' WHERE id = 2000")
        url, hooks = hooked(source.url)
        trips = Waves(hooks)
        assert rows(vfs.connect(url, poll_interval=3600), POINT) == [(1000,)]
        assert trips.sizes == [1, 3, 1, 1], "the listing, all ends of files, an interior page, a leaf"
