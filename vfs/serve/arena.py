"""Pages in memory that other processes map: written once, and never again while anybody can see them."""

import errno
import itertools
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import NewType

__all__ = ["Arena", "Place", "Segment", "segment_of"]

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
        page_size: Bytes of each page in it.
        room: Bytes that are left.
        keys: What is in it.
    """

    def __init__(self, number: int, size: int, page_size: int) -> None:
        self.number, self.size, self.page_size = number, size, page_size
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


Place = NewType("Place", int)
"""Where a page lies: a segment's number and an offset in one, as a client is told."""

_OFFSET_BITS = 32


def segment_of(place: Place) -> int:
    """Return the number of the segment that a page lies in."""
    return place >> _OFFSET_BITS


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

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def read(self, key: Hashable) -> bytes | None:
        """Return a page, or None."""
        place = self._places.get(key)
        segment = None if place is None else self._segments.get(segment_of(place))
        if place is None or segment is None:
            return None
        return os.pread(segment.fd, segment.page_size, place & (1 << _OFFSET_BITS) - 1)

    def beginning(self, keys: Iterable[Hashable]) -> list[Place]:
        """Return where the first of some pages lie, up to one that is not here."""
        found: list[Place] = []
        places = self._places
        for key in keys:
            place = places.get(key)
            if place is None:
                break
            found.append(place)
        return found

    def put(self, keys: Sequence[Hashable], pages: Sequence[bytes]) -> list[Place]:
        """Keep pages of one size, and return where they lie."""
        with self._lock:
            found = {key: place for key in keys if (place := self._places.get(key)) is not None}
            new = [each for each in zip(keys, pages, strict=True) if each[0] not in found]
            while new:
                size, segment = len(new[0][1]), self._last
                if segment is None or segment.room < size or segment.page_size != size:
                    segment = self._next(size)
                count = min(segment.room // size, _MOST_AT_ONCE)
                put = [key for key, _ in new[:count]]
                start = segment.append([page for _, page in new[:count]])
                first = segment.number << _OFFSET_BITS | start
                segment.keys += put
                places = dict(zip(put, map(Place, itertools.count(first, size)), strict=False))
                self._places.update(places)
                found.update(places)
                new = new[count:]
            return [found[key] for key in keys]

    def segment(self, number: int) -> Segment | None:
        """Return a segment that is still in use here."""
        return self._segments.get(number)

    def _next(self, page_size: int) -> Segment:
        while len(self._segments) >= self._most:
            _, oldest = self._segments.popitem(last=False)
            for key in oldest.keys:
                del self._places[key]
        number = next(self._numbers)
        segment = self._segments[number] = self._last = Segment(number, self._segment_size, page_size)
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
