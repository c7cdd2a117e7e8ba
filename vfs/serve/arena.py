"""Pages in memory that other processes map: written once, and never again while anybody can see them."""

import errno
import itertools
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

__all__ = ["Arena", "Place", "Segment"]

_SEGMENTS = 32
"""At most, about; a client can know 64."""

_LEAST_SIZE, _USUAL_SIZE = 256 << 10, 4 << 20

_MOST_AT_ONCE = 512
"""Pages that the system takes with one call; it knows 1,024."""


class Segment:
    """A piece of shared memory, filled from its start. It goes when nobody here refers to it any more.

    Attributes:
        number: Of this segment alone, for as long as the arena lives.
        fd: What a client maps.
        size: Bytes.
        room: Bytes that are left.
        keys: What is in it.
    """

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.room = size
        self.keys: list[Hashable] = []
        self.fd = _memory(size)

    def __del__(self) -> None:
        os.close(self.fd)

    def append(self, pages: Sequence[bytes]) -> int:
        """Write pages behind what it holds, and return where. A call, and no map here: that takes half the time.

        Raises:
            OSError: There is no memory.
        """
        start, size = self.size - self.room, sum(map(len, pages))
        if os.pwritev(self.fd, pages, start) != size:
            raise OSError(errno.ENOMEM, "no memory is left for pages that programs share")
        self.room -= size
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
        self._last: Segment | None = None
        self._places: dict[Hashable, Place] = {}
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Place | None:
        """Return where a page lies, or None."""
        return self._places.get(key)

    def put(self, pages: Sequence[tuple[Hashable, bytes]]) -> list[Place]:
        """Keep pages of one size, and return where they lie."""
        with self._lock:
            found = {key: place for key, _ in pages if (place := self._places.get(key)) is not None}
            new = [each for each in pages if each[0] not in found]
            while new:
                size, segment = len(new[0][1]), self._last
                if segment is None or segment.room < size:
                    segment = self._next()
                count = min(segment.room // size, _MOST_AT_ONCE)
                start = segment.append([data for _, data in new[:count]])
                put = {key: Place(segment, start + at * size) for at, (key, _) in enumerate(new[:count])}
                segment.keys += put
                self._places.update(put)
                found.update(put)
                new = new[count:]
            return [found[key] for key, _ in pages]

    def is_kept(self, number: int) -> bool:
        """Whether a segment is still in use here."""
        return number in self._segments

    def _next(self) -> Segment:
        while len(self._segments) >= self._most:
            _, oldest = self._segments.popitem(last=False)
            for key in oldest.keys:
                del self._places[key]
        number = next(self._numbers)
        segment = self._segments[number] = self._last = Segment(number, self._segment_size)
        return segment


def _memory(size: int) -> int:
    """Return memory as a file without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("litestream", os.MFD_CLOEXEC)
    else:
        import tempfile

        fd, name = tempfile.mkstemp()
        os.unlink(name)
    os.ftruncate(fd, size)
    return fd
