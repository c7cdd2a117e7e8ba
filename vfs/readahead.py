"""Knowing which pages a query will want next, and having them read while SQLite is busy with the ones before.

An interior page of a b-tree names its children in the order of their keys, so a scan of a table or an index, also
of a part and also backwards, is recognised when a child is read after its neighbour: then those that follow are
asked for, more and more of them, across the ends of interior pages too. A query that looks rows up in the order
of an index is recognised when a second row named by the same index page is read. What has no known parent
(overflow pages, or a copy of the whole database) is taken to go on with the next page number.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

from vfs.btree import DEEPEST, INDEX_LEAF, TABLE_LEAF, Tree, kind_of
from vfs.meter import Meter
from vfs.streams import Lookups, Numbers, Pages, Siblings, Stream
from vfs.view import View

__all__ = ["ReadAhead"]

_FIRST_WINDOW = 8
_GROWTH = 2
_GROWTH_WAITING = 4
"""Where there was to be waited all the same, since the storage is far; of what may end anywhere up to `_FAR_WINDOW`."""

_NEAR_SIZE = 8 << 20
"""Bytes of pages up to which a scan is ever further ahead; beyond, only where it had to wait."""

_FAR_WINDOW = 128
_STEP_SIZE = 4 << 20
"""Bytes of pages that are asked for at a time at least, if so many are asked for at all: half of those ahead otherwise."""

_PART_AHEAD = 4
"""A scan that began in the middle may end anywhere: it is ahead by this part of what it has used, or a little."""

_RATE = 100 << 20
"""Bytes of pages a second that come while a request is on its way: asking for them costs no time."""

_LONG_S = 0.005
_TRIES = 3
"""Rows by which a query that follows an index page is to be recognised."""

_NEAR = 2
"""Places between two children that are read one after the other in a scan: one may be in SQLite's own cache."""

_RISING = (2, 4)
"""Steps to the next page number by which a reader that goes by numbers is known; more where parents are known."""

_FIRST_NUMBERS = 8
"""Up to which page a reader that goes by numbers has begun at the first."""

_BESIDE = 64
"""Pages that SQLite finds without asking, of a scan that is known."""

_NOWHERE = -1


