"""Where the pages of a replica lie in shared memory, and how they come there before a client asks for them."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ltx import CorruptError
from ltx.format.frame import decode_frame
from ltx.replica.apply import FileError
from vfs.btree import INDEX_LEAF
from vfs.cache import PageKey
from vfs.file import ReplicaFile
from vfs.runs import RUN_SIZE
from vfs.serve.arena import Arena, Place

__all__ = ["Places", "Scan"]

_READ_HERE = (2, 5, INDEX_LEAF)
"""First bytes of pages that tell what will be wanted next: interior pages, and what names rows."""

_AT_ONCE = 64
"""Pages that are decoded before they are put into the shared memory."""


@dataclass(slots=True)
class Scan:
    """A client that reads pages in the order of their numbers.

    Attributes:
        window: How many pages to be ahead, at most.
        asked_up_to: The first page that was not asked for.
    """

    window: int
    asked_up_to: int = 0


class Places:
    """The pages of one client's file, found in memory or brought there.

    Args:
        file: What the client opened.
        arena: Memory that is shared with all clients of the replica.
    """

    def __init__(self, file: ReplicaFile, arena: Arena) -> None:
        self._file = file
        self._arena = arena
        self._cache = file.source.cache

    def one(self, pgno: int) -> Place:
        """Return where a page lies; it is fetched where it is nowhere yet."""
        place = next(iter(self.at_hand(pgno, 1)), None)
        if place is None:
            page = self._file.page(pgno)
            [place] = self._arena.put([(self._key(pgno) or object(), page)])
        return place

    def at_hand(self, first: int, most: int) -> list[Place]:
        """Return where pages lie from `first` on, as far as that takes no request to the storage.

        What was read ahead is decoded only now: what turns out to be damaged is told when it is asked for.
        """
        places: list[Place] = []
        end = min(first + most, self._file.view.commit + 1)
        while first < end:
            count = min(_AT_ONCE, end - first)
            some = self._some_at_hand(first, first + count)
            places += some
            first += count
            if len(some) < count:
                break
        return places

    def ask_ahead(self, scan: Scan, first: int) -> None:
        """Begin to read the pages from `first` on, which somebody reads in order.

        Half a window at a time: a request for each page that was used would be many.
        """
        pages, view = self._file.source.pages, self._file.view
        count = min(scan.window, pages.most_ahead_size // view.page_size)
        end = min(first + count, view.commit + 1)
        least = count // 2 if end <= view.commit else 1
        key = next(self._keys(first, end), None)
        is_there = key is not None and (self._arena.find(key) is not None or pages.has(view, first))
        if not is_there or not first <= scan.asked_up_to <= end:
            scan.asked_up_to = first
        if end - scan.asked_up_to >= max(1, least):
            begin, scan.asked_up_to = scan.asked_up_to, end
            known = [self._arena.find(key) is not None for key in self._keys(begin, end)]
            lacking = [begin + at for at, is_known in enumerate(known) if not is_known]
            pages.start(view, [*lacking, *range(begin + len(known), end)], self._file.meter)

    def _some_at_hand(self, first: int, end: int) -> list[Place]:
        found: list[Place | None] = []
        new: list[tuple[PageKey, bytes]] = []
        for key in self._keys(first, end):
            place = self._arena.find(key)
            if place is None:
                page = self._decoded(key)
                if page is None:
                    break
                new.append((key, page))
            found.append(place)
        brought = iter(self._arena.put(new))
        for key, page in new:
            if page[0] in _READ_HERE:
                self._cache.replace(key, page)
            else:
                self._cache.drop(key)
        return [place or next(brought) for place in found]

    def _decoded(self, key: PageKey) -> bytes | None:
        """Return a page if it is in the cache and right."""
        number, pgno = key
        if number <= 0:  # page 1 is not what is kept
            return None
        page = self._cache.get(key)
        if page is None or type(page) is bytes:
            return page
        with suppress(CorruptError):
            return decode_frame(page, pgno, self._file.view.page_size)
        return None

    def _key(self, pgno: int) -> PageKey | None:
        """Return what a page is known by, if finding it takes no request."""
        view = self._file.view
        if pgno == view.lock_page:
            return 0, pgno
        if pgno == 1:  # it says which TXID is seen, and how many pages there are
            return -1 - view.lineage, view.txid
        return self._file.source.located(view, pgno)

    def _keys(self, first: int, end: int) -> Iterator[PageKey]:
        """Yield what pages from `first` to before `end` are known by, as far as that takes no request."""
        view = self._file.view
        lock_page = view.lock_page
        is_decided = not view.searched_increments
        with suppress(CorruptError, FileError):  # whoever reads the page learns of it
            while first < end:
                if is_decided and 1 < first != lock_page:
                    file, stop = view.span(first, lock_page if first < lock_page < end else end)
                    for pgno in range(first, stop):
                        if not view.trusts(pgno) and view.doubts(pgno):
                            return
                        yield file.number, pgno
                    first = stop
                    continue
                key = self._key(first)
                if key is None:
                    return
                yield key
                first += 1
                if not is_decided and key[0] > 0:  # frames that lie one behind the other are found at once
                    for pgno, _, _ in view.run_at(first - 1, end - first + 1, RUN_SIZE).frames[1:]:
                        if view.doubts(pgno):
                            return
                        yield key[0], pgno
                        first = pgno + 1
