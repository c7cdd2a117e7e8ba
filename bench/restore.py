"""Snapshot and restore of a database on a folder, beside the real Litestream; and that memory stays flat."""

import filecmp
import shutil
import sys
from pathlib import Path

from bench.database import make_database
from bench.measure import Cost, compare, peer_environment, run_command

__all__ = ["bench_memory", "bench_restore"]

_LTX = [sys.executable, "-m", "ltx"]
_PEAK_MIB = 80
_GROWTH_MIB = 8


def bench_restore(folder: Path, megabytes: int, repeats: int) -> bool:
    """Measure both; return whether the goals were met."""
    source = make_database(folder / "source.db", megabytes)
    litestream = str(Path(sys.executable).parent / "litestream")
    environment = peer_environment()

    def fresh(name: str) -> Path:
        """A new copy of the source, without replica or state, for a program that has never seen it."""
        for left in (folder / name, folder / f"{name}.replica", folder / f".{name}-litestream"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        for suffix in ("-wal", "-shm"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(source, folder / name)
        return folder / name

    def snapshot_ours() -> Cost:
        database = fresh("ours.db")
        return run_command([*_LTX, "replicate", "--once", str(database), f"file://{database}.replica"])

    def snapshot_peers() -> Cost:
        database = fresh("peers.db")
        return run_command(
            [litestream, "replicate", "-once", str(database), f"file://{database}.replica"], environment
        )

    def restore(argv: list[str], name: str) -> Cost:
        output = folder / f"{name}.out"
        output.unlink(missing_ok=True)
        return run_command([*argv, "-o", str(output), f"file://{folder / name}.replica"], environment)

    snapshot = compare(
        f"snapshot {megabytes} MB", snapshot_ours, snapshot_peers, repeats=repeats, at_most=0.35
    )
    restored = compare(
        f"restore {megabytes} MB",
        lambda: restore([*_LTX, "restore"], "ours.db"),
        lambda: restore([litestream, "restore"], "peers.db"),
        repeats=repeats,
        at_most=0.25,
    )
    if not filecmp.cmp(folder / "ours.db.out", source, shallow=False):
        raise RuntimeError("the restored database is not the source")
    return snapshot <= 0.35 and restored <= 0.25


def bench_memory(folder: Path, sizes: tuple[int, ...]) -> bool:
    """Measure the peak memory of both jobs at several sizes; return whether it is low and does not grow."""
    peaks: dict[str, list[float]] = {"snapshot": [], "restore": []}
    for megabytes in sizes:
        database = make_database(folder / f"{megabytes}.db", megabytes)
        replica, output = f"file://{folder}/{megabytes}.replica", folder / f"{megabytes}.out"
        peaks["snapshot"].append(run_command([*_LTX, "replicate", "--once", str(database), replica]).peak_mib)
        peaks["restore"].append(run_command([*_LTX, "restore", replica, "-o", str(output)]).peak_mib)
    met = True
    for job, found in peaks.items():
        good = max(found) <= _PEAK_MIB and found[-1] - found[0] <= _GROWTH_MIB
        met &= good
        listed = ", ".join(f"{size} MB: {peak:.1f} MiB" for size, peak in zip(sizes, found, strict=True))
        print(
            f"memory of {job:<9} {listed}; at most {_PEAK_MIB} MiB is wanted: {'goal met' if good else 'GOAL MISSED'}"
        )
    return met