class ReadAhead:
    """What one reader will want next. Not safe to use from several threads at once.

    Args:
        pages: Where pages come from.
        meter: What the reader waits for is counted there, and what is read ahead is charged to it.

    Attributes:
        is_active: Whether there is something to stop.
    """

    def __init__(self, pages: Pages, meter: Meter) -> None:
        self.is_active = False
        self._pages, self._meter = pages, meter
        self._tree = Tree()
        self._asked: dict[int, Stream] = {}
        self._index_leaf = 0
        self._table_leaf = self._tries = self._parent = 0
        self._scan: Stream | None = None
        self._lookups: Lookups | None = None
        self._under_way: Stream | None = None
        self._handed: tuple[Stream, Sequence[int]] | None = None
        self._waited_s = self._waited_before_s = self._latency_s = 0.0
        self._last = _NOWHERE
        self._rising = 0

    def forget(self) -> None:
        """Begin anew: the view is another one."""
        self.stop()
        self._tree = Tree()

    def stop(self) -> None:
        """Ask for nothing more: the statement has ended."""
        if self._asked:
            self._asked.clear()
        self._last, self._rising, self._index_leaf = _NOWHERE, 0, 0
        self._lookups = self._under_way = self._handed = None
        self.is_active = False

    def wants(self, view: View, pgno: int) -> bool:
        """Take note of a page that is about to be read, and begin to read what follows if that is known.

        Returns:
            Whether the page belongs to a scan: then it is being read.
        """
        self.is_active = True
        self._waited_before_s = self._meter.waited_s
        self._rising = self._rising + 1 if pgno == self._last + 1 else 0
        self._last = pgno
        step = self._step(pgno)
        self._under_way = None
        if self._handed is not None and pgno not in self._asked:
            self._take_back(pgno)
        stream = self._asked.pop(pgno, None)
        if stream is not None:
            stream.left -= 1
            stream.used += 1
            while stream.order and stream.order.popleft() != pgno:
                pass  # it was in SQLite's own cache
            self._under_way = stream
            if stream.left <= stream.low:
                self._extend(view, stream, pgno)
            return True
        if self._rising >= _RISING[self._tree.place_of(pgno)[0] > 0]:
            stream = Numbers(is_whole=pgno <= _FIRST_NUMBERS)
        elif 0 < abs(step) <= _NEAR and not self._is_inner(pgno):
            step = 1 if step > 0 else -1
            stream = Siblings(view, self._tree, self._pages, step, is_whole=self._is_from_an_end(pgno, step))
            if (before := self._scan) and self._tree.place_of(pgno)[
                0
            ] != self._parent:  # it waited for this parent
                stream.goes_on(before)
        else:
            return False
        self._extend(view, stream, pgno)
        return True

    @property
    def is_scanning(self) -> bool:
        """Whether the page that was wanted last belongs to a scan."""
        return self._under_way is not None

    def beside(self, view: View) -> Mapping[int, bytes]:
        """Return leaves that a scan will want next and that are there: it is told of none of them when they are wanted."""
        stream = self._under_way
        if stream is None or self._index_leaf or not stream.order:
            return {}
        count = min(_BESIDE, stream.left - stream.low - 1)
        pgnos = [*islice(stream.order, max(0, count))]
        handed: dict[int, bytes] = {}
        for pgno, page in self._pages.at_hand(view, pgnos).items():
            if page[0] != TABLE_LEAF:
                break
            handed[pgno] = page
            stream.order.popleft()
            self._asked.pop(pgno, None)
        stream.left -= len(handed)
        stream.used += len(handed)
        if handed:
            self._handed = stream, [*handed]
            self._last = pgno
            self._step(pgno)
        return handed

    def _take_back(self, pgno: int) -> None:
        """Begin again where a scan is that wants a page which it was handed: the cache let all of these go."""
        assert self._handed is not None
        stream, handed = self._handed
        if pgno in handed:
            again = handed[handed.index(pgno) :]
            stream.order.extendleft(reversed(again))
            stream.left += len(again)
            stream.used -= len(again)
            self._asked.update(dict.fromkeys(again, stream))
        self._handed = None

    def seen(self, view: View, pgno: int, page: bytes) -> None:
        """Take note of what a page says that was read."""
        waited_s = self._meter.waited_s - self._waited_before_s
        if waited_s > 0:
            self._latency_s = min(self._latency_s or waited_s, waited_s)
        self._tree.learn(pgno, page)
        kind = kind_of(page, pgno)
        if kind == INDEX_LEAF:
            self._index_leaf, self._table_leaf, self._tries = pgno, 0, 0
            if self._lookups and not self._lookups.left and not self._lookups.is_at(pgno):
                self._lookups = None
        elif kind == TABLE_LEAF and self._index_leaf:
            self._seen_row(view, pgno)

    def _seen_row(self, view: View, pgno: int) -> None:
        """Take note of a table's page after an index page, which may have named the row."""
        before, self._table_leaf = self._table_leaf, pgno
        known = self._lookups
        if not before or before == pgno or self._tries >= _TRIES or (known and known.left):
            return
        if known and known.passed:  # the next ones were there, too, when we looked
            known.passed -= 1
            if not known.passed:
                self._extend(view, known, 0)
            return
        stream = Lookups(view, self._tree, self._pages, self._index_leaf, before, pgno)
        if not stream.is_true:
            self._tries += 1
            return
        if known:  # it had to wait for a page that says more
            stream.window = known.window // _GROWTH
        self._lookups = stream
        self._extend(view, stream, 0)

    def _is_inner(self, pgno: int) -> bool:
        """Whether a page's neighbours are interior pages: scans go over leaves, and ask for their parents themselves."""
        tree = self._tree
        parent, place = tree.place_of(pgno)
        return any(
            child in tree.children for child in tree.children[parent][max(0, place - _NEAR) : place + _NEAR]
        )

    def _is_from_an_end(self, pgno: int, step: int) -> bool:
        """Whether a scan in this direction that is at a page began with the first, as far as is known."""
        tree, children = self._tree, self._tree.children
        most = _NEAR
        for _ in range(DEEPEST):
            parent, place = tree.place_of(pgno)
            if not parent:
                return True
            if (place if step > 0 else len(children[parent]) - 1 - place) > most:
                return False
            pgno, most = parent, 0
        return False  # what is damaged may go round in a circle

    def _step(self, pgno: int) -> int:
        """Return how far behind the one read last a page stands below its parent; 0 where that is not known."""
        tree = self._tree
        parent, place = tree.place_of(pgno)
        if not parent:
            return 0
        before = tree.last.get(parent)
        tree.last[parent] = place
        if before is not None:
            return place - before
        above, at = tree.place_of(parent)
        for step in (1, -1):  # from the last child of the parent before, or the first of the one behind
            if place == (0 if step > 0 else len(tree.children[parent]) - 1) and above:
                beside = tree.children[above][at - step : at - step + 1 or None]
                end = len(tree.children.get(beside[0], ())) - 1 if step > 0 and beside else 0
                if beside and at - step >= 0 and tree.last.get(beside[0]) == end:
                    return step
        return 0

    def _extend(self, view: View, stream: Stream, pgno: int) -> None:
        """Let a scan be further ahead than before, and read the page that is wanted now together with the rest."""
        most = self._pages.most_ahead_size // view.page_size
        if len(self._asked) > most:  # scans that were given up
            self._asked.clear()
        stream.window = self._window(stream, view.page_size, most)
        following, besides = stream.following(pgno, stream.window)
        wanted = [
            each
            for each in following
            if each not in self._asked and 1 <= each <= view.commit and each != view.lock_page
        ]
        stream.left += len(wanted)
        step = max(stream.left // 4, min(stream.left // 2, _STEP_SIZE // view.page_size))
        stream.low = stream.left - step
        self._asked.update(dict.fromkeys(wanted, stream))
        stream.order.extend(wanted)
        needed = [each for each in besides if 1 <= each <= view.commit]
        if wanted or needed:
            self._pages.start(view, [*([pgno] if pgno else ()), *wanted, *needed], self._meter)
        self._parent, self._scan = self._tree.place_of(pgno)[0], stream

    def _window(self, stream: Stream, page_size: int, most: int) -> int:
        """Return how many pages a scan shall be ahead from now on."""
        waited_s, self._waited_s = self._meter.waited_s - self._waited_s, self._meter.waited_s
        on_its_way = min(int(min(self._latency_s, 1.0) * _RATE) // page_size, most)
        growth = _GROWTH if stream.window < _NEAR_SIZE // page_size else 1
        if waited_s > _LONG_S and (stream.is_whole or stream.window < _FAR_WINDOW):
            growth = _GROWTH_WAITING
        is_far = stream.is_whole and self._latency_s > _LONG_S
        window = min(stream.window * growth or _FIRST_WINDOW * (growth if is_far else 1), most)
        if waited_s > _LONG_S and stream.used >= _FIRST_WINDOW:
            window = max(window, on_its_way)
        if stream.is_whole:
            return window
        return min(window, max(_FAR_WINDOW, stream.used // _PART_AHEAD, on_its_way))
