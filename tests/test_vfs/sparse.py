"""A replica of a database of 107 GB, of which every byte is made when it is read: `sparse://name`."""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate
from typing import Self

import apsw

from backends import ObjectInfo, register
from backends.memory import MemoryBackend
from ltx import TXID
from ltx.format import Header, lock_page
from ltx.format.encoder import uvarint

__all__ = ["COMMIT", "INCREMENTS", "LEAVES", "PAGE_SIZE", "SNAPSHOT", "SparseBackend", "leaf", "leaf_pgno"]

PAGE_SIZE = 4096
LEAVES = 26_000_000
FANOUT = 100
LEVELS = [LEAVES]
while LEVELS[-1] > 1:
    LEVELS.append(-(-LEVELS[-1] // FANOUT))
FIRSTS = list(accumulate(reversed(LEVELS), initial=2))
"""Ordinals, which are page numbers as if there were no lock page: page 1, the root, and so on down to the leaves."""

ORDINALS = 1 + sum(LEVELS)
LOCK = lock_page(PAGE_SIZE)
COMMIT = ORDINALS + 1
"""Pages of the database."""

SNAPSHOT = "ltx/9/0000000000000001-0000000000000001.ltx"
INCREMENTS = range(2, 22)
"""TXIDs that a test may put behind it."""

_PERIOD = 64
_PLAIN = [1400 + each * 37 % _PERIOD for each in range(1, _PERIOD + 1)]
"""How many bytes of a page lie in its frame as they are; the rest of every page is zeros."""

_FRAME_REST = 10 + 26
_SIZES = [0, *accumulate(plain + _FRAME_REST for plain in _PLAIN)]
_HEAD = Header(
    page_size=PAGE_SIZE, commit=COMMIT, min_txid=TXID(1), max_txid=TXID(1), timestamp_ms=1_700_000_000_000
).pack()


def pgno_of(ordinal: int) -> int:
    return ordinal + (ordinal >= LOCK)


def leaf_pgno(row: int) -> int:
    """Return the page that holds a row, from 1."""
    return pgno_of(FIRSTS[-2] + row - 1)


def frame_offset(ordinal: int) -> int:
    """Return where the frame of an ordinal from 1 begins."""
    rounds, rest = divmod(ordinal - 1, _PERIOD)
    return 100 + rounds * _SIZES[-1] + _SIZES[rest]


def _first(above: Callable[[int], int], bound: int) -> int:
    return bisect_right(range(1, ORDINALS + 2), bound - 1, key=above) + 1


_WIDER = [_first(numbers, 1 << 7 * power) for numbers in (pgno_of, frame_offset) for power in range(1, 6)]
"""Ordinals from which on a page number or an offset takes a byte more in the index; sizes always take two."""


def entry_offset(ordinal: int) -> int:
    """Return where the entry of an ordinal begins, from the start of the index."""
    return 4 * (ordinal - 1) + sum(max(0, ordinal - wider) for wider in _WIDER)


INDEX_START = frame_offset(ORDINALS + 1) + 6
INDEX_STOP = INDEX_START + entry_offset(ORDINALS + 1)
_END = b"\0" + (INDEX_STOP + 1 - INDEX_START).to_bytes(8, "big") + bytes(8) + (1 << 63 | 7).to_bytes(8, "big")
SIZE = INDEX_STOP + len(_END)


def entry(ordinal: int) -> bytes:
    offset = frame_offset(ordinal)
    return uvarint(pgno_of(ordinal)) + uvarint(offset) + uvarint(frame_offset(ordinal + 1) - offset)


def frame(ordinal: int) -> bytes:
    """Return a frame: an LZ4 block of plain bytes, a run of zeros, and five zeros at its end."""
    page, plain = page_of(ordinal), _PLAIN[(ordinal - 1) % _PERIOD]
    assert not any(page[plain - 1 :])
    run = PAGE_SIZE - plain - 5
    block = b"\xff" + _more(plain - 15) + page[:plain] + b"\1\0" + _more(run - 19) + b"\x50" + bytes(5)
    return struct.pack(">IHI", pgno_of(ordinal), 1, len(block)) + block


def _more(length: int) -> bytes:
    return b"\xff" * (length // 255) + bytes([length % 255])


def page_of(ordinal: int) -> bytes:
    if ordinal == 1:
        return first_page()
    depth = bisect_right(FIRSTS, ordinal) - 1
    level, place = len(LEVELS) - 1 - depth, ordinal - FIRSTS[depth]
    return leaf(place + 1, f"row {place + 1}") if level == 0 else interior(level, place)


def leaf(row: int, text: str) -> bytes:
    """Return the page of one row."""
    record = bytes([3, 0, 13 + 2 * len(text)]) + text.encode()
    return tree_page(13, [sqlite_varint(len(record)) + sqlite_varint(row) + record])


def interior(level: int, place: int) -> bytes:
    children = range(place * FANOUT, min((place + 1) * FANOUT, LEVELS[level - 1]))
    first = FIRSTS[len(LEVELS) - level]
    pages = [pgno_of(first + child).to_bytes(4, "big") for child in children]
    rows = [min((child + 1) * FANOUT ** (level - 1), LEAVES) for child in children]
    cells = [page + sqlite_varint(row) for page, row in zip(pages, rows, strict=True)]
    return tree_page(5, cells[:-1], pages[-1])


def sqlite_varint(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def tree_page(kind: int, cells: list[bytes], right: bytes = b"", before: bytes = b"") -> bytes:
    """Return a b-tree page whose cells lie at its start."""
    start = len(before) + 8 + len(right) + 2 * len(cells)
    places = accumulate((len(cell) for cell in cells[:-1]), initial=start)
    head = struct.pack(">BHHHB", kind, 0, len(cells), start, 0) + right
    pointers = b"".join(place.to_bytes(2, "big") for place in places)
    return (before + head + pointers + b"".join(cells)).ljust(PAGE_SIZE, b"\0")


@cache
def first_page() -> bytes:
    db = apsw.Connection(":memory:")
    db.execute(f"PRAGMA page_size = {PAGE_SIZE}; CREATE TABLE t (id INTEGER PRIMARY KEY, a)").fetchall()
    page = db.serialize("main")[:PAGE_SIZE]
    begin = int.from_bytes(page[105:107], "big")
    return tree_page(13, [page[begin:]], before=page[:28] + COMMIT.to_bytes(4, "big") + page[32:100])


def pieces(start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of the snapshot that cover a range, each with its offset."""
    if start < 100:
        yield 0, _HEAD
    if start < INDEX_START and end > 100:
        ordinals = range(1, ORDINALS + 1)
        for ordinal in ordinals[max(0, bisect_right(ordinals, start, key=frame_offset) - 1) :]:
            if frame_offset(ordinal) >= end:
                break
            yield frame_offset(ordinal), frame(ordinal)
        yield INDEX_START - 6, bytes(6)
    if start < INDEX_STOP and end > INDEX_START:
        ordinals = range(1, ORDINALS + 1)
        for ordinal in ordinals[max(0, bisect_right(ordinals, start - INDEX_START, key=entry_offset) - 1) :]:
            if INDEX_START + entry_offset(ordinal) >= end:
                break
            yield INDEX_START + entry_offset(ordinal), entry(ordinal)
    if end > INDEX_STOP:
        yield INDEX_STOP, _END


class SparseBackend(MemoryBackend):
    """The snapshot, and whatever is put beside it."""

    scheme = "sparse"

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        assert not options
        made = cls(url.partition("://")[2])
        made.url = url
        return made

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key != SNAPSHOT:
            return super().get(key, start, end)
        start = start + SIZE if start < 0 else start
        end = SIZE if end is None else min(end, SIZE)
        assert end - start < 4 << 20, "nobody needs that much at once"
        read = bytearray(end - start)
        for offset, piece in pieces(start, end):
            if offset < end and offset + len(piece) > start:
                first = max(offset, start)
                part = piece[first - offset : end - offset]
                read[first - start : first - start + len(part)] = part
        self.stats.count("get", received=len(read))
        return bytes(read)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        info = ObjectInfo(SNAPSHOT, SIZE, datetime.fromtimestamp(1_700_000_000, UTC), None, "1")
        found = [*super().list(prefix, start_after=start_after), info]
        return iter(sorted(found, key=lambda each: each.key))


register("sparse", f"{__name__}:SparseBackend")
