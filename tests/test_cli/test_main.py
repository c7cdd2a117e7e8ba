"""What all commands share: help, exit codes, errors in one line, terminals, pipes, signals, and what is imported."""

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

import ltx
from ltx import cli as command_line
from ltx.cli.app import app
from tests.test_cli.conftest import LTX, ROOT, LTXProcess, Replicated

COMMANDS = sorted(str(command.name) for command in app.registered_commands)


def test_the_commands_there_are() -> None:
    assert {"list", "replicate", "restore", "verify"} <= {*COMMANDS}


def test_version(cli: LTX) -> None:
    assert cli("--version") == (0, f"ltx {ltx.__version__}\n", "")


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_shows_examples(cli: LTX, words: list[str]) -> None:
    found = cli(*words, "--help")
    assert (found.code, found.err) == (0, "")
    examples = re.findall(r"^ {4}(ltx .*)$", found.out.partition("Examples:")[2], re.MULTILINE)
    assert examples
    assert all(example.split()[1] in COMMANDS for example in examples)
    assert cli(*words, "-h").out == found.out


def test_the_program_and_the_module_are_one(cli_process: LTXProcess, place: Path) -> None:
    with cli_process("--version") as module:
        assert module.communicate()[0] == f"ltx {ltx.__version__}\n"
    scripts = (ROOT / "pyproject.toml").read_text()
    assert 'ltx = "ltx.cli:main"' in scripts
    assert callable(command_line.main)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no command was given"),
        (["bogus"], "there is no command 'bogus'; see 'ltx --help'"),
        (
            ["repliacte"],
            "there is no command 'repliacte': did you mean 'ltx replicate'? 'ltx --help' says more",
        ),
        (["wal", "app.db"], "there is no command 'wal': did you mean 'ltx list'?"),
        (["replicate", "app.db"], "app.db needs a replica: name its URL"),
        (
            ["replicate", "a.db", "b", "--sync-interval", "soon"],
            "seconds, or such as 500ms, 5s or 1m30s; not 'soon'",
        ),
        (["replicate", "a.db", "b", "--sync-interval", "-1s"], "not '-1s'"),
        (["restore", "a", "-o", "b", "-f", "--follow-interval", "0"], "--follow-interval is at least 10ms"),
        (["list"], "missing argument 'URL'; see 'ltx list --help'"),
        (["list", "a", "b"], "got unexpected extra argument"),
        (["list", "a", "--bogus"], "no such option"),
        (["restore", "a"], "missing option '--output' / '-o'"),
        (["list", "bogus://a"], "no backend for bogus://"),
        (["list", "a", "--storage-option", "x=1"], "a folder takes no options: x"),
        (["list", "a", "--storage-option", "x"], "--storage-option takes KEY=VALUE"),
        (["list", "a", "--storage-option", "=x"], "--storage-option takes KEY=VALUE"),
        (["list", "a", "--storage-option", "x:=y"], "is not followed by JSON"),
        (["list", "a", "--storage-option", "url=y"], "cannot be called url"),
        (["list", "file:///a?b"], "takes no query"),
        (["list", ""], "names no folder"),
        (["list", "s3//bucket/app"], "did you mean s3://bucket/app?"),
        (["replicate", ".", "b"], ". is a folder: name the database in it"),
        (["replicate", "--once", ".", "b"], ". is a folder: name the database in it"),
        (["list", "--config", "litestream.yml"], "name one of its databases after --config FILE"),
        (["replicate", "a.db", "memory://m"], "this command's own memory, and gone when it ends"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: LTX, place: Path, words: list[str], said: str) -> None:
    found = cli(*words)
    assert found.code == 2
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert found.err.startswith("ltx: ")
    assert said in found.err


@pytest.mark.parametrize("word", ["-force", "-timestamp", "-config=x.yml", "-if-replica-exists"])
def test_one_dash_is_not_taken_for_many_short_options(cli: LTX, replica: Replicated, word: str) -> None:
    """`-force` would be `-f -o rce`: a copy that follows, in a file of that name."""
    before = sorted(os.listdir())
    found = cli("restore", "replica", "-o", "out.db", word)
    assert found.code == 2
    name = word.partition("=")[0]
    assert f"options have two dashes: write -{name} instead of {name}; see 'ltx" in found.err
    assert sorted(os.listdir()) == before
    assert cli("restore", "replica", "-oout.db").code == 0


