"""What the extension does when something is wrong: the storage hangs, the helper dies, the host forks."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.hosts import COMMANDS, HostError, helpers, host, uri
from tests.support.s3_stub import answer, black_hole, stub
from tests.test_vfs.origin import Origin, rows

COUNT = "SELECT count(*) FROM t"


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_credentials_are_said(name: str, runtime: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIDOFNOBODY", "AWS_SECRET_ACCESS_KEY": "S3CRET-OF-NOBODY"}
    with stub([answer(403, code="InvalidAccessKeyId")]) as server:
        url = f"s3://bucket/app?endpoint={server.endpoint}&region=us-east-1"
        with (
            host(name, runtime, **keys) as program,
            pytest.raises(HostError, match="InvalidAccessKeyId") as refused,
        ):
            program.open(uri(url))
    assert "S3CRET" not in str(refused.value)
    assert not [path for path in runtime.rglob("*") if path.is_file() and b"NOBODY" in path.read_bytes()]


@pytest.mark.parametrize("name", ["sqlite3", "python3", "node", "bun", "php"])
def test_an_interrupt_ends_a_wait_for_the_storage(name: str, runtime: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with black_hole() as endpoint, host(name, runtime, **keys) as program:
        program.open(":memory:")
        attach = f"ATTACH '{uri(f's3://bucket/app?endpoint={endpoint}&region=us-east-1')}' AS r"
        if name == "python3":
            with pytest.raises(HostError, match="interrupt"):
                program.step("interrupted", "main", attach, 1.5)
            assert program.sql("SELECT 1") == [[1]]
            return
        program.begin("sql", "main", attach)
        time.sleep(1.5)  # it waits now, or soon
        program.process.send_signal(signal.SIGINT)
        if name == "sqlite3":
            with pytest.raises(HostError, match="interrupted"):
                program.finish(20)
        else:
            assert program.process.wait(20) != 0  # Ctrl-C ends these, as it does without us


def test_a_helper_that_is_killed_is_replaced(source: Origin, runtime: Path) -> None:
    wanted = [[number] for (number,) in rows(source.connection, "SELECT id FROM t")]
    with host("python3", runtime) as program:
        program.open(uri(source.url))
        assert program.sql("SELECT id FROM t") == wanted
        for _ in range(3):
            for each in helpers(runtime):
                os.kill(each, signal.SIGKILL)
            assert program.sql("SELECT id FROM t") == wanted
        program.sql(f"PRAGMA litestream_time = '{source.times[source.newest].isoformat()}'")
        source.commit("DELETE FROM t")
        for each in helpers(runtime):
            os.kill(each, signal.SIGKILL)
        assert program.sql("SELECT id FROM t") == wanted  # the time that was set is kept


def test_a_transaction_does_not_go_on_in_another_state(source: Origin, runtime: Path) -> None:
    with host("python3", runtime) as program:
        program.open(uri(source.url, poll_interval="0", cache_size="600000"))
        program.sql("BEGIN")
        program.sql("SELECT body FROM t WHERE id = 1")
        source.commit("UPDATE t SET body = 'new'")
        for each in helpers(runtime):
            os.kill(each, signal.SIGKILL)
        with pytest.raises(HostError, match="disk I/O error"):
            program.sql("SELECT body FROM t")
        assert "run the statement again" in program.sql("SELECT litestream_error()")[0][0]
        assert program.sql("SELECT DISTINCT body FROM t") == [["new"]]


def test_a_forked_child_and_its_parent_both_go_on(source: Origin, runtime: Path) -> None:
    with host("python3", runtime) as program:
        program.open(uri(source.url, poll_interval="0"))
        assert program.sql(COUNT) == [[3000]]
        assert program.step("forked", "main", COUNT, 3000) == [[0]]
        source.commit("DELETE FROM t WHERE id > 1000")
        assert program.sql(COUNT) == [[1000]]
        assert program.step("forked", "main", COUNT, 1000) == [[0]]
        assert program.sql("SELECT litestream_error()") == [[None]]


def test_a_helper_serves_one_environment_and_ends_after_its_last_client(
    source: Origin, runtime: Path
) -> None:
    with (
        host("sqlite3", runtime, AWS_ACCESS_KEY_ID="one") as first,
        host("python3", runtime, AWS_ACCESS_KEY_ID="one") as second,
        host("python3", runtime, AWS_ACCESS_KEY_ID="two") as third,
    ):
        for each in (first, second, third):
            each.open(uri(source.url))
            assert [[str(number)] for (number,) in each.sql(COUNT)] == [["3000"]]
        assert len(helpers(runtime)) == 2
    deadline = time.monotonic() + 40
    while helpers(runtime) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert helpers(runtime) == []
    assert sorted(path.name for path in (runtime / "ltx").iterdir()) == ["key", "lock"]
    assert (runtime / "ltx").stat().st_mode & 0o777 == 0o700


def test_a_python_that_cannot_help_is_named(source: Origin, runtime: Path) -> None:
    with host("python3", runtime, LITESTREAM_PYTHON="/no/such/python") as program:
        with pytest.raises(HostError, match=re.escape("/no/such/python")) as refused:
            program.open(uri(source.url))
        assert "LITESTREAM_PYTHON" in str(refused.value)
    with (
        host("python3", runtime, LITESTREAM_PYTHON="/usr/bin/python3") as program,
        pytest.raises(HostError, match="No module named"),
    ):
        program.open(uri(source.url))
