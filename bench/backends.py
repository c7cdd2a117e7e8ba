"""What our backends cost beside the client libraries that they are built on, on the same servers in the same run."""

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from backends import Backend, open_backend
from backends.retrying import RetryingBackend
from bench.plain import PATH, Plain, plain_client
from tests.servers.storages import STORAGES, Storage

__all__ = ["bench_backends"]

AT_MOST = 1.15
"""Of the library's time."""

_SIZE = 64 << 20
_RANGE = 4 << 10

Call = Callable[[], object]


class _Cost(NamedTuple):
    """What one call took: seconds, and seconds of this process's processor, which a busy machine does not change."""

    wall_s: float
    cpu_s: float


def bench_backends(folder: Path, names: Sequence[str], repeats: int) -> bool:
    """Measure each, print a table, and return whether our layer is within the goal everywhere."""
    chance = random.Random(5)
    source = folder / "source"
    source.write_bytes(chance.randbytes(_SIZE))
    met = True
    print(f"each backend as `ltx` opens it, beside its library; load average {os.getloadavg()[0]:.1f}")
    print(f"{'median ms':<36} {'ltx':>7} {'library':>7}  ratio {'cpu':>7} {'cpu':>7}")
    for name in names:
        with STORAGES[name]() as storage, _environment(storage.environment), _opened(storage) as ours:
            plain = plain_client(name, storage)
            for job, calls in _jobs(ours, plain, source, chance, repeats).items():
                mine, theirs = _in_turns(*calls)
                ratio = mine.wall_s / theirs.wall_s
                met &= ratio <= AT_MOST
                verdict = "" if ratio <= AT_MOST else f"  GOAL MISSED: at most {AT_MOST}"
                print(
                    f"{name:<8} {job:<27} {mine.wall_s * 1000:7.1f} {theirs.wall_s * 1000:7.1f}  {ratio:5.2f}"
                    f" {mine.cpu_s * 1000:7.1f} {theirs.cpu_s * 1000:7.1f}  {plain.name}{verdict}"
                )
                sys.stdout.flush()
    print(f"load average {os.getloadavg()[0]:.1f} at the end\n")
    return met


def _jobs(
    ours: Backend, plain: Plain, source: Path, chance: random.Random, repeats: int
) -> Mapping[str, tuple[Sequence[Call], Sequence[Call]]]:
    """Return what is measured: calls of ours, and calls of the library that do the same."""
    whole = source.read_bytes()
    plain.upload(source, "whole")  # one object for both: how it was put together changes how fast it is read

    def spans(count: int) -> list[tuple[int, int]]:
        starts = (chance.randrange(_SIZE // _RANGE) * _RANGE for _ in range(count))
        return [(start, start + _RANGE) for start in starts]

    def checked(read: Callable[[], Sequence[bytes]], wanted: Sequence[tuple[int, int]]) -> None:
        if [*read()] != [whole[start:end] for start, end in wanted]:
            raise RuntimeError(f"wrong bytes: {ours.url}")

    single: tuple[list[Call], list[Call]] = ([], [])
    for start, end in spans(200):
        single[0].append(partial(ours.get, "whole", start, end))
        single[1].append(partial(plain.read, "whole", start, end))
    many: tuple[list[Call], list[Call]] = ([], [])
    for _ in range(3 * repeats):
        wanted = spans(64)
        pieces = [("whole", start, end) for start, end in wanted]
        many[0].append(partial(checked, partial(ours.get_ranges, pieces), wanted))
        many[1].append(partial(checked, partial(plain.read_many, "whole", wanted), wanted))
    return {
        "4 KiB range": single,
        "64 ranges of 4 KiB at once": many,
        "64 MiB up": (
            [partial(_upload, ours, source, f"ours-{number}") for number in range(repeats)],
            [partial(plain.upload, source, f"plain-{number}") for number in range(repeats)],
        ),
        "64 MiB down": (
            [partial(ours.get, "whole")] * repeats,
            [partial(plain.download, "whole")] * repeats,
        ),
    }


def _upload(backend: Backend, source: Path, key: str) -> None:
    """Put a file as the replicator does: exclusively where that is possible, with a time."""
    with open(source, "rb") as file:
        exclusive = backend.capabilities.put_if_absent
        backend.put(key, file, if_absent=exclusive, timestamp_ms=1_790_000_000_000)


def _in_turns(mine: Sequence[Call], theirs: Sequence[Call]) -> tuple[_Cost, _Cost]:
    """Call each in turns; return the median cost of both."""
    taken: tuple[list[_Cost], list[_Cost]] = ([], [])
    for number, pair in enumerate(zip(mine, theirs, strict=True)):
        order = (0, 1) if number % 2 else (1, 0)  # whoever comes second finds the caches warm
        for side in order:
            began, began_cpu = time.perf_counter(), time.process_time()
            pair[side]()
            taken[side].append(_Cost(time.perf_counter() - began, time.process_time() - began_cpu))
    return _median(taken[0]), _median(taken[1])


def _median(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(
        statistics.median(cost.wall_s for cost in costs), statistics.median(cost.cpu_s for cost in costs)
    )


@contextmanager
def _opened(storage: Storage) -> Iterator[Backend]:
    url = next(iter(storage.urls.values()))(PATH)
    words = storage.options[1::2]
    options = {name: value for name, _, value in (word.partition("=") for word in words)}
    with RetryingBackend(open_backend(url, **options)) as backend:
        yield backend


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
