"""Killed at every step of its work, or out of disk, beside an application that goes on or dies: nothing is lost."""

import os
import re
import subprocess
import sys
import time

import pytest

from tests.support.crashing import KINDS
from tests.support.replicating import ROOT

LEAST_STEPS = 600


@pytest.mark.timeout(600)
def test_something_happens_at_every_step_of_the_work_and_nothing_is_lost() -> None:
    """All that can happen at once, each in a process of its own: it takes some minutes."""
    seed = str(time.time_ns() % 1_000_000)
    print(f"seed {seed}")
    running = {
        kind: subprocess.Popen(
            [sys.executable, "-m", "bench.crashes", "--kinds", kind, "--seed", seed],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in KINDS
    }
    try:
        for kind, process in running.items():
            told, errors = process.communicate(timeout=580)
            print(told)
            assert process.returncode == 0, errors[-3000:]
            found = re.search(rf"^{kind}: (\d+) of (\d+) steps", told, re.MULTILINE)
            assert found, told
            assert found[1] == found[2]
            assert int(found[2]) >= LEAST_STEPS
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
