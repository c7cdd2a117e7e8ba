"""Pages that were read, kept in bounded memory: the least recently used go first."""

from collections import OrderedDict
from collections.abc import Iterable

from vfs.waiting import ForkedLock

__all__ = ["PageCache", "PageKey"]

PageKey = tuple[int, int]
"""An open file's number and a page number: content that never changes."""

_OVERHEAD = 200
"""Bytes that an entry costs beside its page, about."""


class PageCache:
    """A bounded map from file and page number to the page. Safe to use from several threads.

    Args:
        size: Bytes that it may take.
    """

    def __init__(self, size: int) -> None:
        self.max_size = size
        self.size = 0
        self._pages: OrderedDict[PageKey, bytes] = OrderedDict()
        self._lock = ForkedLock()

    def get(self, key: PageKey) -> bytes | None:
        """Return a page, or None where it is not kept."""
        with self._lock.now:
            page = self._pages.get(key)
            if page is not None:
                self._pages.move_to_end(key)
            return page

    def put(self, pages: Iterable[tuple[PageKey, bytes]]) -> None:
        """Keep pages; others may go."""
        with self._lock.now:
            for key, page in pages:
                if key not in self._pages:
                    self.size += len(page) + _OVERHEAD
                self._pages[key] = page
            while self.size > self.max_size and self._pages:
                _, page = self._pages.popitem(last=False)
                self.size -= len(page) + _OVERHEAD

    def __contains__(self, key: PageKey) -> bool:
        return key in self._pages

    def __len__(self) -> int:
        return len(self._pages)
