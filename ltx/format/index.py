"""Where each page of an LTX file lies: its page index, as arrays (docs/formats/ltx.md, Page index).

numpy decodes long ones. It takes longer to load than a shorter one takes without it, so that a first query does not.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from operator import add, eq, lt, sub

from ltx.errors import CorruptError, TruncatedError
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.frame import FRAME_HEAD, TERMINATOR
from ltx.format.header import HEADER_SIZE

__all__ = ["PageIndex", "Part", "count_ascending", "index_range", "read_part"]

_MOST_BYTES = 9
"""Of a number: 63 bits are more than any offset can need."""

_MIN_FILE_SIZE = HEADER_SIZE + len(TERMINATOR) + 1 + 8 + TRAILER_SIZE
_MAX_FRAME_SIZE = 1 << 18

_FEW, _MANY = 2 << 10, 256 << 10
"""Bytes, and entries, beyond which numpy is faster: where it is loaded already, and where it must be loaded."""

_CERTAIN = 3
"""Entries in a row that must fit, before they are taken for entries where it is not known how they lie."""


@dataclass(frozen=True, slots=True, eq=False)
class PageIndex:
    """Entries of the page index of one file, one behind the other, ascending: eight bytes of memory each.

    Twelve bytes in a file of more than 4 GiB.

    Attributes:
        pgnos: Page numbers.
        offsets: Where each frame begins, in bytes from the file's start.
        end: Byte of the file after the last of their frames.
    """

    pgnos: "array[int]"
    offsets: "array[int]"
    end: int

    @classmethod
    def of(cls, pgnos: "array[int]", offsets: "array[int]", end: int) -> "PageIndex":
        """Keep entries whose frames lie one behind the other, up to byte `end`, in as little room as they need."""
        offsets = array("I" if end < 1 << 32 else "Q", offsets)
        return cls(array("I", pgnos)[:], offsets[:], end)  # an array that was copied has no room to spare

    @classmethod
    def decode(cls, raw: bytes | memoryview, file_size: int) -> "PageIndex":
        """Read a whole index and check that it can be one of a file of that size.

        Page numbers must ascend, and frames must lie one behind the other from the header to the index.

        Args:
            raw: The entries, with the zero byte that ends them and the eight bytes of their length.
            file_size: Bytes of the whole file.

        Raises:
            CorruptError: It cannot be. The offset is relative to the file.
        """
        start = file_size - TRAILER_SIZE - len(raw)
        if len(raw) < 9 or int.from_bytes(raw[-8:], "big") != len(raw) - 8 or raw[-9] != 0:
            raise CorruptError("the page index does not end as it must", offset=file_size - TRAILER_SIZE - 8)
        values, _ = _decode_varints(raw[:-9], start)
        if len(values) % 3:
            raise CorruptError("the page index ends within an entry", offset=start)
        pgnos, offsets, sizes = values[0::3], values[1::3], values[2::3]
        end = offsets[-1] + sizes[-1] if values else HEADER_SIZE
        whole = not values or (offsets[0] == HEADER_SIZE and _fit(pgnos, offsets, sizes))
        if not whole or end + len(TERMINATOR) != start:
            raise CorruptError("the page index contradicts the file that it is in", offset=start)
        return cls.of(pgnos, offsets, end)

    @property
    def sizes(self) -> "list[int]":
        """Bytes of each frame, its head included."""
        return self.frames(0, len(self))[1]

    def near(self, _pgno: int) -> "PageIndex":
        """Return entries around a page number: these, if they are a whole index."""
        return self

    def place(self, pgno: int) -> int:
        """Return which entry is the first whose page number is not below this one."""
        return bisect_left(self.pgnos, pgno)

    def holds(self, pgno: int) -> bool:
        """Whether there is an entry of a page."""
        place = self.place(pgno)
        return place < len(self) and self.pgnos[place] == pgno

    def frames(self, start: int, stop: int) -> "tuple[list[int], list[int]]":
        """Return where the frames of entries `[start, stop)` begin, and how many bytes each has."""
        offsets = self.offsets[start : stop + 1].tolist()
        if stop >= len(self):
            offsets.append(self.end)
        return offsets[:-1], list(map(sub, islice(offsets, 1, None), offsets))

    def offset(self, place: int) -> int:
        """Return where the frame of an entry begins; for the place after the last one, where that one's ends."""
        return self.end if place >= len(self) else self.offsets[place]

    def __len__(self) -> int:
        return len(self.pgnos)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some entries of an index, and where they themselves lie.

    Attributes:
        index: The entries, at least one.
        first: Byte of the file at which the first of them begins.
        second: Byte after the first one.
        last: Byte at which the last one begins.
        stop: Byte after the last one.
    """

    index: PageIndex
    first: int
    second: int
    last: int
    stop: int


def read_part(raw: bytes, start: int, *, begins: bool, ends: bool) -> Part:
    """Find the entries in some bytes of an index.

    Where neither end of the bytes is known to be that of an entry, entries are recognised with certainty by what
    follows from one to the next: page numbers ascend, and each frame begins where the one before it ends.

    Args:
        raw: Bytes of the entries.
        start: Where in the file they lie.
        begins: Whether an entry begins with the first byte.
        ends: Whether an entry ends with the last byte.

    Raises:
        CorruptError: They are no entries, or too few to tell.
    """
    values, stops = _decode_varints(raw, start, is_part=not ends)
    stops.insert(0, 0)
    if not begins:  # the first number may lack its beginning
        del values[:1], stops[0]
    skips = [0] if begins else [len(values) % 3] if ends else [0, 1, 2]
    found = []
    for skip in skips:
        count = (len(values) - skip) // 3
        pgnos, offsets, sizes = (values[skip + each : skip + 3 * count : 3] for each in range(3))
        if count >= (1 if begins or ends else _CERTAIN) and _fit(pgnos, offsets, sizes):
            found.append((skip, count, PageIndex.of(pgnos, offsets, offsets[-1] + sizes[-1])))
    if len(found) != 1 or (begins and ends and len(values) % 3):
        raise CorruptError("the page index holds no entries that follow each other here", offset=start)
    skip, count, index = found[0]
    behind = skip + 3 * count
    return Part(
        index, start + stops[skip], start + stops[skip + 3], start + stops[behind - 3], start + stops[behind]
    )


def index_range(tail: bytes, file_size: int) -> tuple[int, int]:
    """Return where a file's page index lies, from the last bytes of the file.

    Args:
        tail: The last bytes of the file, at least 24 of them.
        file_size: Bytes of the whole file.

    Returns:
        `[start, end)` in bytes from the file's start, the eight bytes of its length included.

    Raises:
        CorruptError: The length cannot be right.
    """
    if file_size < _MIN_FILE_SIZE or len(tail) < TRAILER_SIZE + 8:
        raise TruncatedError(f"a file of {file_size} bytes is too short for LTX", offset=file_size)
    end = file_size - TRAILER_SIZE
    size = int.from_bytes(tail[-TRAILER_SIZE - 8 : -TRAILER_SIZE], "big")
    if not 1 <= size <= end - 8 - HEADER_SIZE - len(TERMINATOR):
        raise CorruptError(f"a page index of {size} bytes in a file of {file_size}", offset=end - 8)
    return end - 8 - size, end


def count_ascending(pgnos: Sequence[int], place: int, count: int) -> int:
    """Return how many of `count` ascending numbers, from a place on, each follow the one before by one."""
    first = pgnos[place]
    if pgnos[place + count - 1] - first == count - 1:
        return count
    return bisect_right(range(count), 0, key=lambda each: pgnos[place + each] - first - each)


def _fit(pgnos: "array[int]", offsets: "array[int]", sizes: "array[int]") -> bool:
    """Whether entries can follow each other in an index."""
    if not (pgnos[0] >= 1 and pgnos[-1] < 1 << 32 and offsets[0] >= HEADER_SIZE):
        return False
    if _uses_numpy(len(pgnos)):
        from ltx.format.long_index import follow

        follows = follow(pgnos, offsets, sizes)
    else:
        follows = all(map(lt, pgnos, islice(pgnos, 1, None))) and all(
            map(eq, islice(offsets, 1, None), map(add, offsets, sizes))
        )
    return follows and min(sizes) > FRAME_HEAD.size and max(sizes) < _MAX_FRAME_SIZE


def _uses_numpy(count: int) -> bool:
    return count > (_FEW if "numpy" in sys.modules else _MANY)


def _decode_varints(
    raw: bytes | memoryview, start: int, *, is_part: bool = False
) -> "tuple[array[int], array[int]]":
    """Return the numbers, and the place after each; the beginning of another one at the end only in a part."""
    if _uses_numpy(len(raw)):
        from ltx.format.long_index import decode_varints

        values, stops, longest = decode_varints(raw)
    else:
        values, stops, longest = _varints(raw)
    if longest > _MOST_BYTES:
        raise CorruptError("a number in the page index is too long", offset=start)
    if len(raw) and not is_part and (not stops or stops[-1] != len(raw)):
        raise CorruptError("the page index ends within a number", offset=start + len(raw))
    return values, stops


def _varints(raw: bytes | memoryview) -> "tuple[array[int], array[int], int]":
    """Return the numbers, the place after each, and how many bytes the longest has; one that is too long ends it."""
    values: list[int] = []
    stops: list[int] = []
    value = shift = 0
    for place, byte in enumerate(raw, 1):
        if byte < 0x80:
            values.append(value | byte << shift)
            stops.append(place)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift == 7 * _MOST_BYTES:
                return array("Q"), array("Q"), _MOST_BYTES + 1
    return array("Q", values), array("Q", stops), _MOST_BYTES
