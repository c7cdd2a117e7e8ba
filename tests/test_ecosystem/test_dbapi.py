"""PEP 249 on a replica: what `sqlite3` answers on a copy of the database, `vfs.dbapi` answers too."""

import gc
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import ltx
import vfs
from tests.test_vfs.origin import Origin, origin
from tests.test_vfs.storages import hooked
from vfs import dbapi, dbapi_errors


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A table with a value of each kind, in two states."""
    with origin(tmp_path) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20), size REAL, data BLOB, day DATE, any, n DECIMAL)",
            "INSERT INTO t VALUES (1, 'one', 1.5, x'00ff', '2026-11-22', NULL, '1.50')",
        )
        made.commit("INSERT INTO t VALUES (2, 'two', 2.5, x'', NULL, 'text', 2)")
        yield made


@pytest.fixture
def connection(source: Origin) -> Iterator[dbapi.Connection]:
    with closing(dbapi.connect(source.url, poll_interval=0)) as opened:
        yield opened


@pytest.fixture
def copy(source: Origin, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The standard library's connection on the same database, restored."""
    source.replica.restore(tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as opened:
        yield opened


def count(connection: dbapi.Connection) -> int:
    [(number,)] = connection.execute("SELECT count(*) FROM t").fetchall()
    return int(number)


def test_the_module_says_what_pep_249_wants() -> None:
    assert (dbapi.apilevel, dbapi.paramstyle, dbapi.threadsafety) == ("2.0", "qmark", 1)
    for name in (
        "Date",
        "Time",
        "Timestamp",
        "DateFromTicks",
        "TimeFromTicks",
        "TimestampFromTicks",
        "Binary",
    ):
        assert callable(getattr(dbapi, name))
    tree = {
        name: getattr(dbapi, name).__mro__[1].__name__ for name in dbapi_errors.__all__ if name[0].isupper()
    }
    theirs = {name: getattr(sqlite3, name).__mro__[1].__name__ for name in tree}
    assert tree == theirs
    assert {getattr(dbapi, name).__module__ for name in tree} == {"vfs.dbapi"}
    assert all(getattr(dbapi.Connection, name) is getattr(dbapi, name) for name in tree)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT * FROM t", ()),
        ("SELECT * FROM t WHERE 0", ()),
        ("  -- a comment\n SELECT id, upper(name) AS loud FROM t WHERE id > ? ORDER BY id;\n", (1,)),
        ("SELECT :a, :b", {"a": 1, "b": "x"}),
        ("SELECT ?, ?, ?, ?, ?", (None, 1 << 62, 0.1, "ü\0", bytearray(b"\0\1"))),
        ("SELECT ?, ?", (True, memoryview(b"abc"))),
        ("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2500) SELECT n FROM c", ()),
        ("VALUES (1), (2)", ()),
        ("PRAGMA table_info(t)", ()),
        ("PRAGMA foreign_keys = ON", ()),
        ("-- nothing", ()),
        ("", ()),
    ],
)
def test_a_statement_answers_what_sqlite3_answers(
    connection: dbapi.Connection, copy: sqlite3.Connection, sql: str, parameters: Any
) -> None:
    ours, theirs = connection.cursor(), copy.cursor()
    assert ours.execute(sql, parameters) is ours
    theirs.execute(sql, parameters)
    names = ours.description and [column[0] for column in ours.description]
    assert names == (theirs.description and [column[0] for column in theirs.description])
    assert ours.rowcount == theirs.rowcount == -1
    found = ours.fetchall()
    assert found == theirs.fetchall()
    assert [[type(value) for value in row] for row in found] == [
        [type(value) for value in row] for row in copy.execute(sql, parameters)
    ]


def test_rows_come_one_by_one_in_groups_and_all_at_once(connection: dbapi.Connection) -> None:
    cursor = connection.cursor()
    cursor.execute("WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 10) SELECT n FROM c")
    assert cursor.fetchone() == (1,)
    assert cursor.fetchmany() == [(2,)]
    cursor.arraysize = 2
    assert cursor.fetchmany() == [(3,), (4,)]
    assert cursor.fetchmany(3) == [(5,), (6,), (7,)]
    assert next(cursor) == (8,)
    assert list(cursor) == [(9,), (10,)]
    assert cursor.fetchone() is None
    assert cursor.fetchall() == cursor.fetchmany() == []


