"""Going back in time: by words, times and TXIDs, per connection and per attached database."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import apsw
import pytest

import vfs
from ltx import LTXError, NotReachableError
from tests.support.ltxfiles import FileSpec
from tests.test_vfs.origin import Origin, as_read, content, number, origin, rows, seen

FLAGS = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """Five states: the table holds its TXID."""
    with origin(tmp_path, page_size=512) as made:
        made.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (1)")
        for txid in range(2, 6):
            made.commit(f"UPDATE t SET n = {txid}", f"INSERT INTO t VALUES (randomblob({txid * 500}))")
        yield made


def shown(db: apsw.Connection, schema: str = "main") -> int:
    """Return what the table says and the pragma confirms."""
    found = number(db, f"SELECT n FROM {schema}.t LIMIT 1")
    assert seen(db, schema) == found
    return found


FORMS: Sequence[Callable[[datetime], str]] = (
    lambda at: at.isoformat(),
    lambda at: at.isoformat().replace("+00:00", "Z"),
    lambda at: at.strftime("%Y-%m-%d %H:%M:%S.%f"),
    lambda at: at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    lambda at: f"{at.timestamp():.3f}",
    lambda at: f"{round(at.timestamp() * 1000)}",
    lambda at: f"  {at.isoformat()}  ",
)


@pytest.mark.parametrize("place", range(len(FORMS)))
def test_every_form_of_a_time_is_understood_in_every_place(place: int, source: Origin) -> None:
    at = source.times[3]
    text = FORMS[place](at)
    assert shown(vfs.connect(source.url, at=text)) == 3
    assert shown(apsw.Connection(vfs.uri(source.url, at=text), flags=FLAGS)) == 3
    db = vfs.connect(source.url)
    assert rows(db, f"PRAGMA litestream_time = '{text}'") == rows(db, "PRAGMA litestream_time")
    assert shown(db) == 3
    db = vfs.connect(source.url)
    assert rows(db, f"SELECT litestream_set_time('{text}')") == [(None,)]
    assert shown(db) == 3


def test_a_time_between_two_states_means_the_earlier_one(source: Origin) -> None:
    db = vfs.connect(source.url)
    for txid in range(1, 5):
        between = source.times[txid] + (source.times[txid + 1] - source.times[txid]) / 2
        db.execute(f"PRAGMA litestream_time = '{between.isoformat()}'")
        assert shown(db) == txid
        just_before = source.times[txid + 1] - timedelta(milliseconds=1)
        assert shown(vfs.connect(source.url, at=just_before)) == txid


def test_words_count_from_now(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        ago = datetime.now(UTC) - timedelta(hours=3)
        publish_by_hand(source, [(1, ago), (2, ago + timedelta(hours=1)), (3, ago + timedelta(hours=2))])
        db = vfs.connect(source.url)
        for words, txid in (
            ("90 minutes ago", 2),
            ("-90m", 2),
            ("1 hour ago", 3),
            ("now", 3),
            ("2.5 hours ago", 1),
            ("vor 90 Minuten", 2),
        ):
            db.execute(f"PRAGMA litestream_time = '{words}'")
            assert seen(db) == txid, words
            assert seen(vfs.connect(source.url, at=words)) == txid
        for words in ("in 2 minutes", "dans 2 minutes", "tomorrow"):
            with pytest.raises(ValueError, match="no state is in the future"):
                db.execute(f"PRAGMA litestream_time = '{words}'")
            with pytest.raises(ValueError, match="no state is in the future"):
                vfs.connect(source.url, at=words)
        assert seen(db) == 2


def publish_by_hand(source: Origin, states: Sequence[tuple[int, datetime]]) -> None:
    """Put snapshots on the replica with times of our choice."""
    page = bytes.fromhex("53514c69746520666f726d6174203300").ljust(512, b"\0")
    for txid, at in states:
        spec = FileSpec(
            pages={1: page}, max_txid=txid, timestamp_ms=round(at.timestamp() * 1000), page_size=512
        )
        source.replica.backend.put(source.replica.layout.key(9, 1, txid), spec.encode())


@pytest.mark.parametrize("at", [None, "latest", "LATEST", " Latest "])
def test_latest_follows(at: str | None, source: Origin) -> None:
    db = vfs.connect(source.url, at=at, poll_interval=0)
    other = apsw.Connection(vfs.uri(source.url, at=at, poll_interval=0), flags=FLAGS)
    source.commit("UPDATE t SET n = 6 WHERE n = 5")
    assert shown(db) == shown(other) == 6
    for statement in (f"PRAGMA litestream_time = '{at or 'latest'}'", "SELECT litestream_set_time('lAtEsT')"):
        db.execute(f"PRAGMA litestream_time = '{source.times[2].isoformat()}'")
        assert shown(db) == 2
        rows(db, statement)
        assert shown(db) == 6


def test_the_same_statement_travels_each_time_it_runs(source: Origin) -> None:
    """No cache of prepared statements may swallow it."""
    db = vfs.connect(source.url)
    for _ in range(3):
        for txid in (2, 5):
            for statement in (
                f"PRAGMA litestream_time = '{source.times[txid].isoformat()}'",
                f"SELECT litestream_set_time('{source.times[txid].isoformat()}')",
            ):
                db.execute("PRAGMA litestream_time = '" + source.times[1].isoformat() + "'")
                assert shown(db) == 1
                rows(db, statement)
                assert shown(db) == txid


@pytest.mark.parametrize("txid", [3, "0000000000000003"])
def test_a_txid_is_visited_by_connect_and_uri(txid: int | str, source: Origin) -> None:
    assert content(vfs.connect(source.url, txid=txid)) == as_read(source.states[3])
    assert shown(apsw.Connection(vfs.uri(source.url, txid=txid), flags=FLAGS)) == 3


def test_all_states_in_any_order_are_what_they_were(source: Origin) -> None:
    db = vfs.connect(source.url)
    for txid in (5, 1, 4, 2, 3, 3, 5, 1):
        db.execute(f"PRAGMA litestream_time = '{source.times[txid].isoformat()}'")
        assert content(db) == as_read(source.states[txid])
        assert rows(db, "SELECT litestream_txid(), litestream_time()") == [
            (f"{txid:016x}", source.times[txid].isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        ]
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]


def test_two_times_are_joined_in_one_query(source: Origin) -> None:
    db = vfs.connect(source.url, txid=5)
    db.execute("ATTACH ? AS past", (vfs.uri(source.url, at=source.times[2]),))
    db.execute("ATTACH ? AS first", (vfs.uri(source.url, txid=1),))
    sql = "SELECT m.n, p.n, f.n FROM main.t m, past.t p, first.t f WHERE 1 = m.rowid AND p.rowid = 1 AND f.rowid = 1"
    assert rows(db, sql) == [(5, 2, 1)]
    assert (shown(db), shown(db, "past"), shown(db, "first")) == (5, 2, 1)
    rows(db, f"PRAGMA past.litestream_time = '{source.times[4].isoformat()}'")
    assert rows(db, sql) == [(5, 4, 1)]
    rows(db, "PRAGMA first.litestream_time = latest")
    assert rows(db, sql) == [(5, 4, 5)]
    db.execute("DETACH past; DETACH first")
    assert shown(db) == 5


def test_a_replica_attached_to_a_local_database_travels_too(source: Origin, tmp_path: Path) -> None:
    db = apsw.Connection(
        str(tmp_path / "local.db"),
        flags=FLAGS ^ apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE,
    )
    db.execute("ATTACH ? AS past", (vfs.uri(source.url, txid=2),))
    db.execute("CREATE TABLE copied AS SELECT n FROM past.t LIMIT 1")
    assert rows(db, "SELECT n FROM main.copied") == [(2,)]
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("DELETE FROM past.t")


def test_a_pool_of_connections_keeps_each_ones_time(source: Origin) -> None:
    pool = {txid: vfs.connect(source.url, txid=txid, poll_interval=0) for txid in range(1, 6)}
    following = vfs.connect(source.url, poll_interval=0)
    for _ in range(2):
        source.commit(f"UPDATE t SET n = {source.newest + 1} WHERE typeof(n) = 'integer'")
        for txid, db in pool.items():
            with db:
                assert shown(db) == txid
        assert shown(following) == source.newest


@pytest.mark.parametrize(
    "statement", ["PRAGMA litestream_time = latest", "SELECT litestream_set_time('latest')"]
)
def test_inside_a_transaction_the_time_stays(statement: str, source: Origin) -> None:
    db = vfs.connect(source.url, txid=2)
    db.execute("BEGIN")
    assert shown(db) == 2
    with pytest.raises(vfs.QueryError, match=r"inside a transaction: end it first \(COMMIT\)"):
        rows(db, statement)
    assert content(db) == as_read(source.states[2])
    db.execute("COMMIT")
    rows(db, statement)
    assert shown(db) == 5


def test_while_a_cursor_is_open_the_time_stays(source: Origin) -> None:
    db = vfs.connect(source.url, txid=2)
    cursor = db.execute("SELECT length(n) FROM t")
    cursor.fetchone()
    with pytest.raises(vfs.QueryError, match="inside a transaction"):
        rows(db, "PRAGMA litestream_time = latest")
    assert cursor.fetchall() == [(1000,)]
    rows(db, "PRAGMA litestream_time = latest")
    assert shown(db) == 5


def test_a_transaction_that_has_read_nothing_yet_may_choose_its_time(source: Origin) -> None:
    db = vfs.connect(source.url)
    db.execute("BEGIN")
    db.execute(f"PRAGMA litestream_time = '{source.times[3].isoformat()}'")
    assert content(db) == as_read(source.states[3])
    db.execute("COMMIT")
    assert shown(db) == 3


def test_a_time_out_of_range_says_what_there_is(source: Origin) -> None:
    before, after = source.times[1] - timedelta(seconds=1), datetime.now(UTC) + timedelta(days=1)
    oldest = r"the oldest that can be restored is TXID 0000000000000001 of 20\d\d-"
    newest = r"is in the future; the newest is TXID 0000000000000005 of 20\d\d-"
    for at, message in ((before, oldest), (after, newest)):
        for ask in (
            lambda at=at: vfs.connect(source.url, at=at),
            lambda at=at: apsw.Connection(vfs.uri(source.url, at=at), flags=FLAGS),
            lambda at=at: vfs.connect(source.url).execute(f"PRAGMA litestream_time = '{at.isoformat()}'"),
            lambda at=at: vfs.connect(source.url).execute("SELECT litestream_set_time(?)", (at.isoformat(),)),
        ):
            with pytest.raises(NotReachableError, match=message):
                ask()


def test_a_refused_time_changes_nothing(source: Origin) -> None:
    db = vfs.connect(source.url, txid=3)
    for text in ("10 years ago", "in 10 years", "half past cheese", "", "0000000000000002", "5"):
        with pytest.raises((LTXError, ValueError)):
            db.execute("SELECT litestream_set_time(?)", (text,)).fetchall()
        assert shown(db) == 3


def test_a_txid_inside_a_merged_file_names_its_neighbours(source: Origin) -> None:
    source.merge(1, 2, 4)
    source.delete(*(file for file in source.replica.files(0) if 2 <= file.max_txid <= 4))
    with pytest.raises(
        NotReachableError, match=r"inside a merged file .*nearest are 0000000000000001 and 0000000000000004"
    ) as caught:
        vfs.connect(source.url, txid=3)
    assert (caught.value.before, caught.value.after) == (1, 4)
    assert shown(vfs.connect(source.url, at=source.times[3])) == 1


@pytest.mark.parametrize(
    ("at", "txid", "message"),
    [
        ("", None, "not a time: ''"),
        (None, "", "16 lower-case hex digits"),
        (None, 0, "16 lower-case hex digits and not zero"),
        (None, -1, "16 lower-case hex digits"),
        (None, "3", "16 lower-case hex digits.*'3'"),
        ("cheese", None, "not a time: 'cheese'"),
        ("now", 3, "a time or a TXID, not both"),
        ("latest", 3, "a time or a TXID, not both"),
    ],
)
def test_what_means_no_time_is_refused(
    at: str | None, txid: int | str | None, message: str, source: Origin
) -> None:
    """An empty one too: a script's unset variable must not give the newest state."""
    with pytest.raises(ValueError, match=message):
        vfs.connect(source.url, at=at, txid=txid)
    with pytest.raises(ValueError, match=message):
        apsw.Connection(vfs.uri(source.url, at=at, txid=txid), flags=FLAGS)


