"""The crash matrix: `ltx.replication` killed, or out of disk, at every step of one scenario, and held to its promises.

`python -m bench.crashes` takes each step, as the tests do with a seed of their own; with `--sample 20 --seed 7` it takes 20 of
each kind. The promises and the scenario are in `tests/support/crashing.py`.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.support.crashing import KINDS, Case, Kind


def main() -> int:
    """Run it; it raises where a promise is broken."""
    parser = argparse.ArgumentParser(prog="bench.crashes", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what happens (all)")
    parser.add_argument("--sample", type=int, help="how many steps of each kind (every one)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for kind in options.kinds:
            steps = _steps(Path(folder), kind, options.seed)
            chosen = list(range(len(steps)))
            if options.sample:
                chosen = sorted(Random(options.seed).sample(chosen, min(options.sample, len(chosen))))
            ended = sum(_one(Path(folder), kind, options.seed, step, steps) for step in chosen)
            print(f"{kind}: {len(chosen)} of {len(steps)} steps, {ended} went on to the end", flush=True)
    return 0


def _steps(folder: Path, kind: Kind, seed: int) -> Sequence[str]:
    """Run once without anything, and return what its steps are."""
    case = Case(folder / "whole", kind, seed)
    if not case.run(None):
        raise AssertionError("nothing was to happen")
    case.check()
    case.close()
    return case.steps


def _one(folder: Path, kind: Kind, seed: int, step: int, steps: Sequence[str]) -> bool:
    case = Case(folder / str(step), kind, seed)
    try:
        ended = case.run(step)
        case.check()
    except BaseException:
        print(f"{kind} at step {step}, {steps[step]}, seed {seed}", file=sys.stderr)
        raise
    case.close()
    return ended


if __name__ == "__main__":
    sys.exit(main())
