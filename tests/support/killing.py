"""Kill a run of `replicate_once` with SIGKILL before each of its calls to the system, or at random moments.

Run as a program, `python -m tests.support.killing FOLDER SCENARIO each|random`, since it forks: it prints what it did, and
raises when something is not as promised.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from io import IOBase
from pathlib import Path
from random import Random
from types import FrameType

from ltx import Published, replicate_once
from tests.support.databases import connected, fill, image, make, side_files
from tests.support.replicas import Case

__all__ = ["SCENARIOS", "run"]

_SYSTEM_CALLS = {
    "close", "flock", "flush", "fsync", "ftruncate", "link", "mkdir", "open", "pwrite", "remove", "rename",
    "replace", "rmdir", "seek", "truncate", "unlink", "utime", "write", "writelines",
}  # fmt: skip


def first_run(case: Case) -> None:
    """Nothing was published yet."""


def increment(case: Case) -> None:
    case.run()


def lost_sidecar(case: Case) -> None:
    case.run()
    case.sidecar.unlink()


def snapshot(case: Case) -> None:
    """A hole in the replica, which only a snapshot of level 9 heals."""
    case.run()
    _change(case)
    case.run()
    (case.root / case.published[0].key).unlink()


SCENARIOS = (first_run, increment, lost_sidecar, snapshot)


def _change(case: Case) -> None:
    with connected(case.database) as db:
        db.execute("UPDATE t SET a = a + 1 WHERE id = 1")
        fill(db, 8)


class _Scenario:
    """What each run begins with: a database with a WAL that nobody has open, and its replica.

    It is always at the same path, since the state beside the database knows the replica by its path.
    """

    def __init__(self, folder: Path, prepare: Callable[[Case], None], rows: int) -> None:
        self.kept = folder / "kept"
        self.case = Case(folder / "case")
        self.case.folder.mkdir()
        make(self.case.database, page_size=512, rows=rows)
        prepare(self.case)
        with connected(self.case.database) as db:
            db.execute("UPDATE t SET a = a + 1 WHERE id = 2")
            fill(db, rows)
            shutil.copytree(self.case.folder, self.kept)
        self.sides = side_files(self.kept / self.case.name)
        self.old = self.case.restored_or_none()
        self.new = image(self.case.database)

    def again(self) -> Case:
        """Return the case as it was."""
        shutil.rmtree(self.case.folder)
        shutil.copytree(self.kept, self.case.folder)
        return self.case


def run(case: Case, before_call: Callable[[str], None]) -> Published | None:
    """Replicate, calling a function before each call to the system."""

    def profile(frame: FrameType, event: str, called: object) -> None:
        if event == "c_call":
            name = getattr(called, "__name__", "")
            owner = getattr(called, "__self__", None)
            module = getattr(called, "__module__", "")
            if name in _SYSTEM_CALLS and (isinstance(owner, IOBase) or module in ("posix", "_io", "fcntl")):
                before_call(f"{name} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}")

    sys.setprofile(profile)
    try:
        return replicate_once(case.database, case.replica())
    finally:
        sys.setprofile(None)


def _places(case: Case) -> list[tuple[int, str]]:
    """Run once, and return which calls to die before: the first two and the last of each row of the same call."""
    calls: list[str] = []
    assert run(case, calls.append)
    wanted = []
    for place, call in enumerate(calls):
        inside = 2 <= place < len(calls) - 1 and {calls[place - 2], calls[place - 1], calls[place + 1]} == {
            call
        }
        if not inside:
            wanted.append((place, call))
    return wanted


def _child(action: Callable[[], object]) -> int:
    """Fork a child that does something, and return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return child


def _die_before(place: int) -> Callable[[str], None]:
    left = place

    def before_call(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return before_call


def _check_after(scenario: _Scenario, what: str) -> bool:
    """Hold a killed run to its promises, then run again; return whether the killed one had published."""
    case, old, new = scenario.case, scenario.old, scenario.new
    assert side_files(case.database) == scenario.sides, what
    found = case.restored_or_none()
    assert found in (old, new), what
    again = replicate_once(case.database, case.replica())
    assert (again is None) == (found == new), what
    assert case.restored() == new == image(case.database), what
    assert replicate_once(case.database, case.replica()) is None, what
    with connected(case.database) as db:
        fill(db, 3)
    assert replicate_once(case.database, case.replica()), what
    assert case.restored() == image(case.database), what
    return found == new


def _at_each_call(scenario: _Scenario) -> list[bool]:
    outcomes = []
    for place, call in _places(scenario.again()):
        case = scenario.again()
        child = _child(lambda: run(case, _die_before(place)))  # noqa: B023 - it runs at once
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), call
        outcomes.append(_check_after(scenario, f"killed before call {place}: {call}"))
    assert 0 < sum(outcomes) < len(outcomes)
    return outcomes


def _at_random_moments(scenario: _Scenario, times: int) -> list[bool]:
    choice = Random(seed := time.time_ns() % 1_000_000)
    print(f"seed {seed}")
    started = time.monotonic()
    again = scenario.again()
    replicate_once(again.database, again.replica())
    whole = time.monotonic() - started
    outcomes = []
    for _ in range(times):
        case, delay = scenario.again(), choice.random() * whole
        child = _child(lambda: replicate_once(case.database, case.replica()))  # noqa: B023
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        outcomes.append(_check_after(scenario, f"killed after {delay:.4f} s"))
    return outcomes


def _main(folder: Path, name: str, moments: str) -> None:
    prepare = next(prepare for prepare in SCENARIOS if prepare.__name__ == name)
    if moments == "each":
        outcomes = _at_each_call(_Scenario(folder, prepare, rows=6))
    else:
        outcomes = _at_random_moments(_Scenario(folder, prepare, rows=3000), times=8)
    print(f"{len(outcomes)} kills, {sum(outcomes)} of them after it was published")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
