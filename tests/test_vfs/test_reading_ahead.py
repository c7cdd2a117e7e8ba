"""What is read before it is asked for: how many requests and bytes queries take, and that nothing else changes."""

import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import apsw
import pytest

import vfs
from backends import PermissionDeniedError
from tests.test_vfs.origin import Origin, number, origin, rows
from tests.test_vfs.storages import Request, delays, hooked
from vfs.btree import INDEX_LEAF, children_of, keys_of, kind_of, rowids_of
from vfs.meter import Meter
from vfs.pages import PageReader
from vfs.readahead import ReadAhead
from vfs.source import open_source
from vfs.view import Run, View

MIB = 1 << 20
_sizes = count(64 * MIB)
"""No two readers with the same cache, unless a test says so."""

COUNT = "SELECT count(*) FROM big WHERE length(b) > 1"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """Of 24 MiB: a table written in one go, and one whose leaves lie anywhere, with an index."""
    with origin(tmp_path_factory.mktemp("source")) as made:
        made.commit(
            "CREATE TABLE big (id INTEGER PRIMARY KEY, b)",
            "CREATE TABLE mixed (id INTEGER PRIMARY KEY, a, b)",
            "CREATE INDEX by_a ON mixed (a)",
            "INSERT INTO big SELECT value, randomblob(1000) FROM generate_series(1, 20000)",
            "INSERT INTO mixed SELECT value * 7919 % 10007, value * 31 % 10007, randomblob(350) FROM generate_series(1, 9000)",
        )
        yield made


class Reader:
    """A connection whose cache nobody shares, and what it asked for."""

    def __init__(self, url: str, cache_size: int | None = None) -> None:
        self.url, self.hooks = hooked(url)
        self.hooks.clear()
        self.db = vfs.connect(
            self.url, poll_interval=3600, cache_size=next(_sizes) if cache_size is None else cache_size
        )
        self.hooks.log.clear()

    @property
    def gets(self) -> list[Request]:
        return [request for request in self.hooks.log if request.kind == "get"]

    @property
    def bytes(self) -> int:
        return sum((request.end or 0) - request.start for request in self.gets)

    def quiet(self) -> None:
        """Wait until nothing more is under way."""
        while (before := len(self.hooks.log)) >= 0:
            time.sleep(0.1)
            if len(self.hooks.log) == before:
                return


@pytest.fixture
def reader(source: Origin) -> Iterator[Reader]:
    made = Reader(source.url)
    with closing(made.db):
        yield made
    made.hooks.clear()


def both(reader: Reader, source: Origin, sql: str) -> None:
    """Hold an answer to the source's."""
    assert rows(reader.db, sql) == rows(source.connection, sql)


def leaves(source: Origin, sql: str) -> int:
    """Count the pages that a statement reads at the source, with an empty cache."""
    with closing(apsw.Connection(str(source.path))) as db:
        rows(db, "SELECT count(*) FROM sqlite_schema")
        before = db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
        db.execute("PRAGMA cache_size = 10000")
        rows(db, sql)
        return db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] - before


def test_a_full_scan_takes_one_request_a_mib_at_most_and_hardly_a_byte_too_many(
    reader: Reader, source: Origin
) -> None:
    both(reader, source, COUNT)
    reader.quiet()
    table = leaves(source, COUNT) * 4110
    assert len(reader.gets) <= table / MIB
    assert table * 0.98 <= reader.bytes < table * 1.1
    before = len(reader.gets)
    reader.db.execute("PRAGMA shrink_memory")
    both(reader, source, COUNT)
    assert len(reader.gets) == before


def test_a_scan_of_a_far_storage_takes_as_few_requests_and_soon_hardly_waits(
    reader: Reader, source: Origin
) -> None:
    """What is known of the tree ends again and again, until the next interior page is there: it came with the rest."""
    with delays(reader.hooks, 0.02):
        both(reader, source, COUNT)
        reader.quiet()
    assert len(reader.gets) <= leaves(source, COUNT) * 4110 / MIB
    waits = json.loads(str(reader.db.pragma("litestream_stats")))["cache_misses"]
    assert waits <= 24, "a few until it is known that it is a scan, then one for some megabytes at most"


