"""What a replica answers is what its database answers: every kind of table, every page size."""

from pathlib import Path

import apsw
import pytest

import vfs
from ltx import replicate_once
from tests.support.ltxfiles import ALL_PAGE_SIZES
from tests.test_vfs.origin import as_read, catch_up, content, number, origin, rows

KINDS = (
    """CREATE TABLE sandwiches (id INTEGER PRIMARY KEY, name TEXT UNIQUE, rating REAL, note BLOB, price INTEGER,
           doubled INTEGER GENERATED ALWAYS AS (price * 2) VIRTUAL, stored TEXT AS (upper(name)) STORED)""",
    "CREATE INDEX by_rating ON sandwiches (rating DESC, name) WHERE rating > 1",
    "CREATE INDEX by_doubled ON sandwiches (doubled)",
    "CREATE TABLE toppings (name TEXT, sandwich INTEGER, PRIMARY KEY (sandwich, name)) WITHOUT ROWID",
    "CREATE TABLE empty (a, b UNIQUE)",
    "CREATE VIRTUAL TABLE reviews USING fts5(title, body, prefix='2')",
    "CREATE VIEW best AS SELECT name, rating FROM sandwiches WHERE rating > 3 ORDER BY rating DESC, name",
    """INSERT INTO sandwiches (name, rating, note, price)
           SELECT 'sandwich ' || value, value % 50 / 10.0, randomblob(value % 9 * 700), value % 13
           FROM generate_series(1, 400)""",
    "INSERT INTO sandwiches (name, rating, note) VALUES ('with much to say', NULL, randomblob(300000))",
    "INSERT INTO toppings SELECT 'topping ' || (value % 7), value FROM generate_series(1, 900)",
    """INSERT INTO reviews SELECT 'review ' || value, 'crisp bread and ' || CASE value % 3 WHEN 0 THEN 'fresh'
           ELSE 'dull' END || ' cheese number ' || value FROM generate_series(1, 300)""",
    "DELETE FROM toppings WHERE sandwich % 5 = 0",
    "UPDATE sandwiches SET note = randomblob(length(note) / 2) WHERE id % 6 = 0",
    "CREATE TRIGGER never AFTER INSERT ON empty BEGIN DELETE FROM empty; END",
)
QUESTIONS = (
    "SELECT * FROM sandwiches ORDER BY id",
    "SELECT name FROM sandwiches WHERE rating > 4.5 ORDER BY rating DESC, name",
    "SELECT id FROM sandwiches WHERE doubled = 12",
    "SELECT id, length(note) FROM sandwiches WHERE stored = 'SANDWICH 77'",
    "SELECT s.name, count(*) FROM sandwiches s JOIN toppings t ON t.sandwich = s.id GROUP BY 1 ORDER BY 2 DESC, 1",
    "SELECT * FROM toppings WHERE sandwich BETWEEN 100 AND 120",
    "SELECT * FROM empty",
    "SELECT count(*), max(b) FROM empty",
    "SELECT rowid, title FROM reviews WHERE reviews MATCH 'fresh NOT 3*' ORDER BY rank, rowid",
    "SELECT highlight(reviews, 1, '<', '>') FROM reviews WHERE reviews MATCH 'fr*' LIMIT 5",
    "SELECT * FROM best LIMIT 20",
    "SELECT name, type, sql FROM sqlite_schema ORDER BY rowid",
    "SELECT hex(note) FROM sandwiches WHERE name = 'with much to say'",
    "PRAGMA page_count",
    "PRAGMA page_size",
    "PRAGMA freelist_count",
    "PRAGMA user_version",
    "PRAGMA table_info(sandwiches)",
    "PRAGMA integrity_check",
    "PRAGMA foreign_key_check",
)


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
def test_every_kind_of_table_answers_as_in_the_database(page_size: int, tmp_path: Path) -> None:
    with origin(tmp_path, page_size=page_size) as source:
        source.commit(*KINDS, "PRAGMA user_version = 7")
        source.commit(
            "DELETE FROM sandwiches WHERE id % 11 = 0", "INSERT INTO reviews VALUES ('late', 'fresh')"
        )
        db = vfs.connect(source.url)
        for question in QUESTIONS:
            assert rows(db, question) == rows(source.connection, question), question
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
        assert content(db) == as_read(source.states[2])


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
def test_a_database_of_one_page_is_read(page_size: int, tmp_path: Path) -> None:
    with origin(tmp_path, page_size=page_size) as source:
        source.commit("PRAGMA user_version = 3")
        db = vfs.connect(source.url)
        assert rows(db, "PRAGMA page_count") == [(1,)]
        assert rows(db, "PRAGMA user_version") == [(3,)]
        assert rows(db, "SELECT * FROM sqlite_schema") == []
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("cache_size", [0, 50_000, 1 << 24])
def test_a_cache_of_any_size_gives_the_same_answers(cache_size: int, tmp_path: Path) -> None:
    with origin(tmp_path, page_size=1024) as source:
        source.commit(*KINDS)
        db = vfs.connect(source.url, cache_size=cache_size)
        db.execute("PRAGMA cache_size = 1")
        for _ in range(2):
            assert rows(db, QUESTIONS[0]) == rows(source.connection, QUESTIONS[0])
        assert content(db) == as_read(source.states[1])


def test_a_sort_bigger_than_memory_uses_temporary_files(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit(
            "CREATE TABLE t (a, b)",
            "INSERT INTO t SELECT random(), randomblob(300) FROM generate_series(1, 20000)",
        )
        db = vfs.connect(source.url)
        db.execute("PRAGMA temp_store = file; PRAGMA cache_size = 1")
        before = apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0]
        sql = "SELECT a, length(b) FROM t ORDER BY b, a"
        assert rows(db, sql) == rows(source.connection, sql)
        assert apsw.status(apsw.SQLITE_STATUS_MEMORY_USED)[0] - before < 4 << 20
        db.execute("CREATE TEMP TABLE copied AS SELECT * FROM t; CREATE INDEX temp.by_b ON copied (b)")
        assert rows(db, "SELECT count(DISTINCT b) FROM copied") == [(20000,)]


