"""Keeping what a held view still needs, when the files that it lies in are about to go."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import sleep
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet, finalize, ref

from backends import BackendError
from ltx import LTXError, LTXFile
from ltx.format.index import PageIndex
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import reach_of
from vfs.pages import PageReader
from vfs.view import View
from vfs.waiting import ForkedLock

__all__ = ["Holder", "Keeper"]

LOOK_S = 15.0
"""Between looks at the listing. Files of level 0 stay for minutes after they were merged, all others for longer."""

_AHEAD = 64


class Holder(Protocol):
    """Somebody who may hold a view."""

    @property
    def held(self) -> View | None:
        """The view, while it is held."""


class _Kept:
    """Pages of one view, in a file without a name."""

    def __init__(self, page_size: int) -> None:
        from tempfile import TemporaryFile  # most queries do without

        self._page_size = page_size
        self._file = TemporaryFile()  # noqa: SIM115 - it lives as long as the view
        finalize(self, self._file.close)
        self._places: dict[int, int] = {}
        self.files: set[str] = set()

    def put(self, pgno: int, page: bytes) -> None:
        if pgno not in self._places:
            place = len(self._places)
            os.pwrite(self._file.fileno(), page, place * self._page_size)
            self._places[pgno] = place

    def get(self, pgno: int) -> bytes | None:
        place = self._places.get(pgno)
        if place is None:
            return None
        return os.pread(self._file.fileno(), self._page_size, place * self._page_size)


class Keeper:
    """Watches over views that somebody holds: what merges and retention may take from them is fetched before.

    A file is about to go when a merged one, or a newer snapshot, makes it superfluous. Where the view's TXID can be
    planned without it nothing is fetched. One listing every 15 seconds while a view is held; none otherwise.
    Safe to use from several threads, and in a forked child.

    Args:
        list_files: Lists the replica.
        pages: Reads its pages.
    """

    def __init__(self, list_files: "ListFiles", pages: PageReader) -> None:
        self._list_files = list_files
        self._pages = pages
        self._holders: WeakSet[Holder] = WeakSet()
        self._kept: WeakKeyDictionary[View, _Kept] = WeakKeyDictionary()
        self._lock = ForkedLock()
        self._watched_by = 0

    def watch(self, holder: Holder) -> None:
        """Watch over whatever this one holds, for as long as it lives."""
        with self._lock.now:
            self._holders.add(holder)
            if self._watched_by == os.getpid():
                return
            self._watched_by = os.getpid()
        threading.Thread(target=_watch, args=(ref(self),), name="vfs-keeper", daemon=True).start()

    def page(self, view: View, pgno: int) -> bytes | None:
        """Return a page that was fetched while it could be."""
        kept = self._kept.get(view)
        return None if kept is None else kept.get(pgno)

    def look(self) -> None:
        """Fetch what is about to go from the views that are held now."""
        with self._lock.now:
            holders = list(self._holders)
        views = {view for holder in holders if (view := holder.held) is not None}
        if views:
            listed = self._list_files()
            for view in views:
                self._save(view, list(_going(view, listed)))

    def _save(self, view: View, going: Sequence[LTXFile]) -> None:
        kept = self._kept.get(view)
        if kept is None and going:
            kept = self._kept[view] = _Kept(view.page_size)
        for file in going:
            if kept is not None and file.key not in kept.files:
                for pgno in _pages_in(view, file):
                    kept.put(pgno, self._pages.page(view, pgno, _AHEAD, bool))
                kept.files.add(file.key)


class ListFiles(Protocol):
    """Lists the files of a replica."""

    def __call__(self) -> Sequence[LTXFile]: ...


def _watch(weak: "ref[Keeper]") -> None:
    while True:
        sleep(LOOK_S)
        keeper = weak()
        if keeper is None:
            return
        with suppress(BackendError, LTXError):  # the next look comes soon; whoever reads gets the error
            keeper.look()
        del keeper


def _going(view: View, listed: Sequence[LTXFile]) -> Iterator[LTXFile]:
    """Yield the files of a view that others make superfluous, where the view cannot be had without them."""
    superfluous = set(_superfluous(listed))
    if view.txid not in reach_of(file for file in listed if file not in superfluous).txids:
        keys = {file.key for file in superfluous}
        yield from (each.file for each in view.files if each.file.key in keys)


def _superfluous(listed: Sequence[LTXFile]) -> Iterator[LTXFile]:
    """Yield the files that newer states can do without: those that are merged, and older snapshots."""
    newest = max((file.max_txid for file in listed if file.level == SNAPSHOT_LEVEL), default=0)
    reached = [0] * SNAPSHOT_LEVEL  # by level: how far the files go that begin no later
    for file in sorted(listed, key=lambda each: (each.min_txid, -each.level)):
        if file.level == SNAPSHOT_LEVEL:
            if file.max_txid < newest:
                yield file
            continue
        if any(end >= file.max_txid for end in reached[file.level + 1 :]):
            yield file
        reached[file.level] = max(reached[file.level], file.max_txid)


def _pages_in(view: View, file: LTXFile) -> Iterator[int]:
    opened = next(each for each in view.files if each.file.key == file.key)
    index = opened.index
    numbers: Iterable[int] = (
        index.pgnos.tolist() if isinstance(index, PageIndex) else range(1, view.commit + 1)
    )
    for pgno in numbers:
        if pgno <= view.commit and pgno != view.lock_page and view.file_of(pgno) is opened:
            yield pgno
