"""Truth under load, in long: `python -m bench.truth --transactions 10000`, beside the real Litestream's VFS.

Two processes write, `ltx replicate` publishes, merges and prunes at short intervals. Connections of ours, in threads and
forked children, some of them on a storage that fails, and of theirs check all the time that a sum over two tables holds
and that neither TXIDs nor counts go back. 1 when ours had a wrong answer, or an error on the storage that does not fail.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import apsw

import vfs
from ltx import Replica
from tests.servers.storages import STORAGES
from tests.support.replicating import ROOT
from tests.support.truth import Connect, Verdict, in_children, in_threads, said, writing, written

_ERRORS = ("UnavailableError", "NotReachableError", "NotFoundError", "CorruptError", "TruncatedError")
"""What a storage may lead to that fails, answers half, and lists what was."""


def main() -> int:
    """Run it; 1 when ours was wrong."""
    parser = argparse.ArgumentParser(prog="bench.truth", description=__doc__)
    parser.add_argument("--transactions", type=int, default=10_000)
    parser.add_argument("--per-second", type=float, default=30, help="transactions, if the machine can (30)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--storage", choices=("folder", "s3"), default="folder")
    parser.add_argument(
        "--readers", type=int, default=8, help="connections of ours on the storage that works (8)"
    )
    parser.add_argument("--failing", type=int, default=2, help="and on the one that fails (2)")
    parser.add_argument("--rate", type=float, default=0.02, help="the share of its calls that fail (0.02)")
    parser.add_argument("--theirs", type=int, default=2, help="connections of the real Litestream's VFS (2)")
    parser.add_argument("--fail-writing", action="store_true", help="replicate to a storage that fails, too")
    parser.add_argument(
        "--kept",
        type=float,
        default=30,
        help="seconds that old states stay: longer than a transaction takes (30)",
    )
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truth-")))
        storage = stack.enter_context(STORAGES[options.storage]())
        stack.enter_context(_environment(storage.environment))
        [locate] = storage.urls.values()
        return _run(folder, locate("truth"), options)


def _run(folder: Path, url: str, options: argparse.Namespace) -> int:
    began = time.monotonic()
    deadline = began + 60 + 6 * options.transactions / options.per_second

    def is_over(found: Verdict) -> bool:
        return bool(found.count >= options.transactions or time.monotonic() > deadline)

    published = _failing(url, options.seed, options.rate) if options.fail_writing else ""
    with writing(
        folder,
        url,
        seed=options.seed,
        kept_s=options.kept,
        per_second=options.per_second,
        published=published,
    ) as path:
        half, stop = options.readers // 2, folder / "stop"
        readers: list[Connect] = [partial(_connect, url, place) for place in range(options.readers)]
        failing: list[Connect] = [
            partial(_connect, _failing(url, options.seed + place, options.rate), place)
            for place in range(options.failing)
        ]
        inherited = vfs.connect(url, poll_interval=0)
        inherited.execute("SELECT count(*) FROM a").fetchall()
        readers[0] = readers[half] = lambda: inherited  # a child goes on with what its parent uses, too
        forked = [in_children(some, is_over) for some in (readers[:half], failing[: len(failing) // 2])]
        with _theirs(options.theirs, url, stop) as theirs:
            threads = [*readers[half:], *failing[len(failing) // 2 :]]
            found = in_threads(threads, is_over)
            ours, fallible = ([said(pipe) for pipe in pipes] for pipes in forked)
            ours, fallible = (
                [*ours, *found[: len(readers) - half]],
                [*fallible, *found[len(readers) - half :]],
            )
            stop.touch()
            others = [_verdict_of(process) for process in theirs]
    count = written(path)
    _print_run(url, count, began, options)
    for name, verdicts in (("ours", ours), ("ours, storage fails", fallible), ("theirs", others)):
        _print(name, verdicts)
    return 0 if _are_right(ours, fallible, options) else 1


def _are_right(ours: Sequence[Verdict], fallible: Sequence[Verdict], options: argparse.Namespace) -> bool:
    saw_all = all(verdict.count >= options.transactions for verdict in (*ours, *fallible))
    wrong = any(verdict.wrong for verdict in (*ours, *fallible)) or any(verdict.errors for verdict in ours)
    strange = [each for verdict in fallible for each in verdict.errors if not each.startswith(_ERRORS)]
    return saw_all and not wrong and not strange


def _connect(url: str, place: int) -> apsw.Connection:
    return vfs.connect(
        url, poll_interval=(0, 0.05, 0.5, 1)[place % 4], cache_size=(0, 100_000, 1 << 24)[place % 3]
    )


def _failing(url: str, seed: int, rate: float) -> str:
    return f"faulty+{url}{'&' if '?' in url else '?'}seed={seed}&rate={rate}&slow=0.01"


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _theirs(count: int, url: str, stop: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Read with theirs in other processes, one connection each, until a file is there."""
    environment = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    environment |= {
        "LITESTREAM_REPLICA_URL": url,
        "LITESTREAM_LOG_FILE": os.devnull,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "bench.truth_reader", str(stop)]
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _verdict_of(process: "subprocess.Popen[str]") -> Verdict:
    try:
        return Verdict.from_json(process.communicate(timeout=60)[1].splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        verdict = Verdict()
        verdict.errors[f"the process hung or died: {process.returncode}"] += 1
        return verdict


def _print_run(url: str, count: int, began: float, options: argparse.Namespace) -> None:
    with Replica.open(url) as replica:
        files = replica.files()
    levels = {level: sum(file.level == level for file in files) for level in sorted({f.level for f in files})}
    print(
        f"seed {options.seed}, {options.storage}: {count} transactions written as {max(f.max_txid for f in files)} TXIDs "
        f"in {time.monotonic() - began:.0f} s; files left by level {levels}, of level 0 from TXID "
        f"{min((f.min_txid for f in files if not f.level), default=0)}"
    )


def _print(name: str, verdicts: Sequence[Verdict]) -> None:
    reads, moves = (sum(getattr(verdict, what) for verdict in verdicts) for what in ("reads", "moves"))
    wrong = [text for verdict in verdicts for text in verdict.wrong]
    errors = sum(sum(verdict.errors.values()) for verdict in verdicts)
    print(
        f"{name}: {len(verdicts)} connections, {reads} transactions read, {moves} moves to newer states, "
        f"{len(wrong)} wrong answers, {errors} errors; transactions seen by the slowest: "
        f"{min((verdict.count for verdict in verdicts), default=0)}; the longest took "
        f"{max((verdict.longest_s for verdict in verdicts), default=0):.1f} s"
    )
    examples = {error.partition(":")[0]: error for verdict in verdicts for error in verdict.errors}
    for text in (*wrong[:3], *sorted(examples.values())):
        print(f"    {text}")


if __name__ == "__main__":
    sys.exit(main())