def test_a_column_says_what_it_is_declared_as(connection: dbapi.Connection) -> None:
    description = connection.execute("SELECT *, id + 1 FROM t WHERE 0").description
    assert description is not None
    assert all(len(column) == 7 for column in description)
    assert [column[1] for column in description] == [
        dbapi.NUMBER, dbapi.STRING, dbapi.NUMBER, dbapi.BINARY, dbapi.DATETIME, None, dbapi.NUMBER, None,
    ]  # fmt: skip


def test_adapters_and_converters_are_those_of_sqlite3(source: Origin, tmp_path: Path) -> None:
    class Point:
        def __conform__(self, _protocol: object) -> str:
            return "1;2"

    dbapi.register_adapter(Decimal, str)
    dbapi.register_converter("money", lambda text: Decimal(text.decode()))
    dbapi.register_converter("yesno", b"1".__eq__)
    sql = 'SELECT day, n AS "n [money]", 1 AS "ok [yesno]", name, ? AS p, ? AS d FROM t ORDER BY id'
    parsed = dbapi.PARSE_DECLTYPES | dbapi.PARSE_COLNAMES
    source.replica.restore(tmp_path / "copy.db")
    with (
        closing(dbapi.connect(source.url, detect_types=parsed)) as ours,
        closing(sqlite3.connect(tmp_path / "copy.db", detect_types=parsed)) as theirs,
    ):
        parameters = (Point(), Decimal("1.5"))
        found = ours.execute(sql, parameters)
        assert list(found) == theirs.execute(sql, parameters).fetchall()
        [first, *_] = ours.execute(sql, parameters).fetchall()
        assert first == (date(2026, 11, 22), Decimal("1.50"), True, "one", "1;2", "1.5")
        assert [column[0] for column in found.description or ()] == ["day", "n", "ok", "name", "p", "d"]


@pytest.mark.parametrize("literal", ["1", "1.5", "0.1", "'ü'", "x'00ff'", "NULL", "1 << 62"])
def test_converters_get_the_bytes_that_sqlite3_gives_them(connection: dbapi.Connection, literal: str) -> None:
    """Of whatever kind the value is."""
    dbapi.register_converter("asbytes", bytes)
    sql = f'SELECT {literal} AS "x [asbytes]"'
    connection.detect_types = dbapi.PARSE_COLNAMES
    with closing(sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_COLNAMES)) as theirs:
        assert connection.execute(sql).fetchall() == theirs.execute(sql).fetchall()


def is_open(connection: dbapi.Connection) -> bool:
    return connection.in_transaction


def test_a_transaction_sees_one_state_from_the_first_query_to_its_end(
    source: Origin, connection: dbapi.Connection
) -> None:
    assert not is_open(connection)
    assert count(connection) == 2
    assert is_open(connection)
    source.commit("DELETE FROM t")
    assert count(connection) == 2
    connection.commit()
    assert not is_open(connection)
    assert count(connection) == 0
    source.commit("INSERT INTO t(id) VALUES (1)")
    assert count(connection) == 0
    connection.rollback()
    with connection:
        assert count(connection) == 1
    assert not is_open(connection)


def test_without_an_isolation_level_each_statement_sees_the_newest(source: Origin) -> None:
    with closing(dbapi.connect(source.url, poll_interval=0, isolation_level=None)) as connection:
        assert count(connection) == 2
        assert not connection.in_transaction
        source.commit("DELETE FROM t")
        assert count(connection) == 0
        connection.isolation_level = ""
        assert count(connection) == 0
        source.commit("INSERT INTO t(id) VALUES (1)")
        assert count(connection) == 0
        connection.isolation_level = None
        assert count(connection) == 1


def test_time_is_set_at_the_opening_and_by_pragma_between_transactions(source: Origin) -> None:
    with closing(dbapi.connect(source.url, at=source.times[1])) as connection:
        assert count(connection) == 1
        with pytest.raises(dbapi.OperationalError, match="inside a transaction: end it first"):
            connection.execute("PRAGMA litestream_time = 'latest'")
        connection.commit()
        connection.execute("PRAGMA litestream_time = 'latest'")
        assert connection.execute("PRAGMA litestream_txid").fetchone() == (f"{2:016x}",)
        assert count(connection) == 2
        connection.commit()
        connection.execute(f"PRAGMA litestream_time = '{source.times[1].isoformat()}'")
        assert connection.execute("PRAGMA litestream_txid").fetchone() == (f"{1:016x}",)
        assert count(connection) == 1
    with closing(dbapi.connect(source.url, txid=1)) as connection:
        assert count(connection) == 1


