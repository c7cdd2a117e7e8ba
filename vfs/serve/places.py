"""Where the pages of a replica lie in shared memory, and how they come there before a client asks for them."""

from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from ltx import CorruptError
from ltx.format.frame import decode_frame
from ltx.replica.apply import FileError
from vfs.cache import Frame, PageKey, page_key, page_number
from vfs.file import ReplicaFile
from vfs.runs import RUN_SIZE
from vfs.serve.arena import Place
from vfs.serve.shared_cache import SharedCache

__all__ = ["Places", "Scan"]

_AT_ONCE = 128
"""Pages that are looked for together."""


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
        cache: That of its source.
    """

    def __init__(self, file: ReplicaFile, cache: SharedCache) -> None:
        self._file = file
        self._cache = cache
        self._arena = cache.arena

    def one(self, pgno: int) -> Place:
        """Return where a page lies; it is fetched where it is nowhere yet."""
        place = next(iter(self.at_hand(pgno, 1)), None)
        if place is None:
            page = self._file.page(pgno)
            key = self._own_key(pgno) or self._file.source.located(self._file.view, pgno) or object()
            [place] = self._arena.put([key], [page])
        return place

    def at_hand(self, first: int, most: int) -> list[Place]:
        """Return where pages lie from `first` on, as far as that takes no request to the storage.

        What was read ahead and not decoded yet is decoded now: what turns out to be damaged is told when it is asked for.
        """
        places: list[Place] = []
        end = min(first + most, self._file.view.commit + 1)
        while first < end:
            own = self._own_key(first)
            if own is not None:
                some, count = self._arena.beginning([own]), 1
            else:
                keys = self._keys(first, min(first + _AT_ONCE, end))
                some, count = self._brought(keys), len(keys)
            places += some
            if not count or len(some) < count:
                break
            first += count
        return places

    def ask_ahead(self, scan: Scan, first: int) -> None:
        """Begin to read the pages from `first` on, which somebody reads in order.

        Half a window at a time: a request for each page that was used would be many.
        """
        pages, view = self._file.source.pages, self._file.view
        count = min(scan.window, pages.most_ahead_size // view.page_size)
        end = min(first + count, view.commit + 1)
        least = count // 2 if end <= view.commit else 1
        if not pages.has(view, first) or not first <= scan.asked_up_to <= end:
            scan.asked_up_to = first
        if end - scan.asked_up_to >= max(1, least):
            begin, scan.asked_up_to = scan.asked_up_to, end
            pages.start(view, range(begin, end), self._file.meter)

    def _brought(self, keys: Sequence[PageKey]) -> list[Place]:
        """Return where the first of some pages of one file lie, up to one that is not here. Frames are decoded."""
        places = self._arena.beginning(keys)
        while len(places) < len(keys):
            decoded = self._decoded(keys[len(places) :])
            if not decoded:
                break
            self._cache.replace_all(decoded)
            places += self._arena.beginning(keys[len(places) :])
        return places

    def _decoded(self, keys: Sequence[PageKey]) -> dict[PageKey, bytes]:
        """Return those of some pages whose frames are here and right, up to one of which nothing is here."""
        decoded: dict[PageKey, bytes] = {}
        page_size = self._file.view.page_size
        with suppress(CorruptError):  # whoever reads the page learns of it
            for key in keys:
                page = self._cache.get(key)
                if page is None:
                    break
                decoded[key] = (
                    decode_frame(page, page_number(key), page_size) if type(page) is Frame else page
                )
        return decoded

    def _own_key(self, pgno: int) -> Hashable | None:
        """Return what a page is known by that is in no file as it is seen."""
        view = self._file.view
        if pgno == 1:  # it says which TXID is seen, and how many pages there are
            return "page 1", view.lineage, view.txid
        return "lock page" if pgno == view.lock_page else None

    def _keys(self, first: int, end: int) -> Sequence[PageKey]:
        """Return what pages from `first` on are known by, up to `end`, as far as they lie in one file.

        None where it takes a request to know.
        """
        view = self._file.view
        if first < view.lock_page < end:
            end = view.lock_page
        with suppress(CorruptError, FileError):  # whoever reads the page learns of it
            if not view.searched_increments:
                file, stop = view.span(first, end)
            elif self._file.source.located(view, first) is not None:
                run = view.run_at(first, end - first, RUN_SIZE)
                file, stop = run.file, first + len(run.pgnos)
            else:
                return ()
            if view.unverified:
                doubtful = (
                    pgno for pgno in range(first, stop) if not view.trusts(pgno) and view.doubts(pgno)
                )
                stop = next(doubtful, stop)
            keys = range(page_key(file.number, first), page_key(file.number, stop))
            return cast("Sequence[PageKey]", keys)
        return ()
