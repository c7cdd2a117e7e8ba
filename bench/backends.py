"""What our backends cost beside the client libraries that they are built on, on the same servers in the same run."""

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from backends import Backend, open_backend
from backends.azure import AzureBackend
from backends.gcs import GCSBackend
from backends.obstore_azure import ObstoreAzureBackend
from backends.obstore_gcs import ObstoreGCSBackend
from backends.obstore_s3 import ObstoreS3Backend
from backends.retrying import RetryingBackend
from backends.s3 import S3Backend
from bench.measure import environment
from bench.plain import PATH, Plain, plain_client, plain_obstore
from tests.servers.storages import STORAGES, Storage

__all__ = ["bench_backends"]

AT_MOST = 1.15
"""Of the library's time."""

_SIZE = 64 << 20
_RANGE = 4 << 10

_ENGINES: Mapping[str, tuple[type[Backend], type[Backend]]] = {
    "s3": (S3Backend, ObstoreS3Backend),
    "gcs": (GCSBackend, ObstoreGCSBackend),
    "azure": (AzureBackend, ObstoreAzureBackend),
}
"""Without and with obstore."""

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
    print("`fast` is `ltx` with obstore installed, beside obstore alone; cpu is this process's, in ms")
    print(f"{'median ms':<36} {'ltx':>7} {'library':>7}  ratio {'cpu':>7} {'cpu':>7}")
    for name in names:
        with STORAGES[name]() as storage, environment(storage.environment), ExitStack() as stack:
            sides = [(name, _opened(stack, storage, None), plain_client(name, storage))]
            if name in _ENGINES:
                library, fast = _ENGINES[name]
                obstore = plain_obstore(name, storage)
                sides = [(name, _opened(stack, storage, library), sides[0][2]),
                         (f"{name} fast", _opened(stack, storage, fast), obstore)]  # fmt: skip
            calls = [_jobs(ours, plain, source, chance, repeats) for _, ours, plain in sides]
            for job in calls[0]:
                costs = _in_turns([each for of_side in calls for each in of_side[job]])
                for number, (label, _, plain) in enumerate(sides):
                    mine, theirs = costs[2 * number : 2 * number + 2]
                    ratio = mine.wall_s / costs[1].wall_s
                    met &= ratio <= AT_MOST
                    verdict = "" if ratio <= AT_MOST else f"  GOAL MISSED: at most {AT_MOST}"
                    print(
                        f"{label:<10} {job:<25} {mine.wall_s * 1000:7.1f} {theirs.wall_s * 1000:7.1f}"
                        f"  {ratio:5.2f} {mine.cpu_s * 1000:7.1f} {theirs.cpu_s * 1000:7.1f}  {plain.name}{verdict}"
                    )
                    sys.stdout.flush()
    print("the ratio is that to the scheme's own library, in every line")
    print(f"load average {os.getloadavg()[0]:.1f} at the end\n")
    return met


def _jobs(
    ours: Backend, plain: Plain, source: Path, chance: random.Random, repeats: int
) -> Mapping[str, tuple[Sequence[Call], Sequence[Call]]]:
    """Return what is measured: calls of ours, and calls of the library that do the same."""
    whole = source.read_bytes()
    key = f"whole-{plain.name}"
    plain.upload(source, key)  # one object for both: how it was put together changes how fast it is read

    def spans(count: int) -> list[tuple[int, int]]:
        starts = (chance.randrange(_SIZE // _RANGE) * _RANGE for _ in range(count))
        return [(start, start + _RANGE) for start in starts]

    def checked(read: Callable[[], Sequence[bytes]], wanted: Sequence[tuple[int, int]]) -> None:
        if [*read()] != [whole[start:end] for start, end in wanted]:
            raise RuntimeError(f"wrong bytes: {ours.url}")

    single: tuple[list[Call], list[Call]] = ([], [])
    for start, end in spans(200):
        single[0].append(partial(ours.get, key, start, end))
        single[1].append(partial(plain.read, key, start, end))
    many: tuple[list[Call], list[Call]] = ([], [])
    for _ in range(3 * repeats):
        wanted = spans(64)
        pieces = [(key, start, end) for start, end in wanted]
        many[0].append(partial(checked, partial(ours.get_ranges, pieces), wanted))
        many[1].append(partial(checked, partial(plain.read_many, key, wanted), wanted))
    return {
        "4 KiB range": single,
        "64 ranges of 4 KiB": many,
        "64 MiB up": (
            [partial(_upload, ours, source, f"ours-{plain.name}-{number}") for number in range(repeats)],
            [partial(plain.upload, source, f"{plain.name}-{number}") for number in range(repeats)],
        ),
        "64 MiB down": (
            [partial(ours.get, key)] * repeats,
            [partial(plain.download, key)] * repeats,
        ),
    }


def _upload(backend: Backend, source: Path, key: str) -> None:
    """Put a file as the replicator does: exclusively where that is possible, with a time."""
    with open(source, "rb") as file:
        exclusive = backend.capabilities.put_if_absent
        backend.put(key, file, if_absent=exclusive, timestamp_ms=1_790_000_000_000)


def _in_turns(sides: Sequence[Sequence[Call]]) -> Sequence[_Cost]:
    """Call each in turns; return the median cost of each."""
    taken: list[list[_Cost]] = [[] for _ in sides]
    for number, calls in enumerate(zip(*sides, strict=True)):
        for turn in range(len(sides)):
            side = (turn + number) % len(sides)  # whoever comes second finds the caches warm
            began, began_cpu = time.perf_counter(), time.process_time()
            calls[side]()
            taken[side].append(_Cost(time.perf_counter() - began, time.process_time() - began_cpu))
    return [_median(costs) for costs in taken]


def _median(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(
        statistics.median(cost.wall_s for cost in costs), statistics.median(cost.cpu_s for cost in costs)
    )


def _opened(stack: ExitStack, storage: Storage, engine: type[Backend] | None) -> Backend:
    url = next(iter(storage.urls.values()))(PATH)
    words = storage.options[1::2]
    options: dict[str, object] = {name: value for name, _, value in (word.partition("=") for word in words)}
    backend = engine.from_url(url, **options) if engine else open_backend(url, **options)
    return stack.enter_context(RetryingBackend(backend))
