"""The SQLite extension in the sqlite3 program, beside the peer's in the same program on the same replica."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from pathlib import Path

import litestream_vfs

from bench.database import make_database
from bench.measure import peer_environment
from ltx import Replica, replicate_once
from tests.servers.delaying import delaying
from tests.servers.seaweedfs import seaweedfs
from tests.support.hosts import EXTENSION, Host

__all__ = ["bench_extension"]

DELAY_S = 0.025
"""Added to every request."""

MOST_MEMORY_MIB = 40
MOST_RATIO = 0.5

_ATTACH = "ATTACH 'file:replica.db?vfs=litestream' AS r"
_FIRST = "SELECT id FROM r.ratings LIMIT 1"
_SCAN = "SELECT count(*), sum(length(note)) FROM r.ratings"
_FAR_MEGABYTES = 12
"""Behind the delay the peer makes a request a page: a smaller database must do, larger than the cache that it has."""

_SMALL = "SELECT sum(length(note)) AS size FROM r.ratings WHERE id <= 3000 GROUP BY id < 0 HAVING size < 0"
"""So little that it stays in SQLite's own cache."""

_TIMES = 200
_PATIENCE_S = 900.0

_LOAD, _OPEN, _BOTH = "load", "open to first row", "load, and open to first row"
_COLD, _WARM, _AGAIN = "full scan, cold", "full scan, warm", "3,000 rows, again and again"
_STEPS = (_LOAD, _OPEN, _BOTH, _COLD, _WARM)


_MEMORY = "memory"

_Run = Mapping[str, float]
"""What one process took: seconds of each step, and MiB after loading."""


@dataclass
class _Side:
    """One of the two extensions.

    Attributes:
        path: Of the library; None for a local file without one.
        environment: Of the sqlite3 process.
    """

    path: Path | None
    environment: Mapping[str, str]
    runs: list[_Run] = field(default_factory=list)


def bench_extension(folder: Path, megabytes: int, repeats: int) -> bool:
    """Measure, print a table, and return whether all goals were met."""
    met = True
    with ExitStack() as stack:
        server = stack.enter_context(seaweedfs())
        login = {**server.environment, "AWS_REGION": "us-east-1"}
        os.environ.update(login)
        proxy = stack.enter_context(delaying(server.endpoint, DELAY_S))
        print(f"the extension in sqlite3; in a folder {megabytes} MB, medians of {repeats}")
        print(f"{'':<62} {'ltx':>9} {'peer':>9}  ratio")
        near = make_database(folder / "extension.db", megabytes)
        local = f"file://{folder}/replica-of-extension"
        _publish(near, local)
        met &= _compare("folder", near, local, local, {}, folder, repeats)
        size = min(megabytes, _FAR_MEGABYTES)
        print(f"behind {DELAY_S * 1000:.0f} ms {size} MB, once")
        small = make_database(folder / "far.db", size)
        _publish(small, server.url("extension"))
        far = f"s3://{server.bucket}/extension?endpoint={proxy.endpoint}&region=us-east-1"
        met &= _compare(
            f"{DELAY_S * 1000:.0f} ms", small, far, far + "&force-path-style=true", login, folder, 1
        )
    print(f"load average {os.getloadavg()[0]:.1f} at the end\n")
    return met


def _publish(database: Path, url: str) -> None:
    with Replica.open(url) as replica:
        replicate_once(database, replica)


_folders = count(1)


