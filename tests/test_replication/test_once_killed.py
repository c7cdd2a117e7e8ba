"""A run that is killed at any step leaves a replica that gives the state before or after it, and the next run goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.databases import make
from tests.support.killing import SCENARIOS, run
from tests.support.replicas import Case


def kill(folder: Path, scenario: str, moments: str) -> int:
    """Let the program kill runs and check what they left; return how many it killed."""
    command = [sys.executable, "-m", "tests.support.killing", str(folder), scenario, moments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0] if moments == "each" else done.stdout.split()[2])


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_killed_before_each_call_to_the_system(scenario: str, tmp_path: Path) -> None:
    assert kill(tmp_path, scenario, "each") > 30


@pytest.mark.parametrize("scenario", ["first_run", "increment"])
def test_killed_at_random_moments(scenario: str, tmp_path: Path) -> None:
    assert kill(tmp_path, scenario, "random") == 8


def test_what_counts_is_durable_first_and_our_state_follows_the_replica(tmp_path: Path) -> None:
    case = Case(tmp_path)
    make(case.database)
    calls: list[str] = []
    assert run(case, lambda call: calls.append(call.rpartition(":")[0]))
    steps = ["fsync at local.py", "link at local.py", "fsync at table.py", "replace at table.py"]
    places = [calls.index(step) for step in steps]
    assert places == sorted(places)
    assert "fsync at local.py" in calls[places[1] :]  # the folder, after the link
    assert "fsync at sqlite.py" in calls[places[3] :]