@pytest.mark.parametrize("moment", [{}, {"txid": 1}, {"at": "latest"}])
def test_a_reset_connection_is_as_it_was_opened(source: Origin, moment: dict[str, Any]) -> None:
    with closing(dbapi.connect(source.url, poll_interval=0, **moment)) as connection:
        before = count(connection)
        connection.commit()
        connection.execute(f"PRAGMA litestream_time = '{source.times[2 if before == 1 else 1].isoformat()}'")
        connection.execute("ATTACH ? AS past", (vfs.uri(source.url, txid=1),))
        rows = connection.execute("SELECT id FROM past.t UNION ALL SELECT id FROM t")
        rows.fetchone()
        connection.reset()
        assert count(connection) == before
        assert [row[1] for row in connection.execute("PRAGMA database_list")] == ["main"]
        connection.reset()
        if "txid" not in moment:
            source.commit("DELETE FROM t")
            assert count(connection) == 0


def test_a_reset_costs_no_request_where_nothing_was_set(source: Origin) -> None:
    url, hooks = hooked(source.url)
    with closing(dbapi.connect(url, poll_interval=60)) as connection:
        count(connection)
        before = len(hooks.log)
        for _ in range(3):
            connection.reset()
            count(connection)
        assert len(hooks.log) == before


def test_a_state_that_is_gone_says_so_at_the_reset(source: Origin) -> None:
    with closing(dbapi.connect(source.url, txid=1)) as connection:
        connection.execute("PRAGMA litestream_time = 'latest'")
        source.merge(1, 1, 2)
        source.prune(0, 3)
        with pytest.raises(dbapi.OperationalError, match="before all that is kept"):
            connection.reset()


WRITES = [
    "INSERT INTO t(id) VALUES (9)",
    "UPDATE t SET name = 'x'",
    "DELETE FROM t",
    "CREATE TABLE u (a)",
    "DROP TABLE t",
    "ALTER TABLE t ADD COLUMN u",
    "CREATE INDEX i ON t(name)",
    "PRAGMA user_version = 7",
    "REPLACE INTO t(id) VALUES (1)",
    "VACUUM",
]


@pytest.mark.parametrize("sql", WRITES)
def test_a_write_is_refused_and_says_what_to_do(connection: dbapi.Connection, sql: str) -> None:
    with pytest.raises(dbapi.OperationalError, match="read-only: write to the database itself") as caught:
        connection.execute(sql)
    assert caught.value.sqlite_errorname == "SQLITE_READONLY"
    connection.rollback()
    assert count(connection) == 2


def test_temporary_and_attached_tables_take_writes(connection: dbapi.Connection, tmp_path: Path) -> None:
    connection.execute("ATTACH ? AS local", (str(tmp_path / "local.db"),))
    connection.execute("CREATE TABLE local.kept AS SELECT * FROM t")
    connection.commit()
    cursor = connection.cursor()
    assert cursor.executemany("INSERT INTO kept(id) VALUES (?)", ((n,) for n in range(7, 10))).rowcount == 3
    connection.rollback()
    cursor.execute("INSERT INTO kept(id, name) VALUES (7, 'x')")
    assert (cursor.rowcount, cursor.lastrowid) == (1, 3)
    connection.commit()
    assert cursor.execute("UPDATE kept SET name = NULL").rowcount == 3
    connection.close()  # without a commit
    with closing(sqlite3.connect(tmp_path / "local.db")) as local:
        assert local.execute("SELECT count(*), count(name) FROM kept").fetchall() == [(3, 3)]


