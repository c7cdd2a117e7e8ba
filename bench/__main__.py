"""`make bench`: every figure that we claim, measured beside the real Litestream, or the library, in one run."""

import argparse
import tempfile
from pathlib import Path

from bench.restore import bench_memory, bench_restore

_BENCHES = ("restore", "memory", "backends", "vfs", "replicate", "extension")
_STORAGES = ("s3", "webdav", "gcs", "azure", "sftp")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--only", choices=_BENCHES, nargs="+", default=_BENCHES, help="which of them to run (all)"
    )
    parser.add_argument(
        "--storage",
        choices=_STORAGES,
        nargs="+",
        default=_STORAGES,
        help="for backends: which storages (all)",
    )
    parser.add_argument("--megabytes", type=int, default=500, help="size of the database to restore (500)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, of which medians are shown (3)")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[100, 1000], help="sizes in MB for memory (100 1000)"
    )
    parser.add_argument(
        "--vfs-megabytes",
        type=int,
        default=100,
        help="for vfs and extension: size of the database to query (100)",
    )
    parser.add_argument(
        "--commits", type=int, default=20, help="for replicate: commits timed on each storage (20)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5,
        help="for replicate: how long an application writes, each time (5)",
    )
    parser.add_argument(
        "--idle", type=int, nargs="*", default=[1, 100, 500], help="for replicate: idle databases (1 100 500)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work; needs about eight times the size (a temporary one)"
    )
    return parser


def main() -> int:
    """Run the benchmarks; 1 when a goal was missed."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        met = "restore" not in options.only or bench_restore(Path(folder), options.megabytes, options.repeats)
        if "memory" in options.only and options.memory:
            met &= bench_memory(Path(folder), tuple(options.memory))
        if "backends" in options.only:
            # Only here: a command that is measured inherits the peak memory of this process, which is to stay small.
            from bench.backends import bench_backends

            met &= bench_backends(Path(folder), options.storage, options.repeats)
        if "extension" in options.only:
            from bench.extension import bench_extension

            met &= bench_extension(Path(folder), options.vfs_megabytes, options.repeats)
        if "vfs" in options.only:
            from bench.vfs import bench_vfs

            met &= bench_vfs(Path(folder), options.vfs_megabytes, options.repeats)
        if "replicate" in options.only:
            from bench.replicate import Sizes, bench_replicate

            sizes = Sizes(options.commits, options.seconds, options.idle, options.repeats)
            met &= bench_replicate(Path(folder), sizes)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
