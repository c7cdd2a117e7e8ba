"""The write-ahead log: which of its frames are committed, and where the newest image of each page lies.

The format is SQLite's (its documentation, "The Write-Ahead Log"). A frame counts when its salts are the
header's and its checksum continues that of the frame before it; only frames up to the last commit count.

The checksum is linear: for n pairs of 32-bit words it is a sum of the words times Fibonacci numbers modulo
2^32, so that all frames of a batch are one matrix product. This module loads numpy.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FRAME_HEAD_SIZE",
    "WAL_HEADER_SIZE",
    "CommittedFrames",
    "ReadWAL",
    "WALHeader",
    "committed_frames",
    "valid_frames",
]

WAL_HEADER_SIZE = 32
FRAME_HEAD_SIZE = 24
"""Bytes of a frame before its page: page number, commit, two salts, two words of checksum."""

_LITTLE, _BIG = 0x377F0682, 0x377F0683
_VERSION = 3007000
_BATCH_SIZE = 4 << 20
_MASK = 0xFFFFFFFF

ReadWAL = Callable[[int, int], bytes]
"""Reads `size` bytes at `offset` of the WAL, with zeros in place of what lies beyond its end."""


@dataclass(frozen=True, slots=True)
class WALHeader:
    """The first 32 bytes of a WAL.

    Attributes:
        page_size: Bytes of a page.
        salts: The eight bytes that mark the frames of this run through the file.
        checksum: The two words that the first frame's checksum continues.
        big_endian: Whether checksums take words in big-endian order.
    """

    page_size: int
    salts: bytes
    checksum: tuple[int, int]
    big_endian: bool

    @classmethod
    def unpack(cls, data: bytes) -> "WALHeader | None":
        """Read a header, or return None where there is no WAL to speak of, as SQLite itself decides."""
        if len(data) < WAL_HEADER_SIZE:
            return None
        magic, version, page_size, _, _, _, sum1, sum2 = struct.unpack_from(">8I", data)
        if magic not in (_LITTLE, _BIG) or version != _VERSION:
            return None
        if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
            return None
        big_endian = magic == _BIG
        words = np.frombuffer(data[:24], ">u4" if big_endian else "<u4").astype(np.uint32)
        if _advance((0, 0), _sums(words[np.newaxis])[0], len(words)) != (sum1, sum2):
            return None
        return cls(page_size, data[16:24], (sum1, sum2), big_endian)

    @property
    def frame_size(self) -> int:
        """Bytes of a frame: its head and a page."""
        return FRAME_HEAD_SIZE + self.page_size


@dataclass(frozen=True, slots=True, eq=False)
class CommittedFrames:
    """Where the committed image of each page in a WAL lies.

    Attributes:
        commit: Pages of the database after the last commit; 0 where nothing is committed.
        pgnos: Numbers of the pages in the WAL, ascending.
        offsets: Where the page's bytes begin in the WAL, for each of them.
        end: Bytes of the WAL up to the end of the last committed frame.
        checksum: The running checksum there; None where nothing is committed.
    """

    commit: int = 0
    pgnos: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    end: int = WAL_HEADER_SIZE
    checksum: tuple[int, int] | None = None


def committed_frames(read: ReadWAL, header: WALHeader, *, limit: int | None = None) -> CommittedFrames:
    """Find the committed frames of a WAL, in one pass and twelve bytes of memory a frame.

    Args:
        read: Reads the WAL.
        header: Its header.
        limit: Look at no byte from here on; None for as far as frames are valid.
    """
    size = header.frame_size
    seen: list[NDArray[np.uint32]] = []
    total = last = commit = 0
    checksum: tuple[int, int] | None = None
    for heads, _ in valid_frames(read, header, WAL_HEADER_SIZE, header.checksum, limit=limit):
        for place in np.flatnonzero(heads[:, 1])[-1:]:
            last, commit = total + int(place) + 1, int(heads[place, 1])
            checksum = int(heads[place, 4]), int(heads[place, 5])
        seen.append(heads[:, 0].copy())
        total += len(heads)
    if not commit:
        return CommittedFrames()
    pgnos = np.concatenate(seen)[:last]
    order = np.argsort(pgnos, kind="stable")
    ordered = pgnos[order]
    newest = np.append(ordered[1:] != ordered[:-1], True)
    offsets = order[newest].astype(np.int64) * size + (WAL_HEADER_SIZE + FRAME_HEAD_SIZE)
    return CommittedFrames(commit, ordered[newest], offsets, WAL_HEADER_SIZE + last * size, checksum)


def valid_frames(
    read: ReadWAL, header: WALHeader, start: int, checksum: tuple[int, int], *, limit: int | None = None
) -> Iterator[tuple[NDArray[np.uint32], bytes]]:
    """Yield the valid frames from an offset on, some MiB at a time: six words of head each, and all their bytes.

    What is yielded was read once: the bytes are those that the checksums were computed from.

    Args:
        read: Reads the WAL.
        header: Its header.
        start: Where the first frame begins.
        checksum: The running checksum before it.
        limit: Look at no byte from here on; None for as far as frames are valid.
    """
    size = header.frame_size
    while True:
        count = max(1, _BATCH_SIZE // size)
        if limit is not None:
            count = min(count, (limit - start) // size)
        if count < 1:
            return
        data = read(start, count * size)
        heads, valid, checksum = _valid(data, header, checksum)
        if valid:
            yield heads[:valid], data
        if valid < count:
            return
        start += count * size


def _valid(
    data: bytes, header: WALHeader, running: tuple[int, int]
) -> tuple[NDArray[np.uint32], int, tuple[int, int]]:
    """Return the heads of a batch's frames as six words each, how many of them are valid, and the checksum then."""
    count = len(data) // header.frame_size
    frames = np.frombuffer(data, np.uint8, count * header.frame_size).reshape(count, header.frame_size)
    heads = frames[:, :FRAME_HEAD_SIZE].copy().view(">u4").astype(np.uint32)
    salts = np.frombuffer(header.salts, ">u4").astype(np.uint32)
    wrong = np.flatnonzero((heads[:, 2:4] != salts).any(axis=1) | (heads[:, 0] == 0))
    count = int(wrong[0]) if len(wrong) else count
    summed = np.concatenate((frames[:count, :8], frames[:count, FRAME_HEAD_SIZE:]), axis=1)
    words = summed.view(">u4" if header.big_endian else "<u4").astype(np.uint32)
    for place, sums in enumerate(_sums(words)):
        following = _advance(running, sums, words.shape[1])
        if following != (int(heads[place, 4]), int(heads[place, 5])):
            return heads, place, running
        running = following
    return heads, count, running


@lru_cache(maxsize=16)
def _weights(word_count: int) -> tuple[NDArray[np.uint32], tuple[int, int, int]]:
    """Return what each word counts in the two sums, and the Fibonacci numbers that carry the sums before it."""
    numbers = [0, 1]
    while len(numbers) < word_count + 2:
        numbers.append((numbers[-1] + numbers[-2]) & _MASK)
    descending = np.array(numbers[word_count::-1], np.uint32)  # F(n) .. F(0)
    weights = np.stack((descending[1:], descending[:-1]), axis=1)
    return weights, (numbers[word_count - 1], numbers[word_count], numbers[word_count + 1])


def _sums(words: NDArray[np.uint32]) -> list[list[int]]:
    """Return, for each row of words, its own part of the two sums."""
    weights, _ = _weights(words.shape[1])
    sums: list[list[int]] = np.matmul(words, weights).tolist()
    return sums


def _advance(before: tuple[int, int], sums: list[int], word_count: int) -> tuple[int, int]:
    """Continue a checksum over a row of words."""
    _, (low, middle, high) = _weights(word_count)
    one, two = before
    return (low * one + middle * two + sums[0]) & _MASK, (middle * one + high * two + sums[1]) & _MASK
