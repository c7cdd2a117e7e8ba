"""What loading the library does: nothing, or, where the replica is named already, all that its first query waits for."""

import os
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.hosts import COMMANDS, EXTENSION, HostError, helpers, host, uri
from tests.support.replicating import eventually
from tests.support.s3_stub import answer, refused_port, stub
from tests.test_vfs.origin import Origin

COUNT = "SELECT count(*) AS n FROM t"
NAMED = "file:///my.db?vfs=litestream"
IDLE_S = 10
"""How long a helper stays without clients."""


def test_without_a_name_nothing_is_started(source: Origin, runtime: Path) -> None:
    with host("python3", runtime) as program:
        program.open(":memory:")
        assert program.sql("SELECT 1") == [[1]]
        assert helpers(runtime) == []
        assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_helper_of_a_named_replica_runs_and_stays_as_long_as_the_program(
    name: str, source: Origin, runtime: Path
) -> None:
    with host(name, runtime, LITESTREAM_REPLICA_URL=source.url) as program:
        [there] = helpers(runtime)
        if name == "python3":
            time.sleep(IDLE_S + 2)
        program.open(NAMED)
        assert [[int(number)] for (number,) in program.sql(COUNT)] == [[3000]]
        assert helpers(runtime) == [there]
        os.kill(there, signal.SIGKILL)
        assert [[int(number)] for (number,) in program.sql(COUNT)] == [[3000]]


def test_of_a_storage_that_is_far_nothing_is_asked_before_it_is_opened(runtime: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with stub([answer(403, code="InvalidAccessKeyId")]) as server:
        url = f"s3://bucket/app?endpoint={server.endpoint}&region=us-east-1"
        with host("python3", runtime, LITESTREAM_REPLICA_URL=url, **keys) as program:
            assert len(helpers(runtime)) == 1
            program.open(":memory:")
            assert program.sql("SELECT 1") == [[1]]
            assert server.requests == []
            with pytest.raises(HostError, match="InvalidAccessKeyId"):
                program.open(NAMED)
            assert server.requests


@pytest.mark.parametrize(
    ("python", "told"), [("/no/such/python", "/no/such/python"), ("/usr/bin/python3", "No module named")]
)
def test_loading_works_where_opening_does_not(python: str, told: str, source: Origin, runtime: Path) -> None:
    wrong = {"LITESTREAM_REPLICA_URL": source.url, "LITESTREAM_PYTHON": python}
    with host("python3", runtime, **wrong) as program:
        program.open(":memory:")
        assert program.sql("SELECT 1") == [[1]]
        with pytest.raises(HostError, match=told):
            program.open(NAMED)
        program.open(":memory:", "own")
        assert program.sql("SELECT 1", "own") == [[1]]


def test_an_empty_folder_is_refused_when_it_is_opened_and_read_when_there_is_something(
    tmp_path: Path, source: Origin, runtime: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with host("python3", runtime, LITESTREAM_REPLICA_URL=f"file://{empty}") as program:
        with pytest.raises(HostError, match="empty"):
            program.open(NAMED)
        empty.rmdir()
        Path(source.url.removeprefix("file://")).rename(empty)
        program.open(NAMED)
        assert program.sql(COUNT) == [[3000]]


def test_what_is_loaded_late_is_there(runtime: Path) -> None:
    """`urllib` needs `ipaddress` for this address, which a helper does not load at its start."""
    port = refused_port().rpartition(":")[2]
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    url = f"s3://bucket/app?endpoint=http://[::1]:{port}&region=us-east-1"
    with host("python3", runtime, **keys) as program, pytest.raises(HostError) as refused:
        program.open(uri(url, timeout="1"))
    assert "did not answer within 1 s" in str(refused.value) or "refused" in str(refused.value).lower()


def test_signals_do_not_end_the_wait(source: Origin, runtime: Path) -> None:
    program = """
import signal, sqlite3, sys
db = sqlite3.connect(":memory:")
db.enable_load_extension(True)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
db.load_extension(sys.argv[1])
signal.setitimer(signal.ITIMER_REAL, 0)
print("loaded", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", program, EXTENSION],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "LITESTREAM_REPLICA_URL": source.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "loaded\n"
        [there] = helpers(runtime)
        assert Path(f"/proc/{there}/fd/2").readlink() == Path("/dev/null"), "it was ready"


def test_nothing_is_fetched_before_it_is_opened_whatever_the_environment_wants(
    source: Origin, runtime: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.db"
    wanted = {"LITESTREAM_HYDRATION_ENABLED": "1", "LITESTREAM_HYDRATION_PATH": str(whole)}
    with host("python3", runtime, LITESTREAM_REPLICA_URL=source.url, **wanted) as program:
        time.sleep(0.5)
        assert not whole.exists()
        program.open(NAMED)
        assert program.sql(COUNT) == [[3000]]
        eventually(whole.exists, seconds=20)


@pytest.mark.parametrize("url", ["s3://bucket/app?region=us-east-1", ""])
def test_a_helper_holds_no_folder_of_the_program(url: str, source: Origin, runtime: Path) -> None:
    with host("python3", runtime, LITESTREAM_REPLICA_URL=url or source.url):
        [there] = helpers(runtime)
        assert Path(f"/proc/{there}/cwd").readlink() == Path("/")


@pytest.mark.parametrize("length", [66, 67, 68, 69, 70, 90])
def test_a_runtime_folder_may_have_a_name_of_any_length(length: int, source: Origin) -> None:
    """The name of a socket may not; beyond that the helper's is in another place."""
    with TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short, "r" * (length - len(short) - 1))
        folder.mkdir(mode=0o700)
        assert len(str(folder)) == length
        with host("python3", folder, LITESTREAM_REPLICA_URL=source.url) as program:
            program.open(NAMED)
            assert program.sql(COUNT) == [[3000]]
            [there] = helpers(folder)
        os.kill(there, signal.SIGKILL)
