"""Pages that were read, kept in bounded memory: those that were not used for long go first, b-tree leaves before the rest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NewType, cast
from weakref import WeakValueDictionary

from vfs.waiting import ForkedLock

__all__ = [
    "Frame",
    "Front",
    "PageCache",
    "PageKey",
    "file_number",
    "is_inner",
    "page_key",
    "page_keys",
    "page_number",
]

PageKey = NewType("PageKey", int)
"""An open file's number and a page number in one: content that never changes. An integer, since the garbage collector
would look through a hundred thousand tuples again and again."""

_PGNO_BITS = 32

_OVERHEAD = 200
"""Bytes that an entry costs beside its page, about."""

_INNER_PART = 4
"""Interior pages of b-trees may take this part of the room, and keep it from the rest."""

_AHEAD_PART = 3
_INNER = (2, 5)
"""First bytes of the interior pages of indexes and tables."""


def page_key(number: int, pgno: int) -> PageKey:
    """Return what a page of an open file is kept by."""
    return PageKey(number << _PGNO_BITS | pgno)


def page_keys(number: int, pgnos: Sequence[int]) -> Sequence[PageKey]:
    """Return what pages of an open file are kept by, in the same order."""
    file = number << _PGNO_BITS
    keys = (
        range(file + pgnos.start, file + pgnos.stop, pgnos.step)
        if isinstance(pgnos, range)
        else [file | pgno for pgno in pgnos]
    )
    return cast("Sequence[PageKey]", keys)


def file_number(key: PageKey) -> int:
    """Return which open file a key is about."""
    return key >> _PGNO_BITS


def page_number(key: PageKey) -> int:
    """Return which page a key is about."""
    return key & (1 << _PGNO_BITS) - 1


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

    Attributes:
        most_ahead_size: Bytes of pages that may be read before they are asked for.

    Args:
        size: Bytes that it may take.
    """

    def __init__(self, size: int) -> None:
        self.max_size = size
        self.most_ahead_size = size // _AHEAD_PART
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

    def put(self, pages: Sequence[tuple[PageKey, bytes]]) -> None:
        """Keep pages or frames, in place of what was kept of them; others may go."""
        if not pages:
            return
        with self._lock.now:
            for key, page in pages:
                self._drop(key)
                if not self.keeps(len(page)):
                    continue
                if is_inner(key, page):
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

    def lacking(self, number: int, pgnos: Sequence[int]) -> list[int]:
        """Return those pages of a file, which will be wanted, of which nothing is kept. The others count as used now."""
        lacking: list[int] = []
        with self._lock.now:
            used, unused, inner = self._used, self._unused, self._inner
            for pgno, key in zip(pgnos, page_keys(number, pgnos), strict=True):
                page = used.pop(key, None) or unused.pop(key, None)
                if page is not None:
                    used[key] = page  # the last that will go
                elif key not in inner:
                    lacking.append(pgno)
        return lacking

    def beginning(self, number: int, pgnos: Sequence[int]) -> list[bytes]:
        """Return the first of some pages of a file, or their frames, up to one of which nothing is kept."""
        used, inner = self._used, self._inner
        found: list[bytes] = []
        for key in page_keys(number, pgnos):
            page = used.get(key) or inner.get(key) or self.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def put_new(self, pages: Mapping[PageKey, bytes]) -> None:
        """Keep pages and frames of which nothing is kept."""
        inner: list[tuple[PageKey, bytes]] = []
        with self._lock.now:
            used, unused, kept = self._used, self._unused, self._inner
            for key, page in pages.items():
                if key in used or key in unused or key in kept:
                    continue
                if is_inner(key, page):
                    inner.append((key, page))
                elif self.keeps(len(page)):
                    used[key] = page
                    self.size += len(page) + _OVERHEAD
            while self.size > self.max_size:
                self._make_room()
        self.put(inner)

    def replace_all(self, pages: Mapping[PageKey, bytes]) -> None:
        """Keep pages in place of their frames, those that are still there."""
        inner: list[tuple[PageKey, bytes]] = []
        with self._lock.now:
            used = self._used
            for key, page in pages.items():
                frame = used.get(key)
                if type(frame) is not Frame:
                    continue
                if is_inner(key, page):
                    inner.append((key, page))
                    continue
                used[key] = page
                self.size += len(page) - len(frame)
            while self.size > self.max_size:
                self._make_room()
        self.put(inner)

    def replace(self, key: PageKey, page: bytes) -> None:
        """Keep a page in place of its frame."""
        if not self.max_size:
            return
        if is_inner(key, page) or (frame := self._used.get(key)) is None:
            self.put([(key, page)])
            return
        with self._lock.now:
            if self._used.get(key) is frame:
                self._used[key] = page
                self.size += len(page) - len(frame)
                while self.size > self.max_size:
                    self._make_room()

    def drop_all(self, keys: Iterable[PageKey]) -> None:
        """Keep pages no more."""
        with self._lock.now:
            for key in keys:
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
        else:
            self.size = 0  # a child was forked while a thread of its parent was at work here
        self._empty_fronts()

    def _empty_fronts(self) -> None:
        for weak in self._fronts.valuerefs():
            if front := weak():
                front.clear()

    def __contains__(self, key: PageKey) -> bool:
        return key in self._used or key in self._unused or key in self._inner

    def __len__(self) -> int:
        return len(self._used) + len(self._unused) + len(self._inner)


def is_inner(key: PageKey, page: bytes) -> bool:
    """Whether a page belongs to those that nearly every query needs."""
    return type(page) is bytes and (page[0] in _INNER or page_number(key) == 1)
