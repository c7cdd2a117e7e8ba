"""`make bench`: every figure that we claim, measured beside the real Litestream in one run."""

import argparse
import tempfile
from pathlib import Path

from bench.restore import bench_memory, bench_restore


def main() -> int:
    """Run the benchmarks; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the database to restore (500)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, of which medians are shown (3)")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[100, 1000], help="sizes in MB for memory (100 1000)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work; needs about eight times the size (a temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        met = bench_restore(Path(folder), options.megabytes, options.repeats)
        met &= not options.memory or bench_memory(Path(folder), tuple(options.memory))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
