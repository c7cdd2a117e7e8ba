"""Sets of LTX files as a replica may hold them after anything that can happen to one, made from a seed."""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ltx.format import TXID, Encoder, Header, file_name, to_timestamp_ms

__all__ = ["KINDS", "Place", "file_set", "lay_out", "time_of"]

_BEGIN = datetime(2026, 9, 21, 12, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Place:
    """A file's level and the TXIDs in it."""

    level: int
    min_txid: int
    max_txid: int


def time_of(txid: int) -> datetime:
    """Return when a TXID was committed: one a second, whatever file it is in."""
    return _BEGIN + timedelta(seconds=txid)


def lay_out(folder: Path, places: Sequence[Place]) -> None:
    """Write a small, valid file for each place, with the time of its last TXID in header and on disk."""
    for place in places:
        timestamp_ms = to_timestamp_ms(time_of(place.max_txid))
        header = Header(
            page_size=512,
            commit=1,
            min_txid=TXID(place.min_txid),
            max_txid=TXID(place.max_txid),
            timestamp_ms=timestamp_ms,
        )
        path = folder / "ltx" / str(place.level) / file_name(place.min_txid, place.max_txid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(Encoder(header, [(1, place.max_txid.to_bytes(512, "big"))])))
        os.utime(path, ns=(timestamp_ms * 1_000_000,) * 2)


def file_set(kind: str, seed: int) -> Sequence[Place]:
    """Make the set that a kind and a seed give, in the order of a listing; never an empty one."""
    source = random.Random(f"{kind} {seed}")
    found: set[Place] = set()
    while not found:
        found = set(KINDS[kind](source, source.randint(2, 32)))
    return sorted(found)


def _merged(source: random.Random, newest: int, level: int) -> Iterator[Place]:
    """Yield files that lie one behind the other up to somewhere, as a merging level has them."""
    first, longest = 1, 2 ** source.randint(1, 4)
    while first <= newest:
        last = min(newest, first + source.randrange(longest))
        yield Place(level, first, last)
        first = last + 1


def _snapshots(source: random.Random, newest: int) -> Iterator[Place]:
    for _ in range(source.randint(1, 3)):
        yield Place(9, 1, source.randint(1, newest))


def _singles(newest: int) -> Iterator[Place]:
    return (Place(0, txid, txid) for txid in range(1, newest + 1))


def _levels(source: random.Random) -> Sequence[int]:
    return sorted(source.sample(range(1, 9), source.randint(1, 4)))


def _as_written(source: random.Random, newest: int) -> Iterator[Place]:
    """What the real Litestream leaves: merged files below the newest ones, and snapshots."""
    yield from _singles(newest)
    for level in _levels(source):
        yield from _merged(source, source.randint(1, newest), level)
    yield from _snapshots(source, newest)


def _pruned(source: random.Random, newest: int) -> Iterator[Place]:
    """Level 0 and old merged files are gone below a snapshot."""
    floor = source.randint(1, newest)
    yield Place(9, 1, floor)
    yield from (
        place for place in _as_written(source, newest) if place.max_txid > floor - source.randint(0, 3)
    )


def _without_snapshots(source: random.Random, newest: int) -> Iterator[Place]:
    yield from (place for place in _as_written(source, newest) if place.level != 9)


def _with_holes(source: random.Random, newest: int) -> Iterator[Place]:
    """Some files are missing; others may or may not hold the same."""
    kept = source.choice((0.5, 0.8, 0.95))
    yield from (place for place in _as_written(source, newest) if source.random() < kept)


def _overlapping(source: random.Random, newest: int) -> Iterator[Place]:
    """Merged files reach back into the one before, contain others, or lie in several levels."""
    yield from _singles(source.randint(1, newest))
    yield from _snapshots(source, newest)
    for level in _levels(source):
        for place in _merged(source, newest, level):
            first = max(1, place.min_txid - source.randrange(4))
            yield Place(level, first, place.max_txid)
            if source.random() < 0.3:
                yield Place(level, place.min_txid, source.randint(place.min_txid, place.max_txid))
            if source.random() < 0.3:
                yield Place(source.randint(1, 8), first, place.max_txid)


def _starting_late(source: random.Random, newest: int) -> Iterator[Place]:
    """Nothing leads from TXID 1, or only just."""
    first = source.randint(1, 4)
    yield from (place for place in _without_snapshots(source, newest) if place.min_txid >= first)


def _anything(source: random.Random, newest: int) -> Iterator[Place]:
    """Ranges drawn at random over all levels."""
    yield Place(source.randrange(10), 1, source.randint(1, 4))
    for _ in range(source.randint(1, 24)):
        first = source.randint(1, newest)
        last = min(newest, first + source.choice((0, 0, 1, 3, 9)))
        level = source.randrange(10)
        yield Place(level, 1 if level == 9 else first, last)


KINDS: Mapping[str, Callable[[random.Random, int], Iterator[Place]]] = {
    "as written": _as_written,
    "pruned": _pruned,
    "without snapshots": _without_snapshots,
    "with holes": _with_holes,
    "overlapping": _overlapping,
    "starting late": _starting_late,
    "anything": _anything,
}
