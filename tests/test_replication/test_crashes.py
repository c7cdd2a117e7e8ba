"""Killed at any step of its work, or out of disk, beside an application that goes on or dies: nothing is lost."""

import os
import subprocess
import sys
import time

import pytest

from tests.support.crashing import KINDS
from tests.support.replicating import ROOT

_SAMPLE = 35


@pytest.mark.parametrize("kind", KINDS)
def test_something_happens_at_any_step_of_the_work_and_nothing_is_lost(kind: str) -> None:
    """Some steps, by seed; `python -m bench.crashes` takes them all."""
    seed = time.time_ns() % 1_000_000
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.crashes",
            "--kinds",
            kind,
            "--sample",
            str(_SAMPLE),
            "--seed",
            str(seed),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert f"{kind}: {_SAMPLE} of " in done.stdout
