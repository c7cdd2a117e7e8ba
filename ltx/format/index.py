"""Where each page of an LTX file lies: its page index, as arrays (docs/formats/ltx.md, Page index).

This module loads numpy; nothing that only writes or restores files needs it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ltx.errors import CorruptError, TruncatedError
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.frame import FRAME_HEAD, TERMINATOR
from ltx.format.header import HEADER_SIZE

__all__ = ["PageIndex", "Part", "index_range", "read_part"]

_MAX_VARINT = 10
_MIN_FILE_SIZE = HEADER_SIZE + len(TERMINATOR) + 1 + 8 + TRAILER_SIZE

_STRIDE = 1024
"""Entries for which one whole offset is kept. A frame has less than 2**18 bytes, so that the rest fits in 32 bits."""

_CERTAIN = 3
"""Entries in a row that must fit, before they are taken for entries where it is not known how they lie."""

Numbers = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class PageIndex:
    """Entries of the page index of one file, one behind the other, ascending: about eight bytes of memory each.

    Attributes:
        pgnos: Page numbers.
        end: Byte of the file after the last of their frames.
    """

    pgnos: NDArray[np.uint32]
    end: int
    _bases: NDArray[np.uint64] = field(repr=False)
    _rest: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def of(cls, pgnos: Numbers | NDArray[np.uint32], offsets: Numbers, end: int) -> "PageIndex":
        """Keep entries whose frames lie one behind the other, up to byte `end`."""
        bases = offsets[::_STRIDE].copy()
        rest = offsets - np.repeat(bases, _STRIDE)[: len(offsets)]
        return cls(pgnos.astype(np.uint32), end, bases, rest.astype(np.uint32))

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
        values, _ = _decode_varints(np.frombuffer(raw, dtype=np.uint8)[:-9], start)
        if len(values) % 3:
            raise CorruptError("the page index ends within an entry", offset=start)
        pgnos, offsets, sizes = values[0::3], values[1::3], values[2::3]
        end = int(offsets[-1] + sizes[-1]) if len(values) else HEADER_SIZE
        whole = len(values) == 0 or (offsets[0] == HEADER_SIZE and _fit(pgnos, offsets, sizes))
        if not whole or end + len(TERMINATOR) != start:
            raise CorruptError("the page index contradicts the file that it is in", offset=start)
        return cls.of(pgnos, offsets, end)

    @property
    def offsets(self) -> Numbers:
        """Where each frame begins, in bytes from the file's start."""
        return self.frames(0, len(self))[0]

    @property
    def sizes(self) -> NDArray[np.uint32]:
        """Bytes of each frame, its head included."""
        return self.frames(0, len(self))[1]

    def near(self, _pgno: int) -> "PageIndex":
        """Return entries around a page number: these, if they are a whole index."""
        return self

    def place(self, pgno: int) -> int:
        """Return which entry is the first whose page number is not below this one."""
        return int(np.searchsorted(self.pgnos, np.uint32(pgno)))

    def holds(self, pgno: int) -> bool:
        """Whether there is an entry of a page."""
        place = self.place(pgno)
        return place < len(self) and int(self.pgnos[place]) == pgno

    def frames(self, start: int, stop: int) -> tuple[Numbers, NDArray[np.uint32]]:
        """Return where the frames of entries `[start, stop)` begin, and how many bytes each has."""
        places = np.arange(start, min(stop + 1, len(self)))
        offsets = self._bases[places // _STRIDE] + self._rest[places]
        if stop >= len(self):
            offsets = np.append(offsets, np.uint64(self.end))
        return offsets[:-1], np.diff(offsets).astype(np.uint32)

    def offset(self, place: int) -> int:
        """Return where the frame of an entry begins; for the place after the last one, where that one's ends."""
        if place >= len(self):
            return self.end
        return int(self._bases[place // _STRIDE]) + int(self._rest[place])

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
    values, stops = _decode_varints(np.frombuffer(raw, dtype=np.uint8), start, is_part=not ends)
    borders = np.concatenate(([0], stops))
    if not begins:  # the first number may lack its beginning
        values, borders = values[1:], borders[1:]
    skips = [0] if begins else [len(values) % 3] if ends else [0, 1, 2]
    found = []
    for skip in skips:
        count = (len(values) - skip) // 3
        numbers = [values[skip + each : skip + 3 * count : 3] for each in range(3)]
        if count >= (1 if begins or ends else _CERTAIN) and _fit(*numbers):
            found.append((skip, count, numbers))
    if len(found) != 1 or (begins and ends and len(values) % 3):
        raise CorruptError("the page index holds no entries that follow each other here", offset=start)
    skip, count, (pgnos, offsets, sizes) = found[0]
    return Part(
        PageIndex.of(pgnos, offsets, int(offsets[-1] + sizes[-1])),
        start + int(borders[skip]),
        start + int(borders[skip + 3]),
        start + int(borders[skip + 3 * count - 3]),
        start + int(borders[skip + 3 * count]),
    )


def _fit(pgnos: Numbers, offsets: Numbers, sizes: Numbers) -> bool:
    """Whether entries can follow each other in an index."""
    return bool(
        pgnos[0] >= 1
        and pgnos[-1] < 1 << 32
        and (pgnos[1:] > pgnos[:-1]).all()
        and offsets[0] >= HEADER_SIZE
        and (sizes > FRAME_HEAD.size).all()
        and (sizes < 1 << 18).all()
        and (offsets[1:] == (offsets + sizes)[:-1]).all()
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


def _decode_varints(
    raw: NDArray[np.uint8], start: int, *, is_part: bool = False
) -> tuple[Numbers, NDArray[np.int64]]:
    """Return the numbers, and the place after each; the beginning of another one at the end only in a part."""
    if len(raw) == 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) == 0 or (ends[-1] != len(raw) - 1 and not is_part):
        raise CorruptError("the page index ends within a number", offset=start + len(raw))
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _MAX_VARINT - 1:  # 63 bits: more than any offset can need
        raise CorruptError("a number in the page index is too long", offset=start)
    values = np.zeros(len(ends), np.uint64)
    for place in range(longest):
        wide = lengths > place
        values[wide] |= (raw[starts[wide] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    return values, ends + 1
