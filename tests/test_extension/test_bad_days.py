"""What the extension does when something is wrong: the storage hangs, the helper dies, the host forks."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltx import Replica, replicate_once
from ltx.format import HEADER_SIZE
from ltx.format.frame import FRAME_HEAD
from tests.servers.delaying import delaying
from tests.servers.seaweedfs import S3Server
from tests.support.hosts import COMMANDS, EXTENSION, ROOT, HostError, helpers, host, uri
from tests.support.s3_stub import answer, black_hole, stub
from tests.test_vfs.origin import Origin, rows
from vfs.open_files import WHOLE_SIZE

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


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_wait_for_the_storage(name: str, runtime: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with black_hole() as endpoint, host(name, runtime, **keys) as program:
        program.open(":memory:")
        attach = f"ATTACH '{uri(f's3://bucket/app?endpoint={endpoint}&region=us-east-1')}' AS r"
        if name == "ruby":
            program.step("interruptible")  # as the guide says: Ruby would hear of it when the statement ends
        program.begin("patient" if name == "python3" else "sql", "main", attach)
        time.sleep(1.5)  # it waits now, or soon
        program.process.send_signal(signal.SIGINT)
        if name in ("sqlite3", "python3"):
            with pytest.raises(HostError, match="interrupt"):
                program.finish(20)
            if name == "python3":
                assert program.sql("SELECT 1") == [[1]]
        else:
            assert program.process.wait(20) != 0  # Ctrl-C ends these, as it does without us


@pytest.mark.parametrize("name", ["python3", "ruby"])
def test_ctrl_c_that_the_host_holds_back_comes_after_the_time_limit(name: str, runtime: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with black_hole() as endpoint, host(name, runtime, **keys) as program:
        program.open(":memory:")
        hanging = uri(f"s3://bucket/app?endpoint={endpoint}&region=us-east-1", timeout="1")
        program.begin("sql", "main", f"ATTACH '{hanging}' AS r")
        time.sleep(0.7)
        program.process.send_signal(signal.SIGINT)
        with pytest.raises(HostError):
            program.finish(30)


def test_an_interrupt_ends_a_slow_fetch_of_pages(source: Origin, s3_server: S3Server, runtime: Path) -> None:
    with (
        Replica.open(s3_server.url("slow"), **s3_server.options) as replica,
        delaying(s3_server.endpoint, 1.0) as proxy,
        host("python3", runtime, **s3_server.environment) as program,
    ):
        published = replicate_once(source.path, replica)
        assert published
        assert published.size > WHOLE_SIZE, "it is read page by page"
        url = f"s3://{s3_server.bucket}/slow?endpoint={proxy.endpoint}&region=us-east-1"
        program.open(uri(url, poll_interval="600"))
        for _ in range(2):
            with pytest.raises(HostError, match="interrupt"):
                program.step("interrupted", "main", "SELECT count(*), sum(length(body)) FROM t", 0.4)
        assert program.sql("SELECT length(body) FROM t WHERE id = 2") == [[400]]  # nothing is left of before
        assert program.sql("SELECT litestream_txid()") == [["0000000000000001"]]


def test_a_damaged_page_fails_who_asks_for_it_and_nobody_else(source: Origin, runtime: Path) -> None:
    source.commit("INSERT INTO t SELECT value, hex(randomblob(200)) FROM generate_series(3001, 20000)")
    largest = max(
        Path(source.url.removeprefix("file://")).rglob("*.ltx"), key=lambda path: path.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    start = HEADER_SIZE
    for _ in range(1000):
        pgno, _, size = FRAME_HEAD.unpack_from(data, start)
        start += FRAME_HEAD.size + size
    data[start : start + 4] = b"\xff" * 4
    largest.write_bytes(data)
    with host("python3", runtime) as program:
        program.open(uri(source.url, poll_interval="600"))
        some = "SELECT count(*) FROM t WHERE id <= 6000"
        assert program.sql(some) == [[6000]]
        with pytest.raises(HostError, match="malformed"):
            program.sql("SELECT count(body) FROM t WHERE length(body) = 400")
        [[told]] = program.sql("SELECT litestream_error()")
        assert largest.name in told
        assert f"page {pgno + 1}" in told
        assert program.sql(some) == [[6000]]
        assert program.sql("SELECT count(*) FROM t WHERE id >= 19000") == [[1001]]
        assert program.sql("SELECT litestream_error()") == [[None]]


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


def test_apsw_is_a_host_too_and_two_vfs_of_one_name_are_refused(source: Origin, runtime: Path) -> None:
    program = """
import sys, apsw
def load():
    db = apsw.Connection(":memory:")
    db.enable_load_extension(True)
    db.load_extension(sys.argv[1])
load()
flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
print(apsw.Connection(sys.argv[2], flags=flags).execute("SELECT count(*) FROM t").get)
"""
    refused = """
import vfs
try:
    load()
except apsw.ExtensionLoadingError as error:
    print(error)
"""
    before = program.split("load()\nflags")[0]
    for text, told in ((program, "3000"), (before + refused, "another VFS litestream already")):
        found = subprocess.run(
            [sys.executable, "-c", text, EXTENSION, uri(source.url)],
            cwd=ROOT,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            capture_output=True,
            text=True,
        )
        assert told in found.stdout, found.stderr