def test_replicate_without_anything_asks_for_what(
    cli: LTX, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.delenv("LITESTREAM_CONFIG", raising=False)
    monkeypatch.setattr("ltx.replication.config.reader.DEFAULT_PATH", str(place / "none.yml"))
    found = cli("replicate")
    assert found.code == 2
    assert found.err.startswith(
        "ltx: what is to be replicated? Name a database and its replica, as in 'ltx replicate"
    )
    assert found.err.endswith(f"there is no {place}/none.yml\n")


def test_every_error_line_says_what_to_do(cli: LTX, replica: Replicated) -> None:
    replica.file(2).unlink()
    for words in (
        ["restore", "replica", "-o", "out.db"],
        ["restore", "nothing", "-o", "out.db"],
        ["restore", "replica", "-o", "app.db"],
        ["restore", "replica", "-o", "no/such/folder"],
        ["restore", "replica", "-o", "out.db", "--timestamp", "2001-01-01"],
        ["verify", "replica"],
        ["replicate", "--once", "gone.db", "replica"],
    ):
        found = cli(*words)
        assert found.code == 1
        assert found.err.count("\n") == 1
        assert re.search(r"; |: (?:check|make|use|ask) ", found.err), found.err


SECRET = "hunter2/+secret"


@pytest.mark.parametrize(
    "words",
    [
        ["list", f"bogus://user:{SECRET}@host/app"],
        ["list", f"s3://key:{SECRET}@bucket/app?accessKeyId={SECRET}&bogus={SECRET}"],
        ["list", f"webdav://user:{SECRET}@127.0.0.1:1/app", "--bogus"],
        ["list", "replica", "--storage-option", f"secret={SECRET}"],
        ["list", "replica", f"--storage-option={SECRET}={SECRET}"],
        ["list", "replica", "--storage-option", f'client:={{"a": "{SECRET}"}}'],
        ["list", "replica", "--storage-option", f"client:={{{SECRET}"],
        ["list", "replica", f"s3://user:{SECRET}@bucket"],
        ["replicate", "--once", f"s3://user:{SECRET}@bucket", "replica"],
        ["restore", f"bogus://h/app?token={SECRET}", "-o", "out.db", "--timestamp", "now"],
    ],
)
def test_no_secret_is_printed(cli: LTX, place: Path, words: list[str]) -> None:
    found = cli(*words)
    assert found.code
    assert found.err
    assert SECRET not in found.out + found.err
    assert "hunter2" not in found.out + found.err


def test_a_backend_that_tells_a_secret_is_not_believed(
    cli: LTX, replica: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"bad gateway for {SECRET}")

    monkeypatch.setattr(ltx.Replica, "open", fail)
    found = cli("list", "replica", "--storage-option", f"token={SECRET}")
    assert found.code == 1
    assert found.err == (
        "ltx: an error in this program, RuntimeError: bad gateway for ***; set LTX_DEBUG=1 to see where, and please "
        "report it\n"
    )


def test_debugging_raises(cli: LTX, replica: Replicated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX_DEBUG", "1")
    with pytest.raises(ltx.NoSnapshotError):
        cli("restore", "nothing", "-o", "out.db")


HEAVY = ("numpy", "dateparser", "fsspec", "s3fs", "aiobotocore", "boto3", "rich", "asyncio", "ssl", "vfs")


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["restore", "replica", "-o", "a.db", "--timestamp", "2100-01-01T00:00:00Z", "--dry-run"], []),
        (["restore", "replica", "-o", "a.db", "--integrity-check", "quick"], []),
        (["list", "replica"], []),
        (["verify", "replica"], []),
        (["replicate", "--once", "app.db", "other"], ["numpy"]),
    ],
)
def test_nothing_heavy_is_imported_for_a_folder(
    replica: Replicated, words: list[str], allowed: list[str]
) -> None:
    program = (
        "import json, sys; from ltx.cli import main; main(sys.argv[1:]); "
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert set(json.loads(found.stdout.splitlines()[-1])) <= set(allowed)


def test_memory_stays_low(place: Path, cli_process: LTXProcess) -> None:
    """Far below the 80 MB that the benchmark allows for any size of database; here on 24 MB."""
    with sqlite3.connect("app.db") as database:
        database.execute("CREATE TABLE t (x BLOB)")
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) "
            "INSERT INTO t SELECT randomblob(4000) FROM n"
        )
    database.close()
    code = (  # ru_maxrss would be that of pytest, whose child this is
        "import re, sys; from ltx.cli import main; code = main(sys.argv[1:]); "
        "print(code, re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    for words in (["replicate", "--once", "app.db", "replica"], ["restore", "replica", "-o", "out.db"]):
        with cli_process(*words, code=code) as process:
            done, peak = process.communicate()[0].splitlines()[-1].split()
        assert done == "0"
        assert int(peak) < 80 * 1024
    assert Path("out.db").stat().st_size > 24_000_000


def test_a_reader_that_goes_away_is_no_error(cli_process: LTXProcess, replica: Replicated) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with cli_process("list", "replica", "--json", stdout=write_end) as process:
        os.close(write_end)
        assert process.communicate()[1] == ""
    assert process.returncode == 141


def test_results_that_cannot_be_written_are_an_error(cli_process: LTXProcess, replica: Replicated) -> None:
    with Path("/dev/full").open("w") as full, cli_process("list", "replica", stdout=full) as process:
        said = process.communicate()[1]
    assert process.returncode == 1
    assert said == "ltx: No space left on device; free some space, then run it again\n"


def test_a_full_disk_leaves_nothing_behind(cli_process: LTXProcess, replica: Replicated) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    before = sorted(os.listdir())
    with cli_process("restore", "replica", "-o", "out.db", preexec_fn=limit) as process:
        out, said = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert said.startswith(f"ltx: File too large: {os.getcwd()}; ")
    assert said.count("\n") == 1
    assert sorted(os.listdir()) == before


SLOW = """
import os, sys, time
from backends.local import LocalBackend
from ltx.cli import main
def wait(*_):
    os.write(1, b"ready\\n")
    time.sleep(30)
LocalBackend.get = LocalBackend.get_ranges = wait
sys.exit(main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "command", ["list --header-times", "restore -o out.db", "verify", "replicate --once app.db"]
)
def test_a_signal_ends_a_command_soon_and_leaves_nothing_behind(
    cli_process: LTXProcess, replica: Replicated, command: str, number: int, code: int
) -> None:
    """A storage that does not answer holds nobody up, and no temporary file stays."""
    before = sorted(os.listdir())
    with cli_process(*command.split(), "replica", code=SLOW) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        sent = time.monotonic()
        process.send_signal(number)
        err = process.communicate()[1]
    assert time.monotonic() - sent < 10
    assert process.returncode == code
    assert err == ("ltx: interrupted; run it again when you like\n" if code == 130 else "")
    assert sorted(os.listdir()) == before


EARLY = """
import os, runpy, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
program, sys.argv = sys.argv[1], ["-m", *sys.argv[1:]]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("program", "loading"),
    [
        ("ltx", "ltx.cli.app"),
        ("ltx", "typer"),
        ("ltx", "backends"),
        ("vfs", "vfs.connection"),
        ("vfs", "typer"),
    ],
)
def test_ctrl_c_while_a_program_is_loaded_is_one_line(
    cli_process: LTXProcess, program: str, loading: str
) -> None:
    with cli_process(program, loading, code=EARLY) as process:
        out, err = process.communicate()
    assert (process.returncode, out, err) == (
        130,
        "",
        f"{program}: interrupted; run it again when you like\n",
    )