Caller = Callable[[dbapi.Connection], object]


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda db: db.execute("SELEC"), dbapi.OperationalError, "syntax error"),
        (lambda db: db.execute("SELECT * FROM nope"), dbapi.OperationalError, "no such table: nope"),
        (lambda db: db.execute("SELECT ?", ()), dbapi.ProgrammingError, "uses 1 and there are 0"),
        (lambda db: db.execute("SELECT ?", (1, 2)), dbapi.ProgrammingError, "uses 1 and there are 2"),
        (lambda db: db.execute("SELECT :a", {"b": 1}), dbapi.ProgrammingError, "no value for the parameter :a"),
        (lambda db: db.execute("SELECT ?", (object(),)), dbapi.ProgrammingError, "object is no type of SQLite's"),
        (lambda db: db.execute(b"SELECT 1"), dbapi.ProgrammingError, "a statement is a str, not bytes"),
        (lambda db: db.execute("SELECT 1; SELECT 2"), dbapi.ProgrammingError, "one statement at a time"),
        (lambda db: db.executemany("SELECT ?", [(1,)]), dbapi.ProgrammingError, "use execute"),
        (lambda db: db.execute("PRAGMA litestream_time = 'when'"), dbapi.ProgrammingError, "not a time: 'when'"),
        (lambda db: db.execute("PRAGMA litestream_txid = 1"), dbapi.OperationalError, "takes no value"),
        (lambda db: db.execute("ATTACH 'file:x?vfs=litestream&replica_url=memory%3A%2F%2Fnone' AS x"),
         dbapi.OperationalError, "no LTX files lie at memory://none"),
        (lambda db: db.execute("ATTACH 's3://bucket/app' AS x"), dbapi.OperationalError, r"by the name that vfs\.uri"),
    ],
)  # fmt: skip
def test_an_error_is_of_the_kind_that_pep_249_has_for_it(
    connection: dbapi.Connection, call: Caller, kind: type[Exception], text: str
) -> None:
    with pytest.raises(dbapi.Error, match=text) as caught:
        call(connection)
    assert type(caught.value) is kind
    connection.rollback()
    assert count(connection) == 2


@pytest.mark.parametrize(
    ("arguments", "kind", "cause", "text"),
    [
        ({"url": "memory://nobody"}, dbapi.OperationalError, ltx.NoSnapshotError, "check the URL"),
        ({"url": "s4://bucket/app"}, dbapi.ProgrammingError, ValueError, "no backend for s4://"),
        ({"at": "when"}, dbapi.ProgrammingError, ValueError, "not a time: 'when'"),
        ({"at": "2020-01-01"}, dbapi.OperationalError, ltx.NotReachableError, "before all that is kept"),
        ({"txid": 7}, dbapi.OperationalError, ltx.NotReachableError, "not written yet"),
        ({"at": "now", "txid": 1}, dbapi.ProgrammingError, ValueError, "not both"),
    ],
)
def test_opening_says_what_is_wrong(
    source: Origin, arguments: dict[str, Any], kind: type[Exception], cause: type[Exception], text: str
) -> None:
    with pytest.raises(dbapi.Error, match=text) as caught:
        dbapi.connect(**{"url": source.url, **arguments})
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, cause)


def test_a_storage_that_fails_is_an_operational_error(source: Origin) -> None:
    url, hooks = hooked(source.url)
    with closing(dbapi.connect(url, cache_size=0, poll_interval=0)) as connection:

        def gone(_request: object) -> None:
            raise PermissionError("no")

        hooks.before = gone
        with pytest.raises(dbapi.OperationalError, match="no"):
            count(connection)
        hooks.clear()
        connection.rollback()
        assert count(connection) == 2


def test_a_damaged_replica_is_a_database_error_that_names_the_file(source: Origin) -> None:
    url, hooks = hooked(source.url)
    hooks.answer = lambda _request, data: data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(dbapi.DatabaseError, match=r"\.ltx is damaged") as caught:
        dbapi.connect(url)
    assert type(caught.value) is dbapi.DatabaseError
    assert isinstance(caught.value.__cause__, ltx.CorruptError)


def test_what_is_closed_says_so(connection: dbapi.Connection) -> None:
    cursor = connection.execute("SELECT * FROM t")
    cursor.close()
    cursor.close()
    with pytest.raises(dbapi.ProgrammingError, match="closed cursor"):
        cursor.fetchone()
    connection.close()
    connection.close()
    for call in (connection.cursor, connection.commit, connection.rollback, connection.reset):
        with pytest.raises(dbapi.ProgrammingError, match=r"Cannot operate on a closed database\."):
            call()
    assert repr(connection) == "<vfs.dbapi.Connection closed>"