def test_pages_on_both_sides_of_the_lock_page_are_read(tmp_path: Path) -> None:
    """The page at 1 GiB is never stored. Overflow pages of zeros stretch the database beyond it."""
    blob = 90_000_000
    with origin(tmp_path, page_size=65536, setup="PRAGMA synchronous=off") as source:
        source.connection.execute(
            "PRAGMA journal_mode=off"
        ).fetchall()  # a gigabyte through a WAL would take its time
        source.connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB, b TEXT)")
        for row in range(12):
            source.connection.execute("INSERT INTO t VALUES (?, zeroblob(?), ?)", (row, blob, f"row {row}"))
        source.connection.execute("INSERT INTO t VALUES (99, randomblob(200000), 'last')")
        replicate_once(source.path, source.replica)
        db = vfs.connect(source.url)
        lock_page = (1 << 30) // 65536 + 1
        assert number(db, "PRAGMA page_count") > lock_page + 10
        sql = "SELECT id, length(a), b FROM t ORDER BY id"
        assert rows(db, sql) == rows(source.connection, sql)
        assert rows(db, "SELECT a FROM t WHERE id = 99") == rows(
            source.connection, "SELECT a FROM t WHERE id = 99"
        )
        assert rows(db, "SELECT sum(length(trim(a, x'00'))) FROM t WHERE id BETWEEN 10 AND 12") == [(0,)]
        assert rows(db, "PRAGMA quick_check") == [("ok",)]


def test_the_whole_database_can_be_copied_out_by_sql(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit(*KINDS)
        db = vfs.connect(source.url)
        db.execute("VACUUM INTO ?", (str(tmp_path / "vacuumed.db"),))
        backed_up = apsw.Connection(str(tmp_path / "backup.db"))
        with backed_up.backup("main", db, "main") as backup:
            backup.step()
        for copied in (apsw.Connection(str(tmp_path / "vacuumed.db")), backed_up):
            assert rows(copied, QUESTIONS[0]) == rows(source.connection, QUESTIONS[0])
            assert rows(copied, "PRAGMA integrity_check") == [("ok",)]


def test_a_database_in_rollback_journal_mode_reads_the_same(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.connection.execute("PRAGMA journal_mode=delete").fetchall()
        source.commit(*KINDS)
        db = vfs.connect(source.url)
        assert content(db) == as_read(source.states[1])
        assert rows(db, "PRAGMA journal_mode") == [("delete",)]


@pytest.mark.parametrize("mode", ["full", "incremental"])
def test_an_open_connection_follows_growth_and_auto_vacuum(mode: str, tmp_path: Path) -> None:
    with origin(tmp_path, page_size=1024, setup=f"PRAGMA auto_vacuum={mode}") as source:
        source.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
        db = vfs.connect(source.url, poll_interval=0)
        sizes = [number(db, "PRAGMA page_count")]
        for low, high in ((1, 300), (301, 900)):
            source.commit(f"INSERT INTO t SELECT value, randomblob(700) FROM generate_series({low}, {high})")
            assert content(db) == as_read(source.states[source.newest])
            sizes.append(number(db, "PRAGMA page_count"))
        assert sizes == sorted(sizes)
        for below in (600, 250, 40):
            source.commit(f"DELETE FROM t WHERE id > {below}", f"PRAGMA incremental_vacuum({below})")
            assert rows(db, "PRAGMA integrity_check") == [("ok",)]
            assert content(db) == as_read(source.states[source.newest])
            assert rows(db, "SELECT * FROM t") == rows(source.connection, "SELECT * FROM t")
        assert number(db, "PRAGMA page_count") < sizes[-1] / 2
        source.commit("INSERT INTO t SELECT value, randomblob(700) FROM generate_series(2000, 2300)")
        assert content(db) == as_read(source.states[source.newest])
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(("old", "new"), [(4096, 512), (512, 65536), (1024, 4096)])
def test_an_open_connection_follows_a_vacuum_to_another_page_size(old: int, new: int, tmp_path: Path) -> None:
    with origin(tmp_path, page_size=old) as source:
        source.commit(*KINDS)
        db = vfs.connect(source.url, poll_interval=0)
        held = vfs.connect(source.url, poll_interval=0)
        assert rows(db, "SELECT count(*) FROM sandwiches") == [(401,)]
        held.execute("BEGIN")
        assert rows(held, "PRAGMA page_size") == [(old,)]
        assert rows(held, "SELECT count(*) FROM sandwiches") == [(401,)]
        source.commit(
            "DELETE FROM sandwiches WHERE id < 40",
            f"PRAGMA journal_mode=delete; PRAGMA page_size={new}; VACUUM; PRAGMA journal_mode=wal",
        )
        assert [file.level for file in source.replica.files()] == [0, 9]
        catch_up(db)
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
        assert rows(db, "PRAGMA page_size") == [(new,)]
        assert content(db) == as_read(source.states[2])
        assert content(held) == as_read(source.states[1])
        held.execute("COMMIT")
        assert content(held) == as_read(source.states[2])
        source.commit("INSERT INTO empty VALUES (1, 2)")
        assert content(db) == as_read(source.states[3])
        db.execute(f"PRAGMA litestream_time = '{source.times[1].isoformat()}'")
        assert content(db) == as_read(source.states[1])
        assert rows(db, "PRAGMA page_size") == [(old,)]
