"""Continuous replication beside the real Litestream, both at their defaults, in one run, each with the same probe."""

import os
import random
import secrets
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.measure import environment
from bench.replicators import PROGRAMS, Place, Probe, make_small, running, wait_until
from tests.servers.faults import faulty_proxy
from tests.servers.storages import STORAGES

__all__ = ["Sizes", "bench_replicate"]

_QUIET_S = (0.6, 1.2)
_WARM_S = 5.0
"""What a program does once, after it has begun, is not what is measured."""
_PACE_S = 0.005
_ROW_SIZE = 1000


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        commits: Whose way to the replica is timed, on each storage.
        seconds: How long an application writes, each time.
        idle: Numbers of databases that nobody writes to.
        repeats: Of which medians are shown.
    """

    commits: int = 20
    seconds: float = 5.0
    idle: Sequence[int] = (1, 100, 500)
    repeats: int = 3


def bench_replicate(folder: Path, sizes: Sizes) -> bool:
    """Measure all, print, and return whether every goal was met."""
    print(f"continuous replication; load average {os.getloadavg()[0]:.1f}")
    with _places(folder) as places:
        met = [_bench_latency(folder, place, sizes.commits) for place in places]
        met += [_bench_application(folder, places[0], sizes)]
        met += [_bench_sustained(folder, place, sizes) for place in places]
        met += [_bench_requests(folder, places[1], sizes.seconds * 3)]
        met += [_bench_idle(folder, places[0], count, sizes.seconds * 2) for count in sizes.idle]
    print(f"load average {os.getloadavg()[0]:.1f} at the end\n")
    return all(met)


@contextmanager
def _places(folder: Path) -> Iterator[Sequence[Place]]:
    """Start what the replicas lie on: a folder, and an S3 server on loopback."""
    root = folder / "replicas"
    with STORAGES["s3"]() as s3, environment(s3.environment):
        assert s3.peer is not None
        yield (
            Place("file", lambda path: f"file://{root}/{path}", lambda path: {"path": f"{root}/{path}"}, {}),
            Place("s3", s3.urls["s3"], s3.peer, {**s3.environment, **s3.peer_environment}),
        )


@dataclass
class _Followed:
    """A database that one program replicates, the application's connection, and the probe of its replica."""

    program: str
    path: Path
    url: str
    app: sqlite3.Connection
    probe: Probe


@contextmanager
def _following(folder: Path, place: Place, program: str, *, seen: Place | None = None) -> Iterator[_Followed]:
    """Let a program follow a new small database; its first snapshot is there."""
    name = f"{program}-{secrets.token_hex(3)}"
    path = make_small(folder / f"{name}.db")
    url = (seen or place).url(name)
    with (
        running(program, folder / name, {path: name}, place),
        closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as app,
        closing(Probe(url)) as probe,
    ):
        app.execute("PRAGMA synchronous = NORMAL")
        wait_until(lambda: probe.txid() > 0, step_s=0.05)
        yield _Followed(program, path, url, app, probe)


def _bench_latency(folder: Path, place: Place, commits: int) -> bool:
    chance = random.Random(4)
    taken: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    with ExitStack() as stack:
        both = [stack.enter_context(_following(folder, place, program)) for program in PROGRAMS]
        time.sleep(_WARM_S)
        for number in range(commits):
            for each in both:
                time.sleep(chance.uniform(*_QUIET_S))
                wanted = each.probe.txid() + 1
                each.app.execute("INSERT INTO t (a, b) VALUES (?, randomblob(100))", (number,))
                began = time.perf_counter()
                wait_until(lambda: each.probe.has(wanted), step_s=0.001)  # noqa: B023 - it runs at once
                taken[each.program].append(time.perf_counter() - began)
    title = f"commit to readable, {place.name}"
    for program, found in taken.items():
        _row(
            title,
            program,
            f"p50 {_percentile(found, 50) * 1000:7.1f} ms   p99 {_percentile(found, 99) * 1000:7.1f} ms",
        )
    mine, theirs = (_percentile(taken[program], 50) for program in PROGRAMS)
    tail = _percentile(taken["ltx"], 99) / _percentile(taken["litestream"], 99)
    met = mine <= 0.1 if place.name == "file" else mine <= theirs
    wanted_text = "p50 of at most 100 ms" if place.name == "file" else "a p50 of at most the peer's"
    return _verdict(title, f"p50 {mine / theirs:.3f}, p99 {tail:.3f} of the peer's; {wanted_text}", met=met)