def test_a_connection_moves_between_threads_and_is_refused_to_two_at_once(
    connection: dbapi.Connection,
) -> None:
    found: list[object] = []
    inside, done = threading.Event(), threading.Event()

    def wait(_value: object) -> int:
        inside.set()
        done.wait(10)
        return 1

    def busy() -> None:
        found.extend(connection.execute("SELECT wait(id) FROM t WHERE id = 1"))

    connection.create_function("wait", 1, wait)
    thread = threading.Thread(target=busy)
    thread.start()
    assert inside.wait(10)
    try:
        with pytest.raises(dbapi.ProgrammingError, match="give each thread a connection of its own"):
            connection.execute("SELECT 1")
    finally:
        done.set()
    thread.join()
    assert found == [(1,)]


NUMBERS = "WITH RECURSIVE c(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM c) SELECT k, name FROM c, t"


def test_a_rollback_ends_queries_under_way_and_a_commit_does_not(connection: dbapi.Connection) -> None:
    cursor, other = connection.execute(NUMBERS), connection.execute("SELECT id FROM t ORDER BY id")
    assert (cursor.fetchone(), other.fetchone()) == ((1, "one"), (1,))
    connection.commit()
    assert (cursor.fetchone(), other.fetchall()) == ((1, "two"), [(2,)])
    connection.rollback()
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(dbapi.ProgrammingError, match="ended with rollback"):
            fetch()
    assert other.fetchone() is None
    connection.execute("PRAGMA litestream_time = 'latest'")
    assert cursor.execute("SELECT id FROM t WHERE id = ?", (2,)).fetchall() == [(2,)]


def test_a_forgotten_cursor_holds_on_to_nothing(source: Origin, connection: dbapi.Connection) -> None:
    """Not even until Python looks for circles."""
    gc.disable()
    try:
        connection.isolation_level = None
        assert connection.execute(NUMBERS).fetchone() == (1, "one")
        source.commit("DELETE FROM t")
        assert count(connection) == 0
        connection.execute("PRAGMA litestream_time = 'latest'")
    finally:
        gc.enable()


def test_an_interrupted_query_says_so_and_the_connection_goes_on(connection: dbapi.Connection) -> None:
    timer = threading.Timer(0.2, connection.interrupt)
    timer.start()
    with pytest.raises(dbapi.OperationalError, match="interrupted") as caught:
        connection.execute(f"SELECT count(*) FROM ({NUMBERS})").fetchall()
    timer.join()
    assert caught.value.sqlite_errorname == "SQLITE_INTERRUPT"
    connection.rollback()
    assert count(connection) == 2


def test_what_sqlite3_has_and_this_has_not_is_refused(connection: dbapi.Connection) -> None:
    for name in ("row_factory", "text_factory"):
        with pytest.raises(AttributeError, match=name):
            setattr(connection, name, bytes)


def test_functions_and_aggregates_of_python_are_called(connection: dbapi.Connection) -> None:
    class Longest:
        def __init__(self) -> None:
            self.found = ""

        def step(self, value: str) -> None:
            self.found = max(self.found, value, key=len)

        def finalize(self) -> str:
            return self.found

    def failing(_value: object) -> None:
        raise RuntimeError("it fails")

    connection.create_function("twice", 1, lambda value: value * 2, deterministic=True)
    connection.create_aggregate("longest", 1, Longest)
    connection.create_collation("backwards", lambda a, b: (a < b) - (a > b))
    connection.create_function("failing", 1, failing)
    assert connection.execute("SELECT twice(id) FROM t").fetchall() == [(2,), (4,)]
    assert connection.execute("SELECT longest(name || (id * 9)) FROM t").fetchall() == [("two18",)]
    assert connection.execute("SELECT longest(name) FROM t WHERE 0").fetchall() == [("",)]
    assert connection.execute("SELECT name FROM t ORDER BY name COLLATE backwards").fetchall() == [
        ("two",),
        ("one",),
    ]
    with pytest.raises(dbapi.OperationalError, match="it fails") as caught:
        connection.execute("SELECT failing(1)")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_connection_cannot_be_sent_to_another_process(connection: dbapi.Connection) -> None:
    with pytest.raises(TypeError, match="connect there, with the same URL"):
        pickle.dumps(connection)


@pytest.mark.parametrize("name", [name for name in dbapi_errors.__all__ if name[0].isupper()])
def test_an_error_keeps_its_code_when_it_is_pickled(name: str) -> None:
    error = getattr(dbapi, name)("text")
    error.sqlite_errorname = "SQLITE_READONLY"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), "text", vars(error))