@pytest.mark.parametrize("cache_size", [9 * MIB, 12 * MIB, 16 * MIB])
def test_scans_of_more_than_the_cache_holds_never_fall_back_to_page_by_page(
    cache_size: int, source: Origin
) -> None:
    """What was there when it was asked for ahead stays until it is wanted."""
    reader = Reader(source.url, cache_size=cache_size)
    with closing(reader.db):
        for _ in range(4):
            reader.hooks.log.clear()
            reader.db.execute("PRAGMA shrink_memory")
            both(reader, source, COUNT)
            reader.quiet()
            assert len(reader.gets) <= 2 * leaves(source, COUNT) * 4110 / MIB
    reader.hooks.clear()


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("SELECT sum(length(b)) FROM mixed", 1.6),
        ("SELECT sum(length(b)) FROM (SELECT b FROM mixed ORDER BY id DESC LIMIT 5000)", 2.5),
        ("SELECT count(*) FROM mixed WHERE a BETWEEN 2000 AND 6000", 2.5),
        ("SELECT sum(length(b)) FROM mixed WHERE a BETWEEN 2000 AND 2300", 6),
        ("SELECT sum(length(b)) FROM (SELECT b FROM mixed WHERE a > 2000 ORDER BY a DESC LIMIT 300)", 6),
        ("SELECT sum(length(b)) FROM big WHERE id BETWEEN 3000 AND 3300", 5),
        (
            "SELECT sum(length(m.b)) FROM big JOIN mixed m ON m.id = big.id WHERE big.id BETWEEN 3000 AND 4000",
            8,
        ),
    ],
)
def test_what_comes_next_is_known_where_pages_are_not_adjacent(
    sql: str, parts: float, reader: Reader, source: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all of its pages are under way before they are wanted, and not many that are never wanted."""
    needed = leaves(source, sql)
    alone = 0
    cut = PageReader._cut

    def counted(pages: PageReader, run: Run) -> Run:
        nonlocal alone
        alone += 1  # a page that nobody knew would be wanted
        return cut(pages, run)

    monkeypatch.setattr(PageReader, "_cut", counted)
    both(reader, source, sql)
    reader.quiet()
    assert alone < 12 + needed / 16
    assert reader.bytes < needed * 4110 * parts + 200_000


def test_after_a_statement_nothing_more_is_asked_for(reader: Reader, source: Origin) -> None:
    assert len(rows(reader.db, "SELECT id FROM big LIMIT 100")) == 100
    reader.quiet()
    before = len(reader.gets)
    assert reader.bytes < MIB
    time.sleep(0.2)
    assert len(reader.gets) == before
    both(reader, source, "SELECT id FROM big LIMIT 100")
    assert len(reader.gets) == before


@pytest.mark.parametrize("cache_size", [0, 200_000, 8 * MIB])
def test_pages_on_a_disk_are_read_by_whoever_asks_for_them(
    cache_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread would take longer than the read, more so where several query at once."""
    handed_over: list[object] = []
    with origin(tmp_path, f"file://{tmp_path}/replica", page_size=1024) as disk:
        disk.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(900) FROM generate_series(1, 1000)",
        )
        disk.commit("UPDATE t SET b = randomblob(800) WHERE id % 90 = 0")
        monkeypatch.setattr("vfs.open_files.WHOLE_SIZE", 0)  # both stay unverified: there is doubt to dispel
        with closing(vfs.connect(disk.url, poll_interval=3600, cache_size=cache_size)) as db:
            db.execute("PRAGMA cache_size = 0")
            monkeypatch.setattr("vfs.waiting._Workers.submit", lambda _, work: handed_over.append(work))
            for row in range(1, 1001, 7):
                sql = f"SELECT b FROM t WHERE id = {row}"
                assert rows(db, sql) == rows(disk.connection, sql)
            sql = "SELECT sum(length(b)), max(b) FROM t WHERE id < 400"
            assert rows(db, sql) == rows(db, sql) == rows(disk.connection, sql)
    assert not handed_over


