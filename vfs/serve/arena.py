"""Pages in memory that other processes map: written once, and never again while anybody can see them."""

import itertools
import mmap
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

__all__ = ["Arena", "Place", "Segment"]

_SEGMENTS = 32
"""At most, about; a client can know 64."""

_LEAST_SIZE, _USUAL_SIZE = 256 << 10, 4 << 20


class Segment:
    """A piece of shared memory, filled from its start. It goes when nobody here refers to it any more.

    Attributes:
        number: Of this segment alone, for as long as the arena lives.
        fd: What a client maps.
        size: Bytes.
    """

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.fd = _memory(size)
        self.keys: list[Hashable] = []
        self._map = mmap.mmap(self.fd, size)
        self._used = 0

    def __del__(self) -> None:
        self._map.close()
        os.close(self.fd)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit behind what it holds."""
        return self._used + size <= self.size

    def append(self, data: bytes) -> int:
        """Write bytes behind what it holds, and return where."""
        start = self._used
        self._map[start : start + len(data)] = data
        self._used += len(data)
        return start


class Place(NamedTuple):
    """Where a page lies. Whoever holds this keeps the segment."""

    segment: Segment
    offset: int


class Arena:
    """Pages in shared memory by what they are. Safe to use from several threads.

    When it is full the oldest segment goes, pages and all: a client that still maps it is told.

    Args:
        size: Bytes that it may take, about; two small segments are the least.
    """

    def __init__(self, size: int) -> None:
        usual = max(_USUAL_SIZE, size // _SEGMENTS)
        self._segment_size = min(usual, max(_LEAST_SIZE, size // 4)) & -mmap.PAGESIZE
        self._most = max(2, size // self._segment_size)
        self._numbers = itertools.count(1)
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._places: dict[Hashable, Place] = {}
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Place | None:
        """Return where a page lies, or None."""
        return self._places.get(key)

    def put(self, key: Hashable, data: bytes) -> Place:
        """Keep a page, and return where it lies."""
        with self._lock:
            known = self._places.get(key)
            if known is not None:
                return known
            segment = next(reversed(self._segments.values()), None)
            if segment is None or not segment.has_room(len(data)):
                segment = self._next()
            segment.keys.append(key)
            place = self._places[key] = Place(segment, segment.append(data))
            return place

    def is_kept(self, number: int) -> bool:
        """Whether a segment is still in use here."""
        return number in self._segments

    def _next(self) -> Segment:
        while len(self._segments) >= self._most:
            _, oldest = self._segments.popitem(last=False)
            for key in oldest.keys:
                del self._places[key]
        number = next(self._numbers)
        segment = self._segments[number] = Segment(number, self._segment_size)
        return segment


def _memory(size: int) -> int:
    """Return memory as a file without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("litestream", os.MFD_CLOEXEC)
    else:
        fd, name = tempfile.mkstemp()
        os.unlink(name)
    os.ftruncate(fd, size)
    return fd
