"""Where each page of an LTX file lies: its page index, as arrays (docs/formats/ltx.md, Page index).

This module loads numpy; nothing that only writes or restores files needs it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx.errors import CorruptError, TruncatedError
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.frame import FRAME_HEAD, TERMINATOR
from ltx.format.header import HEADER_SIZE

__all__ = ["PageIndex", "index_range"]

_MAX_VARINT = 10
_MIN_FILE_SIZE = HEADER_SIZE + len(TERMINATOR) + 1 + 8 + TRAILER_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class PageIndex:
    """The page index of one file: three arrays of the same length, ascending by page number.

    Attributes:
        pgnos: Page numbers.
        offsets: Where each frame begins, in bytes from the file's start.
        sizes: Bytes of each frame, its head included.
    """

    pgnos: NDArray[np.uint32]
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint32]

    @classmethod
    def decode(cls, raw: bytes | memoryview, file_size: int) -> "PageIndex":
        """Read an index and check that it can be one of a file of that size.

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
        values = _decode_varints(np.frombuffer(raw, dtype=np.uint8)[:-9], start)
        if len(values) % 3:
            raise CorruptError("the page index ends within an entry", offset=start)
        pgnos, offsets, sizes = values[0::3], values[1::3], values[2::3]
        ends = offsets + sizes
        whole = len(values) == 0 or bool(
            pgnos[0] >= 1
            and pgnos[-1] < 1 << 32
            and (pgnos[1:] > pgnos[:-1]).all()
            and offsets[0] == HEADER_SIZE
            and (sizes > FRAME_HEAD.size).all()
            and (sizes < 1 << 18).all()
            and (offsets[1:] == ends[:-1]).all()
        )
        end = int(ends[-1]) if len(values) else HEADER_SIZE
        if not whole or end + len(TERMINATOR) != start:
            raise CorruptError("the page index contradicts the file that it is in", offset=start)
        return cls(pgnos.astype(np.uint32), offsets.copy(), sizes.astype(np.uint32))

    def __len__(self) -> int:
        return len(self.pgnos)


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


def _decode_varints(raw: NDArray[np.uint8], start: int) -> NDArray[np.uint64]:
    if len(raw) == 0:
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) == 0 or ends[-1] != len(raw) - 1:
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
    return values
