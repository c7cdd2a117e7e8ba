"""Every host that has SQLite opens a replica through the extension, as its users do."""

import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.hosts import COMMANDS, HostError, helpers, host, uri
from tests.test_vfs.origin import Origin, rows

COUNT = "SELECT count(*), sum(length(body)) FROM t"
THREADED = ("python3", "node", "bun", "ruby")


def texts(found: list[list[object]]) -> list[list[str]]:
    return [[str(value) for value in row] for row in found]


def wanted(source: Origin, statement: str = COUNT) -> list[list[str]]:
    return [[str(value) for value in row] for row in rows(source.connection, statement)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_host_queries_follows_and_travels(name: str, source: Origin, runtime: Path) -> None:
    with host(name, runtime, LITESTREAM_REPLICA_URL=source.url) as program:
        program.open("file:///my.db?vfs=litestream&poll_interval=0")
        first, first_state = source.newest, wanted(source)
        assert texts(program.sql(COUNT)) == first_state
        assert program.sql("PRAGMA integrity_check") == [["ok"]]
        source.commit("DELETE FROM t WHERE id % 3 = 0", "INSERT INTO t VALUES (9999, 'new')")
        assert texts(program.sql(COUNT)) == wanted(source)
        assert texts(program.sql("SELECT litestream_txid()")) == [[f"{source.newest:016x}"]]
        time = source.times[first].isoformat()
        program.sql(f"SELECT litestream_set_time('{time}')")
        assert texts(program.sql(COUNT)) == first_state
        assert texts(program.sql("PRAGMA litestream_txid")) == [[f"{first:016x}"]]
        [[shown]] = texts(program.sql("SELECT litestream_time()"))
        assert datetime.fromisoformat(shown) == source.times[first]
        program.sql("PRAGMA litestream_time = 'LATEST'")
        assert texts(program.sql(COUNT)) == wanted(source)
        [[lag]] = texts(program.sql("SELECT litestream_lag()"))
        assert 0 <= float(lag) < 30
        with pytest.raises(HostError, match="not a time: 'gibberish'"):
            program.sql("SELECT litestream_set_time('gibberish')")
        with pytest.raises(HostError, match="readonly"):
            program.sql("INSERT INTO t VALUES (1, 1)")


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_are_text_and_other_databases_are_as_ever(
    name: str, source: Origin, runtime: Path, tmp_path: Path
) -> None:
    with host(name, runtime) as program:
        refusals = {
            uri("bogus://nothing"): "no backend for bogus://",
            uri(f"file://{tmp_path}/empty"): "no LTX files lie at",
            uri(source.url, at="never ever"): "not a time: 'never ever'",
            uri(source.url, txid="00000000000000ff"): "00000000000000ff",
            uri(source.url, region="us-east-1"): "unknown parameter 'region'",
            uri(source.url, poll_intervall="1s"): "did you mean poll_interval?",
            "file:///my.db?vfs=litestream": "set LITESTREAM_REPLICA_URL",
        }
        for asked, reason in refusals.items():
            with pytest.raises(HostError, match=re.escape(reason)):
                program.open(asked)
        program.open(f"{tmp_path}/plain.db")
        program.sql("CREATE TABLE plain AS SELECT 5 AS n")
        assert texts(program.sql("SELECT n FROM plain")) == [["5"]]
        with pytest.raises(HostError, match="no replica"):
            program.sql("SELECT litestream_time()")
        with pytest.raises(HostError):
            program.sql(f"ATTACH '{uri(f'file://{tmp_path}/empty')}' AS r")
        [[told]] = texts(program.sql("SELECT litestream_error()"))
        assert "no LTX files lie at" in told
        program.sql(f"ATTACH '{uri(source.url)}' AS r")
        assert texts(program.sql(COUNT.replace("FROM t", "FROM r.t"))) == wanted(source)
        assert texts(program.sql("SELECT litestream_error() IS NULL")) == [["1"]], "that is over"
        assert texts(program.sql("SELECT n FROM plain")) == [["5"]]


def test_a_local_database_with_a_wal_is_attached_to_a_replica(
    source: Origin, runtime: Path, tmp_path: Path
) -> None:
    with host("python3", runtime) as program:
        program.open(f"file://{tmp_path}/local.db", "local")
        program.sql("PRAGMA journal_mode=wal", "local")
        program.sql("CREATE TABLE mine AS SELECT 7 AS n", "local")
        program.open(uri(source.url))
        program.sql(f"ATTACH '{tmp_path}/local.db' AS l")
        assert program.sql("SELECT n FROM l.mine") == [[7]]  # it lies in the WAL
        program.sql("INSERT INTO l.mine VALUES (8)")
        assert program.sql("SELECT n FROM mine", "local") == [[7], [8]]


def test_pages_are_kept_in_a_folder_of_the_host(source: Origin, runtime: Path) -> None:
    with host("python3", runtime) as program:
        program.open(uri(source.url, cache_dir="kept"))  # in the folder that the host is in
        assert texts(program.sql(COUNT)) == wanted(source)
    assert (runtime / "kept").is_dir()


@pytest.mark.parametrize("name", THREADED)
def test_four_threads_see_whole_states_while_the_replica_moves(
    name: str, source: Origin, runtime: Path
) -> None:
    sums = "SELECT (SELECT total(n) FROM a) + (SELECT total(n) FROM b)"
    source.commit(
        "CREATE TABLE a (n)", "CREATE TABLE b (n)", "INSERT INTO a VALUES (100)", "INSERT INTO b VALUES (0)"
    )
    with host(name, runtime) as program:
        program.begin("threads", uri(source.url, poll_interval="0"), 4, sums)
        for _ in range(6):
            source.connection.execute("BEGIN; UPDATE a SET n = n - 1; UPDATE b SET n = n + 1; COMMIT")
            source.publish()
        found = program.finish()
        assert found == [[100.0] * 20] * 4
        assert len(helpers(runtime)) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_thousand_opens_leave_nothing_behind(name: str, source: Origin, runtime: Path) -> None:
    def cost(pid: int) -> tuple[int, int]:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        return len(os.listdir(f"/proc/{pid}/fd")), resident

    with host(name, runtime) as program, host("sqlite3", runtime) as other:
        asked = uri(source.url, poll_interval="60")
        other.open(asked)  # keeps the helper
        assert texts(other.sql(COUNT)) == wanted(source)
        program.step("opens", asked, 100, COUNT)
        [helper] = helpers(runtime)
        (fds, memory), (fds_there, memory_there) = cost(program.process.pid), cost(helper)
        program.step("opens", asked, 1000, COUNT)
        fds_after, memory_after = cost(program.process.pid)
        fds_there_after, memory_there_after = cost(helper)
        assert fds_after <= fds
        assert fds_there_after <= fds_there + 1  # the last client may be just leaving
        assert memory_after < memory + (60 << 20 if name in ("node", "bun") else 4 << 20)
        assert memory_there_after < memory_there + (8 << 20)