def test_a_txid_that_is_not_written_yet_names_the_newest(source: Origin) -> None:
    with pytest.raises(
        NotReachableError, match=r"TXID 0000000000000009 is not written yet.*0000000000000005"
    ):
        vfs.connect(source.url, txid=9)


def test_the_lag_of_a_past_state_is_how_far_back_it_lies(source: Origin) -> None:
    db = vfs.connect(source.url, txid=2)
    lag = float(str(rows(db, "PRAGMA litestream_lag")[0][0]))
    assert lag == pytest.approx((datetime.now(UTC) - source.times[2]).total_seconds(), abs=0.5)


def test_naive_datetimes_are_utc(source: Origin) -> None:
    assert shown(vfs.connect(source.url, at=source.times[3].replace(tzinfo=None))) == 3
    assert (
        shown(apsw.Connection(vfs.uri(source.url, at=source.times[3].replace(tzinfo=None)), flags=FLAGS)) == 3
    )


def test_the_pragmas_that_only_tell_take_no_value(source: Origin) -> None:
    with closing(vfs.connect(source.url)) as db:
        for name in ("txid", "lag"):
            with pytest.raises(vfs.QueryError, match=f"litestream_{name} only tells"):
                db.execute(f"PRAGMA litestream_{name} = 5")


def test_the_version_of_the_data_moves_exactly_with_the_txid(source: Origin) -> None:
    """SQLite throws its own cache away when the counter in page 1 moves, and only then."""
    db = vfs.connect(source.url, poll_interval=0)
    versions = [number(db, "PRAGMA data_version")]
    for _ in range(3):
        number(db, "SELECT count(*) FROM t")
        time.sleep(0.005)
        versions.append(number(db, "PRAGMA data_version"))
    assert len(set(versions)) == 1
    source.commit("UPDATE t SET n = 6 WHERE n = 5")
    assert shown(db) == 6
    assert number(db, "PRAGMA data_version") != versions[0]
