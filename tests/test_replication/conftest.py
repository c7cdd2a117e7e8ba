"""Begins the crash matrix together with the session: it takes minutes, and the rest of the tests wait for much else.

It gets the processor time that nothing else wants; the test of it, `test_crashes.py`, waits for its end.
"""

import os
import subprocess
import sys
import time

import pytest

from tests.support.crashing import KINDS
from tests.support.replicating import ROOT

Matrix = dict[str, "subprocess.Popen[str]"]
_MATRIX = pytest.StashKey[Matrix]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin it where its test is to be run."""
    if session.config.option.collectonly or not any(
        item.path.name == "test_crashes.py" for item in session.items
    ):
        return
    seed = str(time.time_ns() % 1_000_000)
    begun: Matrix = {kind: _begin(kind, seed) for kind in KINDS}
    session.config.stash[_MATRIX] = begun


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing behind."""
    for process in session.config.stash.get(_MATRIX, {}).values():
        process.kill()
        process.communicate()


@pytest.fixture
def matrix(pytestconfig: pytest.Config) -> Matrix:
    """Everything that can happen, each in a process of its own."""
    return pytestconfig.stash[_MATRIX]


def _begin(kind: str, seed: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.crashes", "--kinds", kind, "--seed", seed],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if sys.platform == "linux":
        os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
    return process
