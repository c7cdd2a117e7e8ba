"""A disk that is full or fails leaves the old database whole, and nothing half."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.local import LocalBackend
from backends.memory import MemoryBackend
from ltx import Replica
from tests.test_replica.histories import History
from tests.test_replica.old_databases import kill_a_writer, rows

HISTORY = History.random(12, seed=5)
ROOT = Path(__file__).parents[2]

_RESTORE_WITHIN = """
import resource, sys
import ltx
size, url, output, force = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "force"
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    ltx.Replica.open(url).restore(output, force=force)
except OSError as error:
    print(type(error).__name__, error.errno)
else:
    print("restored")
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    with LocalBackend(tmp_path / "replica") as backend:
        HISTORY.put_all(backend)
    return f"file://{tmp_path}/replica"


def restore_within(size: int, url: str, output: Path, *, force: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _RESTORE_WITHIN, str(size), url, output, "force" if force else ""],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("size", [0, 100, 512, 1000])
def test_a_file_that_may_not_grow_any_further_leaves_nothing(tmp_path: Path, url: str, size: int) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    assert restore_within(size, url, folder / "app.db", force=False) == f"OSError {errno.EFBIG}"
    assert list(folder.iterdir()) == []
    assert restore_within(1 << 20, url, folder / "app.db", force=False) == "restored"


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_file_that_may_not_grow_any_further_leaves_the_old_database(
    tmp_path: Path, url: str, journal_mode: str
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    path = kill_a_writer(folder / "app.db", journal_mode)
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    assert restore_within(512, url, path, force=True) == f"OSError {errno.EFBIG}"
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    assert rows(path)[0] == "old"


@pytest.mark.parametrize("call", ["open", "pwritev", "ftruncate", "fsync", "fchmod", "unlink", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_call_that_finds_the_disk_full_leaves_the_old_database(
    backend: MemoryBackend,
    replica: Replica,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
) -> None:
    HISTORY.put_all(backend)
    path = kill_a_writer(tmp_path / "app.db", "wal")
    real: Callable[..., object] = getattr(os, call)
    calls = 0

    def failing(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        try:
            replica.restore(path, force=True)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
            failed = True
        else:
            failed = False
    assert failed == (calls >= number)
    if failed and path.read_bytes() != HISTORY.state(12):
        assert rows(path) == ["old", "only in the log"]
    else:
        assert path.read_bytes() == HISTORY.state(12)
        assert not Path(f"{path}-wal").exists()
    replica.restore(path, force=True)
    assert path.read_bytes() == HISTORY.state(12)
