"""A soak: writers, application checkpoints, kills, upkeep at short intervals, and a reader that never stops checking.

Run as `python -m bench.soak --seconds 3600 --seed 7`; each round kills `ltx replicate` or stops it, and at the end of
each the replica is compared with the database page by page.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apsw

from ltx import Replica, ReplicaError
from tests.support.writers import check_promise, prepare, writing

_ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run it; 1 when a page differed or a promise was broken."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--page-size", type=int, default=4096)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return _soak(Path(folder), options)


def _soak(folder: Path, options: argparse.Namespace) -> int:
    path, url, output = folder / "app.db", str(folder / "replica"), folder / "out.db"
    prepare(path, mode="wal", page_size=options.page_size)
    choice = random.Random(options.seed)
    end, rounds, looks = time.monotonic() + options.seconds, 0, 0
    while time.monotonic() < end:
        rounds += 1
        process = _replicate(path, url)
        until = min(end, time.monotonic() + 2 + choice.random() * 8)
        seen = 0
        with writing(path, processes=options.writers, seed=choice.randrange(1 << 30)):
            while time.monotonic() < until:
                looks += _look(url, output)
                if looks:
                    counter = check_promise(output)
                    if counter < seen:
                        print(f"round {rounds}: the replica went back from {seen} to {counter}")
                        return 1
                    seen = counter
                time.sleep(0.3)
            if choice.random() < 0.5:
                process.kill()
                process.wait()
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        else:
            last = _replicate(path, url)
            time.sleep(2)
            last.terminate()
            last.wait(60)
        if not _equal(path, url, output):
            print(f"round {rounds}: the replica is not the database; seed {options.seed}")
            return 1
    with Replica.open(url) as replica:
        found = replica.verify()
        print(f"{rounds} rounds, {looks} restores, {len(replica.files())} files, sound: {found.is_sound}")
    return 0 if found.is_sound else 1


def _replicate(path: Path, url: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "ltx", "replicate", path, url, "--sync-interval", "0.05"],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "XDG_RUNTIME_DIR": str(path.parent)},
        stderr=subprocess.DEVNULL,
    )


def _look(url: str, output: Path) -> int:
    with Replica.open(url) as replica:
        try:
            replica.restore(output, force=True)
        except ReplicaError:
            return 0
    return 1


def _equal(path: Path, url: str, output: Path) -> bool:
    _look(url, output)
    db = apsw.Connection(str(path))
    try:
        return db.serialize("main") == output.read_bytes()
    finally:
        db.close()


if __name__ == "__main__":
    sys.exit(main())
