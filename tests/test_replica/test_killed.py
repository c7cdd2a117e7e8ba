"""A restore killed at any moment leaves the old database whole, or the new one, and the next restore succeeds."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_replica.killed_restores import CASES

ROOT = Path(__file__).parents[2]

LEFT = {
    "new": {"none", "new"},
    "new beside stale files": {"none", "new"},
    "over one at rest": {"old: old", "new"},
    "over one with a WAL": {"old: only in the log", "new"},
    "over one with a hot journal": {"old: old", "new"},
    "over plain text": {"old", "new"},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_before_any_call_a_restore_leaves_a_whole_database(tmp_path: Path, case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_replica.killed_restores", tmp_path, case],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = ast.literal_eval(done.stdout)
    print(found)
    assert set(found) == LEFT[case] | {"done"}
    assert sum(found.values()) > 30
