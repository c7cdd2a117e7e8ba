"""A minute of everything at once; `python -m bench.soak --seconds 3600` is the long form."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(200)
def test_four_writers_checkpoints_kills_and_upkeep_lose_nothing() -> None:
    seed = str(time.time_ns() % 1_000_000)
    command = [sys.executable, "-m", "bench.soak", "--seconds", "60", "--seed", seed]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, f"seed {seed}: {found.stdout}{found.stderr[-2000:]}"
    assert "sound: True" in found.stdout
