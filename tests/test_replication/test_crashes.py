"""Killed at every step of its work, or out of disk, beside an application that goes on or dies: nothing is lost."""

import re
from collections.abc import Mapping
from subprocess import Popen

import pytest

LEAST_STEPS = 600


@pytest.mark.timeout(600)
def test_something_happens_at_every_step_of_the_work_and_nothing_is_lost(
    matrix: Mapping[str, "Popen[str]"],
) -> None:
    """All that can happen: it began when the tests did."""
    for kind, process in matrix.items():
        told, errors = process.communicate(timeout=580)
        print(told)
        assert process.returncode == 0, errors[-3000:]
        found = re.search(rf"^{kind}: (\d+) of (\d+) steps", told, re.MULTILINE)
        assert found, told
        assert found[1] == found[2]
        assert int(found[2]) >= LEAST_STEPS
