"""Long page indexes at once, with numpy: what `ltx.format.index` does with shorter ones number by number."""

from array import array

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_varints", "follow"]

_MOST_BYTES = 9
"""Of a number that is decoded; of longer ones only the length counts."""


def decode_varints(raw: bytes | memoryview) -> "tuple[array[int], array[int], int]":
    """Return the numbers in some bytes, the place after each, and how many bytes the longest has.

    Where that is more than nine the numbers mean nothing.
    """
    data = np.frombuffer(raw, np.uint8)
    stops = np.flatnonzero(data < 0x80) + 1
    starts = np.concatenate(([0], stops))
    begun = len(data) - int(starts[-1])
    starts = starts[:-1]
    lengths = stops - starts
    values = np.zeros(len(stops), np.uint64)
    longest = int(lengths.max(initial=begun + 1 if begun else 0))
    for place in range(min(longest, _MOST_BYTES)):
        wide = lengths > place
        values[wide] |= (data[starts[wide] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(
            7 * place
        )
    return _array(values), _array(stops.astype(np.uint64)), longest


def follow(pgnos: "array[int]", offsets: "array[int]", sizes: "array[int]") -> bool:
    """Whether page numbers ascend, and each frame begins where the one before it ends."""
    numbers, begins, lengths = (np.frombuffer(each, np.uint64) for each in (pgnos, offsets, sizes))
    return bool((numbers[1:] > numbers[:-1]).all() and (begins[1:] == (begins + lengths)[:-1]).all())


def _array(numbers: NDArray[np.uint64]) -> "array[int]":
    made = array("Q")
    made.frombytes(numbers.tobytes())
    return made
