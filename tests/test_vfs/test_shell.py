"""`python -m vfs`: statements, dot commands and standard input; what it prints, and how it ends."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.test_vfs.origin import Origin, origin

MANY = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300000) SELECT x FROM c"

COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    """Two rows, then three."""
    folder = tmp_path_factory.mktemp("shell")
    with origin(folder, f"file://{folder}/replica") as made:
        made.commit("CREATE TABLE t (n, name)", "INSERT INTO t VALUES (1, 'bread'), (2, 'cheese')")
        made.commit("INSERT INTO t VALUES (3, 'ham')")
        yield made


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LITESTREAM_")}
    return {**kept, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100", **variables}


def vfs(*arguments: str, said: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vfs", *arguments],
        input=said if said is not None else "",
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def answer(*arguments: str, said: str | None = None, **variables: str) -> str:
    done = vfs(*arguments, said=said, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refusal(status: int, *arguments: str, said: str | None = None) -> str:
    done = vfs(*arguments, said=said)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_statements_and_dot_commands_run_in_order(source: Origin) -> None:
    assert (
        answer(source.url, "SELECT * FROM t LIMIT 1", ".tables", "SELECT 7; SELECT 8") == "1|bread\nt\n7\n8\n"
    )
    found = answer(source.url, ".mode json", "SELECT n, name FROM t")
    assert json.loads(found) == [
        {"n": 1, "name": "bread"},
        {"n": 2, "name": "cheese"},
        {"n": 3, "name": "ham"},
    ]


def test_standard_input_is_run_and_the_last_statement_needs_no_semicolon(source: Origin) -> None:
    assert answer(source.url, said="SELECT count(*)\nFROM t;\n.mode csv\nSELECT 'a', 2") == "3\na,2\n"
    assert answer(source.url, said="SELECT 9") == "9\n"
    assert answer(source.url, said="SELECT 9 -- nine\n") == "9\n"
    assert answer(source.url, said="") == ""
    assert answer(said="SELECT count(*) FROM t", LITESTREAM_REPLICA_URL=source.url) == "3\n"


def test_times_and_txids_are_visited(source: Origin) -> None:
    count = "SELECT count(*) FROM t"
    assert answer(source.url, "--at", source.times[1].isoformat(), count) == "2\n"
    assert answer(source.url, "--txid", f"{1:016x}", count) == "2\n"
    assert answer(source.url, "--at", "latest", count) == "3\n"
    found = answer(source.url, f"PRAGMA litestream_time = '{source.times[1].isoformat()}'", count)
    assert found.splitlines()[1] == "2"
    assert datetime.fromisoformat(found.splitlines()[0]) == source.times[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELECT * FROM nope"], "no such table: nope\n"),
        (
            ["INSERT INTO t VALUES (1, 2)"],
            "attempt to write a readonly database: a replica answers questions; write to the database itself\n",
        ),
        ([".nosuch"], 'vfs: Unknown command "nosuch".  Enter ".help" for help\n'),
        (
            ["--at", "10 years ago", "SELECT 1"],
            "is before all that is kept; the oldest that can be restored is TXID",
        ),
        (["--storage-option", "a=b", "SELECT 1"], "vfs: a folder takes no options: a\n"),
    ],
)
def test_an_error_is_one_line_and_status_1(arguments: list[str], message: str, source: Origin) -> None:
    error = refusal(1, source.url, *arguments)
    assert message in error
    assert error.count("\n") == 1


def test_an_error_ends_the_run(source: Origin) -> None:
    done = vfs(source.url, "SELECT 1", "SELECT * FROM nope", "SELECT 2")
    assert (done.returncode, done.stdout) == (1, "1\n")
    done = vfs(source.url, said="SELECT 1;\nSELECT * FROM nope;\nSELECT 2;\n")
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert "no such table: nope" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("said", ["SELECT 'open", "SELECT (1", ".nosuch", "SELEC 1;"])
def test_what_is_wrong_on_standard_input_is_told_without_a_traceback(said: str, source: Origin) -> None:
    assert refusal(1, source.url, said=said)


@pytest.mark.parametrize("url", ["memory://nothing", "nosuch://x", "/nowhere/at/all", "s3://"])
def test_a_replica_that_cannot_be_opened_is_one_line_and_status_1(url: str) -> None:
    error = refusal(1, url, "SELECT 1")
    assert error.startswith("vfs: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["URL", "--nosuch"],
        ["URL", "--at", "nonsense", "SELECT 1"],
        ["URL", "--at", "in 5 minutes", "SELECT 1"],
        ["URL", "--txid", "42", "SELECT 1"],
        ["URL", "--txid", "xyz"],
        ["URL", "--at", "now", "--txid", "0000000000000001", "SELECT 1"],
        ["URL", "--poll-interval", "-1"],
        ["URL", "--timeout", "0"],
        ["URL", "--storage-option", "x"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], source: Origin) -> None:
    error = refusal(2, *(source.url if each == "URL" else each for each in arguments))
    assert error.startswith("vfs: ")
    assert error.count("\n") == 1
    assert "python -m vfs --help" in error or "; " in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "", "SELECT 1"], "vfs: not a time: ''"),
        (["--txid", "9", "SELECT 1"], "vfs: a TXID is 16 lower-case hex digits"),
    ],
)
def test_a_moment_that_is_none_is_wrong_usage(arguments: list[str], message: str, source: Origin) -> None:
    error = refusal(2, source.url, *arguments)
    assert message in error
    assert error.count("\n") == 1


def test_help_shows_examples() -> None:
    assert "python -m vfs s3://bucket/app --at '5 minutes ago'" in answer("--help")


@pytest.mark.parametrize("way", ["argument", "input"])
def test_a_reader_that_has_enough_ends_it_quietly(way: str, source: Origin) -> None:
    command = [sys.executable, "-m", "vfs", source.url, *([MANY] if way == "argument" else [])]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        if way == "input":
            process.stdin.write(f"{MANY};\n")
        process.stdin.close()
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 0


def test_an_output_that_cannot_be_written_is_said(source: Origin) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vfs", source.url, MANY],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            timeout=40,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "vfs: the output cannot be written: No space left on device\n",
    )


def test_ctrl_c_ends_a_statement_with_status_130(source: Origin) -> None:
    endless = MANY.replace("LIMIT 300000", "").replace("SELECT x FROM", "SELECT count(*) FROM")
    with subprocess.Popen(
        [sys.executable, "-m", "vfs", source.url, "SELECT 'began'", endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED="1"),
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            assert process.stdout.readline() == "began\n"
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


class Terminal:
    """A shell on a pseudo-terminal."""

    def __init__(self, *arguments: str, home: Path) -> None:
        self.process, self.descriptor = pty.fork()
        if self.process == 0:  # another program takes over at once
            os.environ.update(environment(HOME=str(home)))
            os.execv(sys.executable, [sys.executable, "-m", "vfs", *arguments])
        self.shown = ""

    def wait_for(self, text: str, limit_s: float = 20) -> str:
        """Return what was shown up to and with a text."""
        deadline = time.monotonic() + limit_s
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.shown = COLOURS.sub("", self.shown + os.read(self.descriptor, 10_000).decode())
        found, _, self.shown = self.shown.partition(text)
        return found + text

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def end(self) -> int:
        """Wait for its end and return the status."""
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(self.process, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline, "it goes on"
            time.sleep(0.02)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(ended[1])


@pytest.fixture
def terminal(source: Origin, tmp_path: Path) -> Iterator[Terminal]:
    """A shell that waits for its first command; `shown` begins with its greeting."""
    opened = Terminal(source.url, home=tmp_path)
    try:
        yield opened
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(opened.process, signal.SIGKILL)
            os.waitpid(opened.process, 0)


def test_the_interactive_shell_shows_what_it_is_on_and_takes_commands(
    source: Origin, terminal: Terminal
) -> None:
    intro = terminal.wait_for("sqlite> ")
    assert "TXID 0000000000000002, read-only." in intro
    terminal.type(".tables\n")
    assert terminal.wait_for("sqlite> ").splitlines()[1] == "t"
    terminal.type(".mode csv\n.headers on\nSELECT n, name FROM t\n ORDER BY n DESC LIMIT 1;\n")
    terminal.wait_for("3,ham\r\n")
    terminal.type("SELECT * FROM nope;\n")
    terminal.wait_for("no such table: nope")
    terminal.type(
        f"SELECT litestream_set_time('{source.times[1].isoformat()}'); SELECT 'rows', count(*) FROM t;\n"
    )
    terminal.wait_for("rows,2\r\n")
    terminal.wait_for("sqlite> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_on_a_terminal_ends_the_statement_and_not_the_shell(terminal: Terminal) -> None:
    terminal.wait_for("sqlite> ")
    terminal.type(MANY.replace("LIMIT 300000", "").replace("SELECT x FROM", "SELECT count(*) FROM") + ";\n")
    time.sleep(0.5)
    terminal.type("\x03")
    terminal.wait_for("sqlite> ")
    terminal.type(".mode list\nSELECT 'still', 'here';\n")
    terminal.wait_for("still|here\r\n")
    terminal.wait_for("sqlite> ")
    terminal.type(".exit\n")
    assert terminal.end() == 0