def on_terminal(process: LTXProcess, *words: str, stream: str, columns: int = 100) -> tuple[str, str]:
    """Run a command with one of its streams on a terminal; return what that and the other one got."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    with process(*words, **{stream: theirs}) as running:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end was closed
                break
            if not piece:
                break
            seen += piece
        other = running.communicate()[0 if stream == "stderr" else 1]
    os.close(ours)
    assert running.returncode == 0
    return seen.decode(), other


def test_a_listing_fits_80_columns(
    cli_process: LTXProcess, replica: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    os.truncate(replica.file(2), 123_456_789)
    seen, _ = on_terminal(cli_process, "list", "replica", stream="stdout", columns=80)
    rows = [line for line in seen.splitlines() if "0000" in line]
    assert len(rows) == 3
    assert re.search(r"0000000000000002 +123,456,789 +20\d\d-\d\d-\d\dT[0-9:.]{12}Z", rows[1])


def test_no_line_has_what_only_programmers_know(cli: LTX, replica: Replicated) -> None:
    """Numbers of errors, Python's classes, bytes as Python writes them."""
    replica.file(1).write_bytes(b"\xb3" * 200)
    for words in (
        ["list", "ftp://127.0.0.1:1/x"],
        ["list", "sftp://127.0.0.1:1/x"],
        ["list", "replica", "--header-times"],
        ["replicate", "--no-upkeep", "app.db", "copy", "--metrics", "127.0.0.1:99999"],
    ):
        found = cli(*words)
        assert found.code == 1
        assert not re.search(r"Errno|Error\b|None|b'|\(\)|\.;", found.err), found.err


