"""The Makefile and a virtual environment that somebody made before, as README says: it is used, and nothing in it goes."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def make(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run make with a pip that installs nothing."""
    return subprocess.run(
        ["make", "PIP=true", f"PYTHON={sys.executable}", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what make needs here."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("ltx", "backends", "vfs", "tests", "bench", "docs"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_an_environment_that_is_there_is_used_and_kept(checkout: Path) -> None:
    venv.create(checkout / ".venv", symlinks=True, with_pip=False)
    mine = checkout / ".venv/mine"
    mine.write_text("")
    (checkout / ".venv/bin/python").unlink()
    (checkout / ".venv/bin/python").symlink_to(sys.executable)  # which has a pip
    found = make(checkout, ".venv/.made")
    assert found.returncode == 0, found.stderr
    assert make(checkout, "clean").returncode == 0
    assert mine.exists()
    assert not (checkout / ".venv/.made").exists()


def test_what_is_no_environment_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    found = make(checkout, ".venv/.made")
    assert found.returncode != 0
    assert "move it away, or use another folder" in found.stdout
    assert (checkout / ".venv").exists()


def test_one_that_was_made_here_goes_with_clean(checkout: Path) -> None:
    assert make(checkout, ".venv/.made").returncode == 0
    assert (checkout / ".venv/bin/python").exists()
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()
