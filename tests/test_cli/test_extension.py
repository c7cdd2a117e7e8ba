"""`ltx extension`: where the SQLite extension lies, or why it lies nowhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.hosts import EXTENSION, ROOT


def ltx(*words: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ltx", *words],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_it_prints_the_path_or_the_folder() -> None:
    assert (found := ltx("extension")).returncode == 0
    assert Path(found.stdout.strip()) == EXTENSION
    assert ltx("extension", "--dir").stdout == f"{EXTENSION.parent}\n"


def test_without_a_compiler_it_says_what_is_missing(tmp_path: Path) -> None:
    for package in ("ltx", "backends", "vfs"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    found = ltx("extension", path=tmp_path)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "install a C compiler" in found.stderr
    assert "Traceback" not in found.stderr