def test_an_error_far_ahead_is_told_when_its_page_is_wanted(reader: Reader, source: Origin) -> None:
    last = source.replica.files()[0].size // 2

    def refuse(request: Request) -> None:
        if request.kind == "get" and (request.end or 0) > last:
            raise PermissionDeniedError("the second half is not for you")

    reader.hooks.before = refuse
    cursor = reader.db.execute("SELECT id FROM big WHERE length(b) > 1")
    assert [row[0] for _, row in zip(range(2000), cursor, strict=False)] == [*range(1, 2001)]
    with pytest.raises(PermissionDeniedError, match="not for you"):
        for _ in cursor:
            pass
    reader.hooks.clear()
    both(reader, source, COUNT)


def test_a_page_that_came_damaged_is_told_when_it_is_wanted(reader: Reader, source: Origin) -> None:
    def falsify(request: Request, data: bytes) -> bytes:
        return bytes(len(data)) if request.start > 4 * MIB else data

    reader.hooks.answer = falsify
    cursor = reader.db.execute("SELECT id FROM big WHERE length(b) > 1")
    assert len([row for _, row in zip(range(2000), cursor, strict=False)]) == 2000
    with pytest.raises(Exception, match="page"):
        for _ in cursor:
            pass
    cursor.close()
    reader.hooks.clear()
    both(reader, source, COUNT)


def test_interior_pages_stay_while_leaves_go(source: Origin) -> None:
    small = Reader(source.url, cache_size=2 * MIB)
    with closing(small.db):
        number(small.db, COUNT)
        number(small.db, "SELECT count(*) FROM mixed WHERE length(b) > 1")
        small.quiet()
        small.hooks.log.clear()
        small.db.execute("PRAGMA shrink_memory")
        number(small.db, "SELECT length(b) FROM big WHERE id = 5000")
        assert len(small.gets) == 1, "the leaf"


@pytest.mark.parametrize("cache_size", [0, 100_000, 2 * MIB])
def test_memory_is_bounded(cache_size: int, source: Origin) -> None:
    from vfs.source import DEFAULT_TIMEOUT_S, open_source

    small = Reader(source.url, cache_size=cache_size)
    with closing(small.db):
        kept = open_source(small.url, cache_size, DEFAULT_TIMEOUT_S, {})
        assert number(small.db, "SELECT count(*) FROM big WHERE id < 4000 AND length(b) > 1") == 3999
        small.quiet()
        assert kept.cache.size <= cache_size