def _bench_application(folder: Path, place: Place, sizes: Sizes) -> bool:
    """What the application's commits take, at a steady pace."""
    title, taken = "application's commit", {name: list[float]() for name in ("none", *PROGRAMS)}
    for _ in range(sizes.repeats):
        for name, found in taken.items():
            with ExitStack() as stack:
                if name == "none":
                    path = make_small(folder / f"none-{secrets.token_hex(3)}.db")
                    app = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
                    app.execute("PRAGMA synchronous = NORMAL")
                else:
                    app = stack.enter_context(_following(folder, place, name)).app
                found.append(_percentile(list(_paced(app, sizes.seconds)), 99))
    for name, found in taken.items():
        listed = " ".join(f"{value * 1000:.2f}" for value in found)
        _row(title, name, f"p99 {statistics.median(found) * 1000:7.2f} ms ({listed})")
    mine, theirs, none = (statistics.median(taken[name]) for name in (*PROGRAMS, "none"))
    text = f"p99 {mine / none:.2f} of that without a replicator, the peer's {theirs / none:.2f}; at most half a ms more"
    return _verdict(title, f"{text}, or than the peer's,", met=mine <= max(none + 0.0005, theirs))


def _paced(app: sqlite3.Connection, seconds: float) -> Iterator[float]:
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        app.execute("INSERT INTO t (a, b) VALUES (1, randomblob(?))", (_ROW_SIZE,))
        done = time.perf_counter()
        yield done - began
        time.sleep(max(0.0, began + _PACE_S - done))


def _bench_sustained(folder: Path, place: Place, sizes: Sizes) -> bool:
    """Write as fast as it goes, then wait until the replica has the last commit."""
    rates: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    behind: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    for _ in range(sizes.repeats):
        for program in PROGRAMS:
            with _following(folder, place, program) as followed:
                began = time.perf_counter()
                size = _write_fast(followed.app, sizes.seconds)
                wrote_s = time.perf_counter() - began
                marker = _mark(followed.app)
                [[root]] = followed.app.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'marker'")
                wait_until(lambda: followed.probe.holds(root, marker), step_s=0.02)  # noqa: B023
                took_s = time.perf_counter() - began
                rates[program].append(size / 1e6 / took_s)
                behind[program].append(took_s - wrote_s)
            _check_restored(followed, folder)
            for left in folder.glob(f"{followed.path.name}*"):
                left.unlink()
    title = f"sustained writes, {place.name}"
    for program in PROGRAMS:
        listed = " ".join(f"{value:.1f}" for value in rates[program])
        late = statistics.median(behind[program])
        _row(
            title,
            program,
            f"{statistics.median(rates[program]):7.1f} MB/s ({listed})   then behind for {late:.2f} s",
        )
    ratio = statistics.median(rates["ltx"]) / statistics.median(rates["litestream"])
    return _verdict(
        title, f"{ratio:.2f} of the peer's rate, catching up included; at least 1", met=ratio >= 1
    )


