"""Running a command several times and saying what it took, beside the same work done by another program."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Cost", "compare", "environment", "peer_environment", "run_command"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took: seconds of wall clock, seconds of processor, and peak memory in MiB.

    The peak is never below that of the process that starts the command: keep that one small.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float


def run_command(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end and measure it, its start included.

    Raises:
        RuntimeError: It failed; the message has what it said.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(
            f"{argv[0]} ended with {process.returncode}: {said.decode(errors='replace')[-500:]}"
        )
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def peer_environment() -> dict[str, str]:
    """Return the environment for the real Litestream, which fails on AWS_CA_BUNDLE."""
    return {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}


def compare(
    title: str, ours: Callable[[], Cost], peers: Callable[[], Cost], *, repeats: int, at_most: float
) -> float:
    """Do the same work with both, in turns, and print medians and their ratio.

    Returns:
        Our median wall time as a part of the peer's.
    """
    pairs = [(ours(), peers()) for _ in range(repeats)]
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    ratio = statistics.median(cost.wall_s for cost in mine) / statistics.median(
        cost.wall_s for cost in theirs
    )
    for name, costs in (("ltx", mine), ("litestream", theirs)):
        walls = " ".join(f"{cost.wall_s:6.2f}" for cost in costs)
        print(
            f"{title:<26} {name:<11} wall {statistics.median(c.wall_s for c in costs):6.2f} s ({walls})"
            f"   cpu {statistics.median(c.cpu_s for c in costs):6.2f} s   peak {max(c.peak_mib for c in costs):6.1f} MiB"
        )
    verdict = "goal met" if ratio <= at_most else "GOAL MISSED"
    print(
        f"{title:<26} ratio       {ratio:.3f} of the peer's wall time; at most {at_most} is wanted: {verdict}\n"
    )
    sys.stdout.flush()
    return ratio


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have other environment variables meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