def test_tables_are_drawn_on_a_terminal_only(
    cli_process: LTXProcess, replica: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    seen, _ = on_terminal(cli_process, "list", "replica", stream="stdout")
    assert "─" in seen
    assert "0000000000000002" in seen
    seen, _ = on_terminal(cli_process, "list", "replica", "--json", stream="stdout")
    assert len(json.loads(seen)) == 3


def test_bars_are_drawn_on_a_terminal_only(
    cli_process: LTXProcess, replica: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for words, label in (
        (["restore", "replica", "-o", "out.db"], "restoring"),
        (["verify", "replica"], "verifying"),
        (["replicate", "--once", "app.db", "other"], "comparing"),
    ):
        bar, result = on_terminal(cli_process, *words, stream="stderr")
        assert label in bar
        assert "\x1b[" in bar
        assert "\x1b[" not in result
        assert result.count("\n") >= 1


def test_options_of_a_storage_reach_it(cli: LTX, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def take(url: str, **options: object) -> None:
        given.update(options, at=url)
        raise ltx.ReplicaError("enough")

    monkeypatch.setattr(ltx.Replica, "open", take)
    cli(
        "list",
        "s3://b/a",
        "--storage-option",
        "key=a=b",
        "--storage-option",
        'client_kwargs:={"x": [1, true]}',
    )
    assert given == {"at": "s3://b/a", "key": "a=b", "client_kwargs": {"x": [1, True]}}


def test_completion_is_typers(cli_process: LTXProcess, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("_LTX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ltx re")
    monkeypatch.setenv("COMP_CWORD", "1")
    with cli_process() as process:
        assert {"replicate", "restore"} <= {*process.communicate()[0].split()}
    assert typer.main.get_command(app).name == "ltx"


def test_what_the_system_does_not_allow_is_no_matter_of_credentials(
    replica: Replicated, database: Path, place: Path
) -> None:
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    python = [*drop, sys.executable, "-m", "ltx"]
    (place / "secret.db").write_bytes(database.read_bytes())
    (place / "closed").mkdir()
    for path in ("secret.db", "closed"):
        (place / path).chmod(0)
    for words, said in (
        (
            ["list", f"file://{place}/closed"],
            f"not allowed by the system: {place}/closed; check who may read",
        ),
        (
            ["replicate", "--once", "secret.db", "new"],
            "secret.db cannot be opened: this user may not read it; check",
        ),
        (["restore", "replica", "-o", "closed/out.db"], "; check who may read and write there"),
    ):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        found = subprocess.run([*python, *words], env=environment, capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (1, "")
        assert said in found.stderr
        assert "credentials" not in found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--exec", "no-such-program x"],
            "cannot be run: No such file or directory: no-such-program; check its name",
        ),
        (["--metrics", "127.0.0.1:99999"], "metrics cannot be served at 127.0.0.1:99999: "),
    ],
)
def test_what_cannot_begin_is_named(
    cli_process: LTXProcess,
    database: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    with cli_process("replicate", "app.db", "replica", *words) as process:
        last = process.communicate(timeout=40)[1].splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("ltx: ")
    assert said in last
    assert "; c" in last
