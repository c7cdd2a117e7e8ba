"""Queries on a replica: beside the real Litestream's VFS, beside plain reading of the same bytes, beside a local file."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.database import make_database
from bench.measure import peer_environment
from ltx import Replica, replicate_once
from tests.servers.delaying import delaying
from tests.servers.seaweedfs import seaweedfs

__all__ = ["bench_vfs"]

DELAY_S = 0.025
"""Added to every request."""

LINE_BYTES_PER_S = 50e6
"""What a good line to a storage service has room for; without such a limit the processor is what limits."""

_FIRST = "sql:SELECT * FROM {}ratings LIMIT 1"
_SCAN = "sql:SELECT count(*), sum(length(note)) FROM {}ratings"
_PART = _SCAN + " WHERE id <= {}"
_POINTS = "points:20000"
_BIG_CACHE = {"BENCH_CACHE_SIZE": str(1 << 30)}
_ROW_SIZE = 330
"""Bytes of a row with its part of the index, about: the peer reads a part of the table, at one request a page."""


@dataclass(frozen=True)
class _Place:
    """Where processes find a replica.

    Attributes:
        url: For ours.
        peer_url: For the peer.
        environment: For both.
    """

    url: str
    peer_url: str
    environment: Mapping[str, str]


def bench_vfs(folder: Path, megabytes: int, repeats: int) -> bool:
    """Measure, print a table, and return whether all goals were met."""
    database = make_database(folder / "vfs.db", megabytes)
    met = True
    with ExitStack() as stack:
        server = stack.enter_context(seaweedfs())
        login = {
            **server.environment,
            "AWS_REGION": "us-east-1",
            "LITESTREAM_LOG_FILE": os.devnull,
        }
        near = server.url("bench")
        os.environ.update(login)
        for url in (near, f"file://{folder}/replica"):
            with Replica.open(url) as replica:
                replicate_once(database, replica)
        proxy = stack.enter_context(delaying(server.endpoint, DELAY_S))
        url = f"s3://{server.bucket}/bench?endpoint={proxy.endpoint}&region=us-east-1"
        far = _Place(url, url + "&force-path-style=true", login)
        local = f"file://{folder}/replica"
        place = _Place(local, local, {})
        size = database.stat().st_size / (1 << 20)
        print(
            f"queries on {size:.0f} MiB; behind {DELAY_S * 1000:.0f} ms a request, and on a folder; medians of {repeats}"
        )
        print(f"{'':<46} {'ltx s':>8} {'other s':>8}  ratio")
        met &= _beside_the_peer(far, database, megabytes, repeats)
        line = stack.enter_context(delaying(server.endpoint, DELAY_S, LINE_BYTES_PER_S))
        narrow = replace(far, url=url.replace(proxy.endpoint, line.endpoint))
        delay = f"{DELAY_S * 1000:.0f} ms"
        for name, where in (
            (f"{delay}, {LINE_BYTES_PER_S / 1e6:.0f} MB/s", narrow),
            (delay, far),
            ("folder", place),
        ):
            met &= _beside_streaming(name, where, database, size, repeats)
        met &= _warm(place, database, repeats)
    print(f"load average {os.getloadavg()[0]:.1f} at the end\n")
    return met


def _beside_the_peer(far: _Place, database: Path, megabytes: int, repeats: int) -> bool:
    """Open and read a row; scan a part of the table, for which the peer needs one request a page; scan it again."""
    rows = megabytes * 1_000_000 // _ROW_SIZE // 40
    part = [_PART.format(prefix, rows) for prefix in ("", "r.")]
    first = [_FIRST.format(prefix) for prefix in ("", "r.")]
    mine = [_run("ours", far, "open", first[0]) for _ in range(repeats)]
    theirs = [_run("theirs", far, "open", first[1]) for _ in range(repeats)]
    met = _row("open and first row, beside litestream-vfs", _medians(mine), _medians(theirs), 0.25)
    mine = [_run("ours", far, "open", part[0]) for _ in range(repeats)]
    theirs = [_run("theirs", far, "open", part[1])]  # once: it takes long
    met &= _row(f"cold scan of a 40th, {rows} rows", _medians(mine, 1), _medians(theirs, 1), 0.05)
    plain = _Place(str(database), "", {})
    again = [_run("ours", far, "open", part[0], part[0], part[0]) for _ in range(repeats)]
    there = [_run("local", plain, "open", part[0], part[0], part[0]) for _ in range(repeats)]
    return met & _row(
        "the same scan once more, beside a local file", _medians(again, 3), _medians(there, 3), 1.2
    )


def _beside_streaming(name: str, place: _Place, database: Path, size_mib: float, repeats: int) -> bool:
    """Scan all of a cold database, beside reading the same files whole, one after the other."""
    scans = [_run("ours", place, "open", _SCAN.format("")) for _ in range(repeats)]
    streams = [_run("ours", place, "stream") for _ in range(repeats)]
    local = _medians(
        [_run("local", _Place(str(database), "", {}), "open", _SCAN.format("")) for _ in range(repeats)], 1
    )
    scan, stream = _medians(scans, 1), _medians(streams)
    wanted = 1 / 0.9
    if local > stream * wanted:
        alone = f"no goal: SQLite takes {local / stream:.1f} times as long for a local file"
        print(
            f"{f'cold scan, beside streaming: {name}':<46} {scan:8.3f} {stream:8.3f}  {scan / stream:.3f}  {alone}"
        )
        met = True
    else:
        met = _row(f"cold scan, beside streaming: {name}", scan, stream, wanted)
    opened, scanned = scans[0][:2]
    requests = scanned["requests"] - opened["requests"]
    received = (scanned["received"] - opened["received"]) / (1 << 20)
    verdict = _verdict(requests, size_mib)
    print(f"{'':<46} {requests:.0f} requests for {received:.1f} MiB of {size_mib:.0f} MiB: {verdict}")
    return met & (requests <= size_mib)


def _warm(place: _Place, database: Path, repeats: int) -> bool:
    """Read again what is in our cache, beside the database itself."""
    steps = ("open", _SCAN.format(""), _SCAN.format(""), _SCAN.format(""), _POINTS, _POINTS)
    big = _Place(place.url, place.peer_url, _BIG_CACHE)
    mine = [_run("ours", big, *steps) for _ in range(repeats)]
    local = [_run("local", _Place(str(database), "", {}), *steps) for _ in range(repeats)]
    met = _row("warm scan, beside a local file", _medians(mine, 3), _medians(local, 3), 1.2)
    return met & _row("20,000 warm lookups, beside a local file", _medians(mine, 5), _medians(local, 5), 1.2)


def _run(who: str, place: _Place, *steps: str) -> list[Mapping[str, float]]:
    """Run steps in a process of their own, and return what it said of each."""
    environment = {**peer_environment(), **place.environment}
    if who == "theirs":
        environment["LITESTREAM_REPLICA_URL"] = place.peer_url
    done = subprocess.run(
        [sys.executable, "-m", "bench.vfs_steps", who, place.url, *steps],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{who} failed: {done.stderr[-2000:]}")
    told: list[Mapping[str, float]] = json.loads(done.stderr.splitlines()[-1])
    return told


def _medians(runs: Sequence[Sequence[Mapping[str, float]]], step: int | None = None) -> float:
    """Return the median time of one step, or of all steps together."""
    return statistics.median(
        sum(each["wall_s"] for each in run) if step is None else run[step]["wall_s"] for run in runs
    )


def _row(title: str, mine: float, other: float, at_most: float) -> bool:
    ratio = mine / other
    print(
        f"{title:<46} {mine:8.3f} {other:8.3f}  {ratio:.3f}  at most {at_most:.3g} is wanted: {_verdict(ratio, at_most)}"
    )
    sys.stdout.flush()
    return ratio <= at_most


def _verdict(value: float, at_most: float) -> str:
    return "goal met" if value <= at_most else "GOAL MISSED"