def _write_fast(app: sqlite3.Connection, seconds: float) -> int:
    """Write rows of random bytes, a hundred a transaction; return how many bytes."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        app.execute("BEGIN IMMEDIATE")
        app.executemany("INSERT INTO t (a, b) VALUES (?, randomblob(1000))", [(row,) for row in range(100)])
        app.execute("COMMIT")
        count += 100
    return count * _ROW_SIZE


def _mark(app: sqlite3.Connection) -> bytes:
    marker = secrets.token_bytes(16)
    app.execute("UPDATE marker SET token = ?", (marker,))
    return marker


def _check_restored(followed: _Followed, folder: Path) -> None:
    """Hold a stopped program to what it promised: the last marker and all rows are there."""
    output = folder / "restored.db"
    with closing(Probe(followed.url)) as probe:
        probe.restore(output)
    sql = "SELECT (SELECT count(*) FROM t), (SELECT token FROM marker)"
    found = []
    for path in (followed.path, output):
        with closing(sqlite3.connect(path)) as db:
            found.append(db.execute(sql).fetchall())
    for left in folder.glob("restored.db*"):
        left.unlink()
    if found[0] != found[1]:
        raise RuntimeError(f"what {followed.program} replicated is not what was committed: {found}")


def _bench_requests(folder: Path, place: Place, seconds: float) -> bool:
    """Count what goes over the wire and stays there while an application commits at a steady pace."""
    requests: dict[str, float] = {}
    stored: dict[str, float] = {}
    title = "requests and bytes, s3"
    for program in PROGRAMS:
        port = urlsplit(str(place.peer("x")["endpoint"])).port
        assert port is not None
        with faulty_proxy(port) as proxy:
            through = replace(
                place,
                url=_swapped(place.url, port, proxy.port),
                peer=lambda path: {**place.peer(path), "endpoint": f"http://127.0.0.1:{proxy.port}"},
            )
            with _following(folder, through, program, seen=place) as followed:
                time.sleep(_WARM_S)
                before, (_, size_before) = len(proxy.seen), followed.probe.stored()
                megabytes = sum(1 for _ in _paced(followed.app, seconds)) * _ROW_SIZE / 1e6
                marker = _mark(followed.app)
                [[root]] = followed.app.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'marker'")
                wait_until(lambda: followed.probe.holds(root, marker), step_s=0.1)  # noqa: B023
                methods = [method for method, _ in proxy.seen[before:]]
                size = followed.probe.stored()[1] - size_before
        requests[program] = len(methods) / megabytes
        stored[program] = size / 1e6 / megabytes
        kinds = ", ".join(f"{methods.count(kind)} {kind}" for kind in sorted(set(methods)))
        text = f"{requests[program]:7.1f} requests, {stored[program]:6.2f} MB stored for each committed MB ({kinds})"
        _row(title, program, text)
    many, much = (found["ltx"] / found["litestream"] for found in (requests, stored))
    text = f"{many:.2f} of the peer's requests, {much:.2f} of its bytes; no more than the peer's"
    return _verdict(title, text, met=many <= 1 and much <= 1.02)


def _swapped(url: Callable[[str], str], port: int, other: int) -> Callable[[str], str]:
    return lambda path: url(path).replace(f":{port}", f":{other}")


def _bench_idle(folder: Path, place: Place, count: int, seconds: float) -> bool:
    """What databases cost that nobody writes to; both programs at the same time."""
    title = f"{count} idle databases"
    shares: dict[str, float] = {}
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        both = {}
        for program in PROGRAMS:
            name = f"idle-{program}-{count}"
            (folder / name).mkdir()
            listed = {make_small(folder / name / f"{n}.db"): f"{name}/{n}" for n in range(count)}
            both[program] = stack.enter_context(running(program, folder / name, listed, place))
            for path in listed.values():
                with closing(Probe(place.url(path))) as probe:
                    wait_until(lambda: probe.txid() > 0, step_s=0.2)
        time.sleep(min(10.0, seconds))
        before = {program: found.usage() for program, found in both.items()}
        time.sleep(seconds)
        for program, found in both.items():
            usage = found.usage()
            shares[program] = (usage.cpu_s - before[program].cpu_s) / seconds
            memory[program] = usage.rss_mib
            text = f"{shares[program] * 60:7.2f} s of processor a minute ({shares[program] * 100:.1f} % of a core), "
            _row(title, program, f"{text}{memory[program]:.1f} MiB")
    ratio = shares["ltx"] / max(shares["litestream"], 1e-6)
    text = f"{ratio:.2f} of the peer's processor, {memory['ltx'] / memory['litestream']:.2f} of its memory; "
    met = shares["ltx"] < 0.05 and memory["ltx"] < 200
    return _verdict(title, f"{text}under 5 % of a core and 200 MiB", met=met)


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _row(title: str, name: str, text: str) -> None:
    print(f"{title:<26} {name:<11} {text}")
    sys.stdout.flush()


def _verdict(title: str, text: str, *, met: bool) -> bool:
    print(f"{title:<26} ratio       {text} is wanted: {'goal met' if met else 'GOAL MISSED'}\n")
    sys.stdout.flush()
    return met
