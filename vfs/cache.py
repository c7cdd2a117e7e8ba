"""Pages that were read, kept in bounded memory: those that were not used for long go first, b-tree leaves before the rest."""

from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakValueDictionary

from vfs.waiting import ForkedLock

__all__ = ["Frame", "Front", "PageCache", "PageKey"]

PageKey = tuple[int, int]
"""An open file's number and a page number: content that never changes."""

_OVERHEAD = 200
"""Bytes that an entry costs beside its page, about."""

_INNER_PART = 4
"""Interior pages of b-trees may take this part of the room, and keep it from the rest."""

_INNER = (2, 5)
"""First bytes of the interior pages of indexes and tables."""


class Frame(bytes):
    """A page as it lies in its file: read ahead, and decoded when it is asked for."""

    __slots__ = ()


class Front(dict[int, bytes]):
    """Pages of one view by their offset in the database, each of them in the cache: the shortest way to them."""

    __slots__ = ("__weakref__",)


class PageCache:
    """A bounded map from file and page number to the page. Safe to use from several threads.

    Pages are in two groups: used since the groups were last exchanged, and not. When room is needed pages of the
    second group go, in the order in which they came; when that is empty the first takes its place. So a page that
    was used once needs nothing done when it is used again, and a `Front` may answer for it without asking here.

    Args:
        size: Bytes that it may take.
    """

    def __init__(self, size: int) -> None:
        self.max_size = size
        self.size = 0
        self._used: dict[PageKey, bytes] = {}
        self._unused: dict[PageKey, bytes] = {}
        self._going: Iterator[PageKey] = iter(())
        self._inner: dict[PageKey, bytes] = {}
        self._inner_size = 0
        self._fronts: WeakValueDictionary[int, Front] = WeakValueDictionary()
        self._lock = ForkedLock()

    def keeps(self, size: int) -> bool:
        """Whether there is room for pages of a size at all."""
        return size + _OVERHEAD <= self.max_size

    def front(self) -> Front:
        """Return an empty front, which is emptied when its pages may go.

        Only pages that `get` gave belong in it, and none where there is no room for pages of their size.
        """
        front = Front()
        with self._lock.now:
            self._fronts[id(front)] = front
        return front

    def get(self, key: PageKey) -> bytes | None:
        """Return a page or its frame, or None where neither is kept."""
        page = self._used.get(key) or self._inner.get(key)
        if page is None and key in self._unused:
            with self._lock.now:
                page = self._unused.pop(key, None)
                if page is not None:
                    self._used[key] = page
        return page

    def put(self, pages: Iterable[tuple[PageKey, bytes]]) -> None:
        """Keep pages or frames, in place of what was kept of them; others may go."""
        with self._lock.now:
            for key, page in pages:
                self._drop(key)
                if not self.keeps(len(page)):
                    continue
                if _is_kept(key, page):
                    self._inner[key] = page
                    self._inner_size += len(page) + _OVERHEAD
                else:
                    self._used[key] = page
                self.size += len(page) + _OVERHEAD
            while self._inner_size > self.max_size // _INNER_PART:
                self._drop(next(iter(self._inner)))
                self._empty_fronts()
            while self.size > self.max_size:
                self._make_room()

    def lacking(self, number: int, pgnos: Iterable[int]) -> list[int]:
        """Return those pages of a file of which nothing is kept."""
        used, unused, inner = self._used, self._unused, self._inner
        return [
            pgno
            for pgno in pgnos
            if (key := (number, pgno)) not in used and key not in unused and key not in inner
        ]

    def put_frames(self, frames: Mapping[PageKey, bytes]) -> None:
        """Keep frames of which nothing is kept."""
        with self._lock.now:
            used, unused, inner = self._used, self._unused, self._inner
            for key, frame in frames.items():
                if key not in used and key not in unused and key not in inner and self.keeps(len(frame)):
                    used[key] = frame
                    self.size += len(frame) + _OVERHEAD
            while self.size > self.max_size:
                self._make_room()

    def replace_all(self, pages: Mapping[PageKey, bytes]) -> None:
        """Keep pages in place of their frames, those that are still there."""
        inner: list[tuple[PageKey, bytes]] = []
        with self._lock.now:
            used = self._used
            for key, page in pages.items():
                frame = used.get(key)
                if type(frame) is not Frame:
                    continue
                if page[0] in _INNER or key[1] == 1:
                    inner.append((key, page))
                    continue
                used[key] = page
                self.size += len(page) - len(frame)
            while self.size > self.max_size:
                self._make_room()
        if inner:
            self.put(inner)

    def replace(self, key: PageKey, page: bytes) -> None:
        """Keep a page in place of its frame."""
        if not self.max_size:
            return
        if _is_kept(key, page) or (frame := self._used.get(key)) is None:
            self.put([(key, page)])
            return
        with self._lock.now:
            if self._used.get(key) is frame:
                self._used[key] = page
                self.size += len(page) - len(frame)
                while self.size > self.max_size:
                    self._make_room()

    def drop(self, key: PageKey) -> None:
        """Keep a page no more."""
        with self._lock.now:
            self._drop(key)

    def _drop(self, key: PageKey) -> None:
        page = self._used.pop(key, None) or self._unused.pop(key, None)
        if page is None:
            page = self._inner.pop(key, None)
            if page is None:
                return
            self._inner_size -= len(page) + _OVERHEAD
        self.size -= len(page) + _OVERHEAD

    def _make_room(self) -> None:
        for key in self._going:
            if key in self._unused:
                self._drop(key)
                return
        if self._used:
            self._used, self._unused = {}, self._used
            self._going = iter(tuple(self._unused))
        elif self._inner:
            self._drop(next(iter(self._inner)))
        self._empty_fronts()

    def _empty_fronts(self) -> None:
        for weak in self._fronts.valuerefs():
            if front := weak():
                front.clear()

    def __contains__(self, key: PageKey) -> bool:
        return key in self._used or key in self._unused or key in self._inner

    def __len__(self) -> int:
        return len(self._used) + len(self._unused) + len(self._inner)


def _is_kept(key: PageKey, page: bytes) -> bool:
    """Whether a page belongs to those that nearly every query needs."""
    return type(page) is bytes and (page[0] in _INNER or key[1] == 1)
