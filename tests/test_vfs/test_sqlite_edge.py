"""Where the VFS meets SQLite: what is refused, what is left alone, what everything else still does."""

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfs
from backends import ConfigError, PermissionDeniedError, UnknownSchemeError
from ltx import NoSnapshotError
from tests.test_vfs.origin import Origin, as_read, content, number, origin, rows, seen
from tests.test_vfs.storages import Request, hooked

READ = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A table of three rows, and a second state with four."""
    with origin(tmp_path) as made:
        made.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (1), (2), (3)", "PRAGMA user_version = 42")
        made.commit("INSERT INTO t VALUES (4)")
        yield made


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (9)",
        "UPDATE t SET n = 0",
        "DELETE FROM t",
        "CREATE TABLE u (a)",
        "DROP TABLE t",
        "CREATE INDEX i ON t (n)",
        "ANALYZE",
        "VACUUM",
        "PRAGMA user_version = 1",
        "PRAGMA application_id = 1",
        "PRAGMA incremental_vacuum",
    ],
)
@pytest.mark.parametrize("opened", ["by connect", "to write", "attached"])
def test_what_would_write_is_refused_and_changes_nothing(statement: str, opened: str, source: Origin) -> None:
    if opened == "attached":
        db = apsw.Connection(":memory:", flags=WRITE)
        db.execute("ATTACH ? AS r", (vfs.uri(source.url),))
        for word in (" t", " i ", "user_version", "application_id", "incremental_vacuum", " u "):
            statement = statement.replace(word, f"{word[: len(word) - len(word.lstrip())]}r.{word.lstrip()}")
        statement = (
            statement.replace("ON r.t", "ON t").replace("VACUUM", "VACUUM r")
            if statement != "ANALYZE"
            else "ANALYZE r"
        )
        schema = "r"
    else:
        db = (
            vfs.connect(source.url)
            if opened == "by connect"
            else apsw.Connection(vfs.uri(source.url), flags=WRITE)
        )
        schema = "main"
    with pytest.raises((apsw.ReadOnlyError, vfs.ReadOnlyError), match=r"read-?only"):
        rows(db, statement)
    assert content(db, schema) == as_read(source.states[2])
    assert len(source.replica.files()) == 2


@pytest.mark.parametrize("mode", ["wal", "truncate", "persist", "memory", "off"])
def test_the_journal_mode_stays_what_it_is(mode: str, source: Origin) -> None:
    db = vfs.connect(source.url)
    rows(db, f"PRAGMA journal_mode = {mode}")
    assert number(db, "SELECT count(*) FROM t") == 4
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("INSERT INTO t VALUES (5)")
    assert content(db) == as_read(source.states[2])


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_transaction_that_asks_to_write_holds_one_state_and_writes_nothing(
    kind: str, source: Origin
) -> None:
    """SQLite takes both for a read transaction on a database that is read-only."""
    db = vfs.connect(source.url, poll_interval=0)
    db.execute(f"BEGIN {kind}")
    source.commit("INSERT INTO t VALUES (5)")
    assert number(db, "SELECT count(*) FROM t") == 4
    with pytest.raises(apsw.ReadOnlyError, match="readonly database"):
        db.execute("INSERT INTO t VALUES (9)")
    db.execute("ROLLBACK")
    assert number(db, "SELECT count(*) FROM t") == 5


def test_a_local_database_in_wal_mode_is_attached_with_what_is_not_checkpointed(
    source: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = apsw.Connection("local.db")
    rows(writer, "PRAGMA journal_mode = wal")
    rows(writer, "PRAGMA wal_autocheckpoint = 0; CREATE TABLE mine (n); INSERT INTO mine VALUES (7)")
    assert os.path.getsize("local.db-wal") > 4096
    db = vfs.connect(source.url)
    db.execute("ATTACH 'local.db' AS l")
    assert rows(db, "SELECT n FROM l.mine") == [(7,)]
    writer.execute("INSERT INTO mine VALUES (8)")
    assert rows(db, "SELECT n FROM l.mine") == [(7,), (8,)]
    db.execute("INSERT INTO l.mine SELECT n FROM main.t WHERE n > 2")
    assert rows(writer, "SELECT n FROM mine") == [(7,), (8,), (3,), (4,)]
    with db:
        db.execute("DELETE FROM l.mine WHERE n = 7")
        assert number(db, "SELECT count(*) FROM t, l.mine") == 12
    db.execute("ATTACH ? AS again", (vfs.uri(source.url, txid=1),))
    assert number(db, "SELECT count(*) FROM again.t") == 3
    assert rows(db, "PRAGMA l.journal_mode") == [("wal",)]
    assert rows(db, "PRAGMA l.integrity_check") == [("ok",)]


def test_a_local_database_is_made_and_written_beside_a_replica(source: Origin, tmp_path: Path) -> None:
    db = vfs.connect(source.url)
    db.execute("ATTACH ? AS l", (str(tmp_path / "made.db"),))
    db.execute("CREATE TABLE l.copied AS SELECT * FROM main.t; CREATE TEMP TABLE x AS SELECT * FROM t")
    plain = sqlite3.connect(tmp_path / "made.db")
    assert plain.execute("SELECT count(*) FROM copied").fetchone() == (4,)
    plain.close()


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm", ""])
def test_files_of_the_replicas_name_in_the_current_folder_are_ignored(
    suffix: str, source: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label = vfs.connect(source.url).filename
    stale = tmp_path / f"{label}{suffix}"
    stale.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + os.urandom(5000))
    before = stale.read_bytes()
    db = vfs.connect(source.url, poll_interval=0)
    assert content(db) == as_read(source.states[2])
    source.commit("INSERT INTO t VALUES (5)")
    assert number(db, "SELECT count(*) FROM t") == 5
    db.close()
    assert stale.read_bytes() == before


def test_other_connections_of_the_process_are_as_they_were(source: Origin, tmp_path: Path) -> None:
    db = vfs.connect(source.url)
    path = tmp_path / "plain.db"
    plain = apsw.Connection(str(path))
    assert rows(plain, "PRAGMA journal_mode = wal") == [("wal",)]
    plain.execute("CREATE TABLE p (a); INSERT INTO p VALUES (1)")
    assert plain.vfsname("main") == apsw.vfs_names()[0] != vfs.VFS_NAME
    with pytest.raises(apsw.SQLError, match="no such function"):
        plain.execute("SELECT litestream_txid()")
    assert rows(plain, "PRAGMA litestream_txid") == []
    standard = sqlite3.connect(path)
    standard.execute("INSERT INTO p VALUES (2)")
    standard.commit()
    standard.close()
    memory = apsw.Connection(":memory:")
    memory.execute("CREATE TABLE m (a)")
    assert rows(plain, "SELECT a FROM p") == [(1,), (2,)]
    assert number(db, "SELECT count(*) FROM t") == 4
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection(str(tmp_path / "no" / "such.db"))


@pytest.mark.parametrize(
    "pragma",
    [
        "user_version",
        "page_count",
        "page_size",
        "encoding",
        "application_id",
        "table_info(t)",
        "schema_version",
    ],
)
def test_pragmas_that_are_not_ours_answer_as_on_the_database(pragma: str, source: Origin) -> None:
    db = vfs.connect(source.url)
    assert rows(db, f"PRAGMA {pragma}") == rows(source.connection, f"PRAGMA {pragma}")
    assert rows(db, "PRAGMA user_version") == [(42,)]
    assert rows(db, "PRAGMA database_list")[0][:2] == (0, "main")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            "region=eu-west-1",
            r"unknown parameter 'region' beside replica_url: percent-quote the replica's URL whole",
        ),
        ("endpoint=http://x", r"unknown parameter 'endpoint'"),
        ("write_enabled=true", r"write_enabled is not served: replicas are read-only"),
        ("buffer_path=/tmp/b", r"buffer_path is not served"),
        ("sync_interval=1s", r"sync_interval is not served"),
        (
            "poll_interval=soon",
            r"poll_interval must be a number of seconds, or such as 500ms or 5s, not 'soon'",
        ),
        ("poll_interval=-1", r"poll_interval must be a number of seconds, .* not '-1'"),
        ("poll_interval=nan", r"poll_interval must be a number"),
        ("cache_size=-5", r"cache_size must be a number of bytes, not '-5'"),
        ("cache_size=10MB", r"cache_size must be a number of bytes, not '10MB'"),
        ("timeout=0", r"timeout is a number of seconds over 0"),
        ("immutable=1", r"immutable is not for replicas"),
        ("nolock=1", r"nolock is not for replicas"),
        ("source=7f00", r"closed since"),
        ("at=cheese", r"not a time: 'cheese'"),
        ("txid=5", r"16 lower-case hex digits"),
    ],
)
def test_a_parameter_that_is_wrong_or_not_served_is_refused_by_name(
    parameter: str, message: str, source: Origin
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        apsw.Connection(f"{vfs.uri(source.url)}&{parameter}", flags=READ)
    assert caught.value.extendedresult == apsw.SQLITE_CANTOPEN  # type: ignore[attr-defined]


AS_THEIRS = """poll_interval=0s poll_interval=250ms poll_interval=1m cache_size=10485760 timeout=5 timeout=5s at=latest
    write_enabled=false hydration_enabled=0 hydration_enabled=true hydrate=1 mode=ro mode=rw cache=private immutable=0"""


@pytest.mark.parametrize("parameter", AS_THEIRS.split())
def test_a_parameter_as_the_real_litestream_has_it_is_taken(parameter: str, source: Origin) -> None:
    db = apsw.Connection(f"{vfs.uri(source.url)}&{parameter}", flags=WRITE)
    assert number(db, "SELECT count(*) FROM t") == 4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cache_size", -1),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("poll_interval", -1),
        ("cache_size", "64MB"),
        ("timeout", "5s"),
        ("poll_interval", "soon"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(option: str, value: object, source: Origin) -> None:
    with pytest.raises(ValueError, match=f"{option}.* number"):
        vfs.connect(source.url, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("nosuch://x/y", UnknownSchemeError, "no backend for nosuch://"),
        ("memory://never-written", NoSnapshotError, "no LTX files lie at memory://never-written"),
        ("", ConfigError, "names no folder"),
        ("file:///a?b=c", ConfigError, "takes no query"),
    ],
)
def test_a_replica_that_cannot_be_opened_is_named(url: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        vfs.connect(url)


def test_a_uri_without_a_replica_says_what_to_write(monkeypatch: pytest.MonkeyPatch, source: Origin) -> None:
    monkeypatch.delenv("LITESTREAM_REPLICA_URL", raising=False)
    with pytest.raises(
        ConfigError, match=r"'app.db' names no replica: open file:name\?vfs=litestream&replica_url="
    ):
        apsw.Connection("file:app.db?vfs=litestream", flags=READ)
    monkeypatch.setenv("LITESTREAM_REPLICA_URL", source.url)
    assert number(apsw.Connection("file:app.db?vfs=litestream", flags=READ), "SELECT count(*) FROM t") == 4
    assert number(apsw.Connection("app.db", flags=READ, vfs="litestream"), "SELECT count(*) FROM t") == 4


def test_missing_credentials_are_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "LITESTREAM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    began = time.monotonic()
    with pytest.raises(PermissionDeniedError, match="credentials"):
        vfs.connect("s3://bucket/app?endpoint=http://127.0.0.1:9")
    assert time.monotonic() - began < 8


def test_a_storage_that_refuses_is_an_error_and_never_an_empty_database(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=0, cache_size=0)
    assert number(db, "SELECT count(*) FROM t") == 4

    def refuse(request: Request) -> None:
        raise PermissionDeniedError(f"no more {request.kind} for you", key=request.key)

    hooks.before = refuse
    for kind, action in (
        ("get", lambda: rows(db, "SELECT count(*) FROM t")),
        ("list", lambda: vfs.connect(url)),
    ):
        with pytest.raises(PermissionDeniedError, match=f"no more {kind} for you"):
            action()
    hooks.clear()
    assert number(db, "SELECT count(*) FROM t") == 4


def test_a_handed_over_source_is_the_connections_own(source: Origin) -> None:
    """Storage options that are no text pass, and what `database_list` shows holds no secret."""
    db = vfs.connect(source.url)
    assert source.url not in str(rows(db, "PRAGMA database_list"))
    assert seen(db) == 2


def test_a_column_of_the_schema_may_be_read_through_table_valued_pragmas(source: Origin) -> None:
    db = vfs.connect(source.url)
    assert rows(db, "SELECT name FROM pragma_table_info('t')") == [("n",)]
    assert rows(db, "SELECT * FROM pragma_user_version") == [(42,)]
