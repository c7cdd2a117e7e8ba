"""The page cache of the helper process: pages lie in the memory that programs share, whether they were asked for yet or not."""

from collections.abc import Mapping, Sequence

from vfs.cache import Frame, PageCache, PageKey, is_inner, page_keys
from vfs.serve.arena import Arena

__all__ = ["SharedCache"]

_SHARED_PART = 0.75
"""Of all; the rest is for interior pages and for frames that were not decoded yet."""


class SharedCache(PageCache):
    """A page cache that puts what was read where programs find it: whoever reads in order only has to be told the places.

    Attributes:
        arena: The memory that is shared.

    Args:
        size: Bytes that it may take, about.
    """

    def __init__(self, size: int) -> None:
        shared = int(size * _SHARED_PART)
        super().__init__(size - shared)
        self.most_ahead_size = shared // 3
        self.arena = Arena(shared)

    def get(self, key: PageKey) -> bytes | None:
        """Return a page or its frame, or None where neither is kept."""
        return super().get(key) or self.arena.read(key)

    def put(self, pages: Sequence[tuple[PageKey, bytes]]) -> None:
        """Keep pages or frames, in place of what was kept of them; others may go."""
        super().put(self._shared(pages))

    def put_new(self, pages: Mapping[PageKey, bytes]) -> None:
        """Keep pages and frames of which nothing is kept."""
        super().put_new(dict(self._shared([each for each in pages.items() if each[0] not in self.arena])))

    def replace(self, key: PageKey, page: bytes) -> None:
        """Keep a page in place of its frame."""
        self.replace_all({key: page})

    def replace_all(self, pages: Mapping[PageKey, bytes]) -> None:
        """Keep pages in place of their frames."""
        self.drop_all(pages)
        super().put_new(dict(self._shared([*pages.items()])))

    def lacking(self, number: int, pgnos: Sequence[int]) -> list[int]:
        """Return those pages of a file, which will be wanted, of which nothing is kept."""
        keys = page_keys(number, pgnos)
        elsewhere = [pgno for pgno, key in zip(pgnos, keys, strict=True) if key not in self.arena]
        return super().lacking(number, elsewhere)

    def _shared(self, pages: Sequence[tuple[PageKey, bytes]]) -> list[tuple[PageKey, bytes]]:
        """Put pages into the shared memory; return those that are needed here too, and the frames."""
        whole = [each for each in pages if type(each[1]) is not Frame]
        self.arena.put([key for key, _ in whole], [page for _, page in whole])
        return [each for each in pages if type(each[1]) is Frame or is_inner(*each)]

    def __contains__(self, key: PageKey) -> bool:
        return super().__contains__(key) or key in self.arena
