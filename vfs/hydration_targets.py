"""What hydration is to bring to the disk for the connections that asked for it, and how much of that is there."""

from array import array
from collections.abc import Callable, Sequence
from heapq import merge
from itertools import groupby
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from ltx.format.index import PageIndex
from vfs.view import OpenFile, View
from vfs.waiting import ForkedLock

__all__ = ["Holder", "Targets"]


class Holder(Protocol):
    """A connection that asked for hydration."""

    @property
    def view(self) -> View:
        """What it shows."""

    @property
    def is_fixed(self) -> bool:
        """Whether it stays at a time."""


class Targets:
    """The views that connections show, and which of their files are there. Safe to use from several threads.

    Args:
        newest: Returns the newest view that is known.

    Attributes:
        current: The number of the file that is under way, and its bytes that are there.
    """

    def __init__(self, newest: Callable[[], View | None]) -> None:
        self.current = (0, 0)
        self._newest = newest
        self._holders: WeakKeyDictionary[Holder, bool] = WeakKeyDictionary()
        self._instead: WeakKeyDictionary[View, View] = WeakKeyDictionary()
        self._complete: WeakSet[View] = WeakSet()
        self._done: dict[int, int] = {}
        self._lock = ForkedLock()

    def add(self, holder: Holder) -> None:
        """Bring what this one shows, too: a time that it was opened at, else the newest. Times visited later do not count."""
        with self._lock.now:
            self._holders[holder] = holder.is_fixed

    def remove(self, holder: Holder) -> None:
        """Bring nothing for this one any more."""
        with self._lock.now:
            self._holders.pop(holder, None)

    def __bool__(self) -> bool:
        """Whether somebody is left."""
        return bool(self._holders)

    def views(self) -> list[View]:
        """Return the views to bring: the newest, and what connections show that stay at a time."""
        with self._lock.now:
            holders = list(self._holders.items())
        newest = self._newest()
        shown = [
            holder.view if was_fixed and holder.is_fixed else newest or holder.view
            for holder, was_fixed in holders
        ]
        return list(dict.fromkeys(self._instead.get(view, view) for view in shown))

    def replace(self, view: View, found: View) -> None:
        """Bring another view of the same TXID in place of one."""
        self._instead[view] = found

    def is_done(self, view: View, file: OpenFile) -> bool:
        """Whether what a view needs of a file is there: views of later transactions need less of it."""
        since = self._done.get(file.number)
        return since is not None and view.txid >= since

    def set_done(self, view: View, file: OpenFile) -> None:
        """Take note that what a view needs of a file is there."""
        self._done[file.number] = min(view.txid, self._done.get(file.number, view.txid))

    def set_complete(self, view: View) -> None:
        """Take note that all of a view is there."""
        self._complete.add(view)

    @property
    def is_complete(self) -> bool:
        """Whether all of all views is there."""
        views = self.views()
        return bool(views) and all(view in self._complete for view in views)

    def bytes(self) -> tuple[int, int]:
        """Return the bytes that are there of the views' files, and the bytes of all of them."""
        sizes: dict[int, tuple[int, int]] = {}
        number, so_far = self.current
        for view in self.views():
            for file in view.files:
                size = file.file.size
                there = (
                    size if self.is_done(view, file) else min(so_far, size) if file.number == number else 0
                )
                sizes[file.number] = (min(there, sizes.get(file.number, (size, 0))[0]), size)
        return sum(there for there, _ in sizes.values()), sum(size for _, size in sizes.values())

    def wanted(
        self, views: Sequence[View], index_of: Callable[[OpenFile], PageIndex]
    ) -> "dict[int, array[int]]":
        """Return the pages that views need, by the numbers of the files that they lie in; others count as gone now."""
        wanted: dict[int, array[int]] = {}
        done: dict[int, int] = {}
        for view in views:
            for file in view.files:
                pgnos = view.pages_in(file, index_of(file))
                before = wanted.get(file.number)
                wanted[file.number] = pgnos if before is None else _union(before, pgnos)
                if self.is_done(view, file):
                    done[file.number] = min(view.txid, done.get(file.number, view.txid))
        self._done = done
        self._complete = WeakSet(view for view in views if view in self._complete)
        return wanted


def _union(one: "array[int]", other: "array[int]") -> "array[int]":
    """Return what stands in either of two ascending arrays."""
    return array("I", (pgno for pgno, _ in groupby(merge(one, other))))
