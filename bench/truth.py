"""Truth under load, in long: `python -m bench.truth --transactions 10000`, beside the real Litestream's VFS.

A process writes, merges and prunes; connections of ours, some of them on a storage that fails, and of theirs check
all the time that a sum over two tables holds and that neither TXIDs nor counts go back. 1 when ours had a wrong
answer, or an error on the storage that does not fail.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import loads
from pathlib import Path

import apsw

import vfs
from tests.support.truth import Verdict, prepare, watch, writing

_ROOT = Path(__file__).parents[1]
_FAILING = "faulty+{url}?seed={seed}&rate=0.02&slow=0.01"


def main() -> int:
    """Run it; 1 when ours was wrong."""
    parser = argparse.ArgumentParser(prog="bench.truth", description=__doc__)
    parser.add_argument("--transactions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument(
        "--readers", type=int, default=8, help="connections of ours on the storage that works (8)"
    )
    parser.add_argument("--failing", type=int, default=2, help="and on the one that fails (2)")
    parser.add_argument("--theirs", type=int, default=2, help="connections of the real Litestream's VFS (2)")
    parser.add_argument(
        "--kept",
        type=float,
        default=20,
        help="seconds that old states stay: longer than a transaction takes (20)",
    )
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.transactions} transactions")
    with tempfile.TemporaryDirectory(prefix="truth-", dir=options.folder) as folder:
        return _run(Path(folder), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    path, url, stop = folder / "busy.db", f"file://{folder}/replica", folder / "stop"
    prepare(path)
    with writing(path, url, options.transactions, options.seed, options.kept) as writer:
        half = options.readers // 2
        with (
            _elsewhere("ours", half, url, stop) as forked,
            _elsewhere("theirs", options.theirs, url, stop) as theirs,
        ):
            here = _here(url, options, half, lambda: writer.poll() is not None)
            stop.touch()
            ours = [*here[: options.readers - half], *_said(forked)]
            others = _said(theirs)
        assert writer.stdout
        whole = writer.stdout.read() == f"wrote {options.transactions}\n"
    failing = here[options.readers - half :]
    for name, verdicts in (("ours", ours), ("ours, storage fails", failing), ("theirs", others)):
        _print(name, verdicts)
    right = whole and not any(verdict.wrong for verdict in (*ours, *failing))
    return 0 if right and not any(verdict.errors for verdict in ours) else 1


def _here(url: str, options: argparse.Namespace, half: int, is_over: Callable[[], bool]) -> list[Verdict]:
    """Read in threads of this process: first those of the storage that works, then those of the one that fails."""
    intervals, sizes = (0, 0.05, 0.5, 1), (0, 100_000, 1 << 24)
    readers: list[Callable[[], apsw.Connection]] = [
        lambda place=place: vfs.connect(  # type: ignore[misc]
            url, poll_interval=intervals[place % 4], cache_size=sizes[place % 3]
        )
        for place in range(options.readers - half)
    ]
    readers += [
        lambda seed=seed: vfs.connect(  # type: ignore[misc]
            _FAILING.format(url=url, seed=options.seed + seed), poll_interval=0, cache_size=sizes[seed % 3]
        )
        for seed in range(options.failing)
    ]
    verdicts = [Verdict() for _ in readers]

    def read(place: int) -> None:
        verdicts[place] = watch(readers[place], is_over)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(len(readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return verdicts


@contextmanager
def _elsewhere(kind: str, count: int, url: str, stop: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Read in other processes, one connection each, until a file is there."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LITESTREAM_"))}
    environment = {
        **bare,
        "LITESTREAM_REPLICA_URL": url,
        "LITESTREAM_LOG_FILE": os.devnull,
        "PYTHONPATH": str(_ROOT),
    }
    command = [sys.executable, "-m", "bench.truth_reader", kind, url, str(stop)]
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _said(processes: Sequence["subprocess.Popen[str]"]) -> list[Verdict]:
    verdicts = []
    for process in processes:
        verdict = Verdict()
        try:
            lines = process.communicate(timeout=60)[1].splitlines()
            fields = loads(lines[-1])
        except (subprocess.TimeoutExpired, IndexError, ValueError):
            verdict.errors[f"the process hung or died: {process.returncode}"] += 1
        else:
            verdict = Verdict(fields["reads"], fields["moves"], fields["wrong"])
            verdict.errors.update(fields["errors"])
        verdicts.append(verdict)
    return verdicts


def _print(name: str, verdicts: Sequence[Verdict]) -> None:
    reads, moves = (sum(getattr(verdict, what) for verdict in verdicts) for what in ("reads", "moves"))
    wrong = [text for verdict in verdicts for text in verdict.wrong]
    errors = sum(sum(verdict.errors.values()) for verdict in verdicts)
    print(
        f"{name}: {len(verdicts)} connections, {reads} transactions read, {moves} moves, "
        f"{len(wrong)} wrong answers, {errors} errors"
    )
    examples = {error.partition(":")[0]: error for verdict in verdicts for error in verdict.errors}
    for text in (*wrong[:3], *sorted(examples.values())):
        print(f"    {text}")


if __name__ == "__main__":
    sys.exit(main())
