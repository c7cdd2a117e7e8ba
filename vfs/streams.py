"""What comes next in a scan: the pages that follow one, by number, by a b-tree, or by the rows that an index names."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from vfs.btree import INDEX_LEAF, Tree, rowids_of
from vfs.meter import Meter
from vfs.view import View

__all__ = ["Lookups", "Numbers", "Pages", "Siblings", "Stream"]

_CLOSE = 16
"""Pages between the first and the last of nine children where a table was written in one go."""

_MANY_CHILDREN = 100
"""Which an interior page has, about."""

_MOST_PASSED = 512
"""Rows that are passed over at a time, since their pages are there: some milliseconds."""


class Pages(Protocol):
    """Where pages come from: `vfs.pages.PageReader` is one."""

    @property
    def most_ahead_size(self) -> int:
        """Bytes of pages that may be asked for ahead."""

    def known(self, view: View, pgno: int) -> bytes | None:
        """Return a page if it is there."""

    def has(self, view: View, pgno: int) -> bool:
        """Whether a page is there or under way."""

    def at_hand(self, view: View, pgnos: Sequence[int]) -> Mapping[int, bytes]:
        """Return the first of some pages, as many as are there, but the lock page."""

    def start(self, view: View, pgnos: Sequence[int], interrupted: Meter) -> None:
        """Begin to read pages."""


class Stream(ABC):
    """One scan that is under way.

    Attributes:
        window: How many pages to be ahead.
        left: Pages that were asked for and not wanted yet.
        low: How many of them are so few that more are to be asked for.
        used: Pages that were asked for and wanted.
        order: The pages that were asked for and not wanted yet, in the order in which they will be.
        is_whole: Whether it began at the beginning, or at the end, and so is likely to go on to the other one.
    """

    def __init__(self, *, is_whole: bool = True) -> None:
        self.window = self.left = self.low = self.used = 0
        self.order: deque[int] = deque()
        self.is_whole = is_whole

    def goes_on(self, before: "Stream") -> None:
        """Take over from a scan that came to a page of which more had to be known."""
        self.window, self.used, self.is_whole = before.window, before.used, before.is_whole

    @abstractmethod
    def following(self, pgno: int, count: int) -> tuple[list[int], Sequence[int]]:
        """Return which pages come next.

        Args:
            pgno: The page that is wanted now.
            count: How many, about.

        Returns:
            The next pages, fewer where more is not known yet; and pages to read besides, to know more.
        """


class Numbers(Stream):
    """One page number after the other."""

    def following(self, pgno: int, count: int) -> tuple[list[int], Sequence[int]]:
        """Return the numbers that come next."""
        return list(range(pgno + 1, pgno + 1 + count)), ()


class Siblings(Stream):
    """The pages of one depth of a b-tree, in the order of their keys or backwards."""

    def __init__(self, view: View, tree: Tree, pages: Pages, step: int, *, is_whole: bool = True) -> None:
        super().__init__(is_whole=is_whole)
        self._view, self._tree, self._pages, self._step = view, tree, pages, step
        self._reached = 0
        """The last page that was asked for by its number."""

    def goes_on(self, before: Stream) -> None:
        """Take over from a scan that came to a page of which more had to be known."""
        super().goes_on(before)
        if isinstance(before, Siblings):
            self._reached = before._reached

    def following(self, pgno: int, count: int) -> tuple[list[int], Sequence[int]]:
        """Return the next children, and parents to read where those are not known."""
        tree, step = self._tree, self._step
        found: list[int] = []
        parent, place = tree.place_of(pgno)
        while True:
            children = tree.children.get(parent, ())
            below = children[place + 1 :] if step > 0 else children[:place][::-1]
            found += below[: count - len(found)]
            if len(found) >= count:
                return found, ()
            above, at = tree.place_of(parent)
            parents = tree.children.get(above, ())
            at += step
            if not 0 <= at < len(parents):
                return found, ()
            page = self._pages.known(self._view, parents[at])
            beside = tree.learn(parents[at], page) if page else ()
            if not beside:
                return found, self._towards(children, parents, at, count - len(found))
            parent, place = parents[at], -1 if step > 0 else len(beside)

    def _towards(self, known: Sequence[int], parents: Sequence[int], at: int, count: int) -> Sequence[int]:
        """Return what to read to know more: the next parents, or all that follows where a table was written in one go.

        Args:
            known: The children of the parent before.
            parents: Of which the next is not known yet.
            at: Its place among them.
            count: How many pages are wanted.
        """
        if self._step > 0 and known:
            last, distance = known[-1], parents[at] - known[-1]
            if 0 <= last - known[-9:][0] <= _CLOSE and 0 < distance <= max(count, 2 * len(known)):
                end = min(last + max(count, distance), parents[-1])
                if parents[at] <= self._reached and end - self._reached < count // 4:
                    return ()  # enough is under way: the next parent is, and most of what is wanted
                begin = max(last, self._reached if self._reached < end else last)
                self._reached = end
                return range(begin + 1, end + 1)
        number = 2 * (1 + count // _MANY_CHILDREN)
        return parents[at : at + number] if self._step > 0 else parents[max(0, at - number + 1) : at + 1]


class Lookups(Stream):
    """The rows that an index names, in the order of the index or backwards.

    Attributes:
        passed: How many of the pages that come next were there already when they were looked for, at the end of
            those that were asked for.
    """

    def __init__(self, view: View, tree: Tree, pages: Pages, leaf: int, before: int, pgno: int) -> None:
        """Begin behind the second of two pages of a table that were read after an index page."""
        super().__init__()
        self._view, self._tree, self._pages = view, tree, pages
        path = tree.above(pgno)
        self._root, self._depth = (path[0] if path else 0), len(path)
        self._step = self.passed = 0
        self._ahead: set[int] = set()
        self._open(leaf)
        targets = [self._target(rowid)[0] for rowid in self._rowids] if path else []
        if pgno in targets and before in targets:
            self._place = targets.index(pgno)
            self._step = 1 if self._place > targets.index(before) else -1
            self._leaves = Siblings(view, tree, pages, self._step)

    @property
    def is_true(self) -> bool:
        """Whether the index page does name rows of both pages."""
        return self._step != 0

    def following(self, pgno: int, count: int) -> tuple[list[int], Sequence[int]]:  # noqa: ARG002 - it knows where it is
        """Return the pages of the next rows, and interior pages to read where those are not known."""
        found: dict[int, None] = {}
        missing: dict[int, None] = {}
        last = self.passed = rows = 0
        self._ahead = {self._leaf}
        place = self._place + self._step
        while len(found) + len(missing) < count - self.left and rows < _MOST_PASSED:
            if not 0 <= place < len(self._rowids):
                if missing or not self._go_on(missing):
                    break
                place = self._place + self._step
                continue
            target, depth = self._target(self._rowids[place])
            if depth < self._depth:  # the way there is not known yet: the next time it goes on from here
                missing[target] = None
            elif not missing:
                self._place = place
                if not 1 <= target <= self._view.commit or target in found or target == last:
                    pass
                elif self._pages.has(self._view, target):
                    self.passed += 1
                else:
                    found[target] = None
                    self.passed = 0
                last = target
            rows += 1
            place += self._step
        return [*found], [*missing]

    def is_at(self, leaf: int) -> bool:
        """Whether a page of the index is one whose rows were looked at last: a reader that comes to it goes on as foreseen."""
        return self.passed > 0 and leaf in self._ahead

    def _target(self, rowid: int) -> tuple[int, int]:
        while True:
            target, depth = self._tree.towards(self._root, rowid, self._depth)
            if depth == self._depth:
                return target, depth
            page = self._pages.known(self._view, target) if 1 <= target <= self._view.commit else None
            if page is None or target in self._tree.children or not self._tree.learn(target, page):
                return target, depth

    def _go_on(self, missing: dict[int, None]) -> bool:
        """Go over to the next index page; where it is not there yet, ask for it."""
        beside, besides = self._leaves.following(self._leaf, 1)
        missing.update(dict.fromkeys((*beside, *besides)))
        if not beside or not self._open(beside[0]):
            return False
        missing.clear()
        self._place = -1 if self._step > 0 else len(self._rowids)
        return True

    def _open(self, leaf: int) -> bool:
        page = self._pages.known(self._view, leaf) if 1 <= leaf <= self._view.commit else None
        if page is None or page[0] != INDEX_LEAF:
            return False
        self._leaf, self._rowids = leaf, rowids_of(page)
        self._ahead.add(leaf)
        return True

    _rowids: Sequence[int] = ()
    _leaf = _place = 0