def test_two_that_scan_at_once_share_what_is_under_way(source: Origin) -> None:
    first, second = Reader(source.url, 64 * MIB), Reader(source.url, 64 * MIB)
    answers: list[int] = []
    with delays(first.hooks, 0.005), closing(first.db), closing(second.db):
        threads = [
            threading.Thread(target=lambda db=db: answers.append(number(db, COUNT)))
            for db in (first.db, second.db)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first.quiet()
    assert answers == [20000, 20000]
    assert first.bytes < leaves(source, COUNT) * 4110 * 1.25


def test_a_forked_child_relies_on_nothing_that_its_parent_has_under_way(reader: Reader) -> None:
    with delays(reader.hooks, 0.05):
        cursor = reader.db.execute("SELECT id FROM big WHERE length(b) > 1")
        for _ in range(20):
            next(cursor)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                db = vfs.connect(reader.url, poll_interval=3600)
                os._exit(0 if number(db, COUNT) == 20000 else 1)
            os._exit(2)
        assert len(list(cursor)) == 20000 - 20
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_pages_of_trees_are_understood(source: Origin) -> None:
    """Every child and every rowid that the pages of a database name, held to the database."""
    state = source.states[source.newest]
    pages = [state[start : start + 4096] for start in range(0, len(state), 4096)]
    root = number(source.connection, "SELECT rootpage FROM sqlite_schema WHERE name = 'by_a'")
    table = number(source.connection, "SELECT rootpage FROM sqlite_schema WHERE name = 'mixed'")
    found: list[int] = []
    todo = [root]
    while todo:
        pgno = todo.pop(0)
        todo += children_of(pages[pgno - 1], pgno)
        if kind_of(pages[pgno - 1], pgno) == INDEX_LEAF:
            found += rowids_of(pages[pgno - 1])
    all_rowids = {int(str(row[0])) for row in rows(source.connection, "SELECT id FROM mixed")}
    assert set(found) < all_rowids, "the others lie on interior pages"
    assert len(found) == len(set(found)) > 0.98 * len(all_rowids)
    keys = keys_of(pages[table - 1], table)
    assert len(keys) == len(children_of(pages[table - 1], table)) - 1
    assert list(keys) == sorted(keys)


def test_what_only_looks_like_a_tree_is_read_as_nothing() -> None:
    for kind in (2, 5, 10, 13):
        for filler in (b"\xff", b"\x7f", b"\x81", b"\x00"):
            page = bytes([kind]) + filler * 4095
            assert len(children_of(page, 9)) <= 2048
            assert len(keys_of(page, 9)) <= 2048
            assert len(rowids_of(page)) <= 2048


def test_where_all_is_there_a_query_by_an_index_looks_at_few_more_rows_than_it_wants(
    source: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second connection finds everything in the cache that both have."""
    cache_size = next(_sizes)
    first, second = Reader(source.url, cache_size), Reader(source.url, cache_size)
    looked: list[int] = []
    has = PageReader.has

    def counted(reader: PageReader, view: View, pgno: int) -> bool:
        looked.append(pgno)
        return has(reader, view, pgno)

    monkeypatch.setattr(PageReader, "has", counted)
    with closing(first.db), closing(second.db):
        both(first, source, "SELECT sum(length(b)), sum(a) FROM mixed")
        both(first, source, "SELECT count(a) FROM mixed INDEXED BY by_a")
        first.quiet()
        for limit in (50, 1000):
            looked.clear()
            both(second, source, f"SELECT sum(length(b)) FROM (SELECT b FROM mixed ORDER BY a LIMIT {limit})")
            assert len(looked) <= 2 * limit + 1024
    first.hooks.clear()


def test_a_tree_that_goes_round_in_a_circle_ends_every_search(source: Origin) -> None:
    """Damage, or malice, may make a page its own grandparent."""

    def inner(*children: int) -> bytes:
        cells = [4000 - 5 * place for place in range(len(children) - 1)]
        page = bytearray(struct.pack(">BHHHBI", 5, 0, len(cells), 0, 0, children[-1]).ljust(4096, b"\0"))
        struct.pack_into(f">{len(cells)}H", page, 12, *cells)
        for place, cell in enumerate(cells):
            struct.pack_into(">IB", page, cell, children[place], place)
        return bytes(page)

    made = open_source(source.url, next(_sizes), 20.0, {})
    view = made.latest(0, lambda: False)
    for circle in ([2], [2, 3], [2, 3, 4]):
        ahead = ReadAhead(made.pages, Meter())
        for pgno, below in zip(circle, [*circle[1:], circle[0]], strict=True):
            ahead.seen(view, pgno, inner(10 * pgno, 10 * pgno + 1, below))
        ahead.wants(view, 21)
        assert ahead.wants(view, 20), "a scan, backwards"


def test_the_cells_of_a_damaged_index_page_are_not_read_for_ever() -> None:
    """Each of them lies at one place, and claims all the page for its header."""
    page = bytearray(b"\x7f" * 65536)
    page[:8] = struct.pack(">BHHHB", INDEX_LEAF, 0, 20000, 0, 0)
    page[8:40008] = struct.pack(">H", 60000) * 20000
    page[60000:60004] = b"\xaa\x00\xa9\x00"  # a record of 5,376 bytes, with a header of 5,248
    page[60002 + 5248 - 1] = 1
    assert len(rowids_of(bytes(page))) <= 65536 // 5248