def _compare(
    where: str,
    database: Path,
    url: str,
    peer_url: str,
    environment: Mapping[str, str],
    folder: Path,
    repeats: int,
) -> bool:
    def runtime() -> str:
        made = folder / f"run-{next(_folders)}"
        made.mkdir(mode=0o700)
        return str(made)

    ours = {**environment, "LITESTREAM_REPLICA_URL": url}
    quiet = {"LITESTREAM_REPLICA_URL": peer_url, "LITESTREAM_LOG_FILE": os.devnull}
    theirs = _Side(
        Path(litestream_vfs.loadable_path()), {**_without_ca(), **environment, **quiet, "XDG_RUNTIME_DIR": ""}
    )
    first, there, shared = (_Side(EXTENSION, {**ours, "XDG_RUNTIME_DIR": ""}) for _ in range(3))
    plain = _Side(None, {"XDG_RUNTIME_DIR": ""})
    for _ in range(repeats):
        first.runs.append(_measured(first, _ATTACH, {"XDG_RUNTIME_DIR": runtime()}))
        kept = {"XDG_RUNTIME_DIR": runtime()}
        with _running(there, kept) as held:  # keeps the helper, and has read nothing
            held.sql(_ATTACH)
            there.runs.append(_measured(there, _ATTACH, kept))
            shared.runs.append(_measured(shared, _ATTACH, kept))
        theirs.runs.append(_measured(theirs, _ATTACH, {}))
        plain.runs.append(_measured(plain, f"ATTACH '{database}' AS r", {}))
    met = True
    for name, side in (("helper started", first), ("helper there", there)):
        for step in _STEPS:
            met &= _told(f"{where}: {step}, {name}", "s", side, theirs, itemgetter(step))
        met &= _told(
            f"{where}: memory after load, {name}", "MiB", side, theirs, itemgetter(_MEMORY), MOST_MEMORY_MIB
        )
    _told(f"{where}: {_COLD}, read by another program before", "s", shared, theirs, itemgetter(_COLD))
    alone = statistics.median(run[_AGAIN] for run in plain.runs)
    _told(
        f"{where}: {_AGAIN} ({alone:.4f} s on a local file)", "s", there, theirs, itemgetter(_AGAIN), math.inf
    )
    return met


def _without_ca() -> dict[str, str]:
    return {} if "AWS_CA_BUNDLE" in peer_environment() else {"AWS_CA_BUNDLE": ""}


class _running:  # noqa: N801 - reads as a statement
    """A sqlite3 process with an extension loaded."""

    def __init__(self, side: _Side, more: Mapping[str, str]) -> None:
        self._host = Host("sqlite3", {**side.environment, **more})
        self._host.step("load", str(side.path))

    def __enter__(self) -> Host:
        return self._host

    def __exit__(self, *_: object) -> None:
        self._host.process.kill()
        self._host.close()


def _measured(side: _Side, attach: str, more: Mapping[str, str]) -> _Run:
    program = Host("sqlite3", {**side.environment, **more})
    try:
        program.step("sql", "main", "SELECT 1")
        steps: dict[str, float] = {}

        def timed(step: str, work: Callable[[], object]) -> None:
            began = time.perf_counter()
            work()
            steps[step] = time.perf_counter() - began

        timed(_LOAD, lambda: side.path and program.step("load", str(side.path)))
        memory = _memory_mib(program.process.pid)
        timed(_OPEN, lambda: (program.sql(attach), program.sql(_FIRST)))
        for step, statements in ((_COLD, _SCAN), (_WARM, _SCAN), (_AGAIN, f"{_SMALL};\n" * _TIMES)):
            program.begin("sql", "main", statements)
            timed(step, lambda: program.finish(_PATIENCE_S))
        steps[_AGAIN] /= _TIMES
        steps[_BOTH] = steps[_LOAD] + steps[_OPEN]
        return {**steps, _MEMORY: memory}
    finally:
        program.process.kill()
        program.close()


def _memory_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def _told(
    title: str,
    unit: str,
    ours: _Side,
    theirs: _Side,
    figure: Callable[[_Run], float],
    most: float | None = None,
) -> bool:
    mine, peers = (statistics.median(figure(run) for run in side.runs) for side in (ours, theirs))
    ratio = mine / peers
    met = ratio <= MOST_RATIO if most is None else mine <= most
    goal = (
        f"at most {MOST_RATIO}" if most is None else f"at most {most:.0f} {unit}" if most < math.inf else ""
    )
    digits = 4 if unit == "s" else 1
    print(
        f"{title:<62} {mine:>9.{digits}f} {peers:>9.{digits}f} {ratio:>6.2f}  {'' if met else 'MISSED: '}{goal}"
    )
    return met
