"""The C files: no warnings, no errors of memory, and nothing that they bring into a host but what they say."""

import json
import os
import signal
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from tests.support.hosts import DRIVERS, EXTENSION, ROOT, helpers, uri
from tests.test_vfs.origin import Origin

SOURCES = sorted((ROOT / "vfs/extension").glob("*.c"))


def compiled(folder: Path, name: str, *words: str) -> Path:
    made = folder / name
    found = subprocess.run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-o", made, *words],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return made


@pytest.mark.parametrize("optimised", ["-O0", "-O2"])
def test_the_c_files_compile_without_warnings(optimised: str, tmp_path: Path) -> None:
    compiled(tmp_path, "litestream.so", optimised, "-shared", "-fPIC", "-pthread", *map(str, SOURCES), "-ldl")


def test_nothing_but_the_entry_points_is_exported_and_sqlite_is_not_linked() -> None:
    names = subprocess.run(["nm", "-D", "--defined-only", EXTENSION], capture_output=True, text=True).stdout
    assert {line.split()[-1] for line in names.splitlines()} == {
        "sqlite3_extension_init",
        "sqlite3_litestream_init",
        "sqlite3_litestreamvfs_init",
    }
    needed = subprocess.run(["readelf", "-d", EXTENSION], capture_output=True, text=True).stdout
    assert "NEEDED" in needed
    assert "sqlite" not in needed
    assert "python" not in needed


@pytest.mark.parametrize("named", [False, True], ids=["named when opened", "named before loading"])
def test_valgrind_finds_nothing(named: bool, source: Origin, runtime: Path, tmp_path: Path) -> None:
    library = Path(json.loads(_where_is(find_library("sqlite3") or "")))
    headers = f"-I{ROOT}/vfs/extension/sqlite"
    program = compiled(tmp_path, "host", headers, str(DRIVERS / "host.c"), str(library))
    time = source.times[source.newest].isoformat()
    source.commit("DELETE FROM t WHERE id > 2000")
    words = [
        str(EXTENSION),
        uri(source.url, poll_interval="0", cache_size="700000"),
        uri(f"file://{tmp_path}/empty"),
        "SELECT count(*), sum(length(body)) > 0 FROM t",
        f"SELECT litestream_set_time('{time}')",
        "SELECT count(*), sum(length(body)) > 0 FROM t",
        "SELECT litestream_txid(), litestream_lag() >= 0, litestream_error()",
        f"ATTACH '{uri(source.url)}' AS other",
        "SELECT count(*) FROM other.t",
    ]
    checks = ["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", "--quiet"]
    found = subprocess.run(
        ["valgrind", *checks, program, *words],
        env={
            **os.environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "LITESTREAM_REPLICA_URL": source.url if named else "",
        },
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    *answers, refusal = found.stdout.splitlines()
    assert answers == ["2000|1", "", "3000|1", "0000000000000001|1|", "2000"]
    assert "no LTX files lie at" in refusal


def test_a_child_that_is_forked_while_the_library_is_loaded_holds_nobody_up(
    source: Origin, runtime: Path, tmp_path: Path
) -> None:
    """It would have the lock, the socket of the helper and the pipe by which it tells that it is ready."""
    library = Path(json.loads(_where_is(find_library("sqlite3") or "")))
    headers = f"-I{ROOT}/vfs/extension/sqlite"
    program = compiled(tmp_path, "forking", headers, "-pthread", str(DRIVERS / "forking.c"), str(library))
    for place, after_us in enumerate((300, 600, 900, 1200, 1600, 2200, 3000)):
        folder = runtime / str(place)
        folder.mkdir(mode=0o700)
        found = subprocess.run(
            [program, EXTENSION, str(after_us)],
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "LITESTREAM_REPLICA_URL": source.url},
            capture_output=True,
            text=True,
            timeout=50,
        )
        for each in helpers(folder):
            os.kill(each, signal.SIGKILL)
        assert found.returncode == 0, found
        loaded_ms, opened_ms, rows = map(int, found.stdout.split())
        assert rows == 3000
        assert loaded_ms < 1900, f"forked after {after_us} us"  # the helper is waited for 2 s at most
        assert opened_ms < 5000, f"forked after {after_us} us"


def _where_is(name: str) -> str:
    """Return the path under which a library is loaded, as JSON."""
    program = (
        "import ctypes, json, sys; ctypes.CDLL(sys.argv[1]); "
        "print(json.dumps(next(line.split()[-1] for line in open('/proc/self/maps') if sys.argv[1] in line)))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, check=True
    ).stdout
