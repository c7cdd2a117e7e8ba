"""What the pages of SQLite's b-trees say about other pages (https://sqlite.org/fileformat2.html, section 1.6).

The pages come from SQLite's own writes, but what is no b-tree page may look like one, so whatever is returned need
not be true: it may be used to read ahead, and for nothing else.
"""

import struct
from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["DEEPEST", "INDEX_LEAF", "TABLE_LEAF", "Tree", "children_of", "keys_of", "kind_of", "rowids_of"]

INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13

_FIRST_HEADER = 100
_INNER_HEADER, _LEAF_HEADER = 12, 8
_CHILD = struct.Struct(">I")
_MOST_PLACES = 100_000
_PLACE_BITS = 16
"""In which the place of a child below its parent fits: a page has at most 65,536 bytes."""

DEEPEST = 20
"""Pages above another one; what is damaged may go round in a circle."""

_INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}


def kind_of(page: bytes, pgno: int) -> int:
    """Return the first byte of a page's b-tree header."""
    return page[_FIRST_HEADER if pgno == 1 else 0]


def _cells(page: bytes, pgno: int, header_size: int) -> Sequence[int]:
    """Return where the cells of a page begin, in the order of their keys; none where that cannot be right."""
    start = _FIRST_HEADER if pgno == 1 else 0
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    if start + header_size + 2 * count > len(page):
        return ()
    cells = struct.unpack_from(f">{count}H", page, start + header_size)
    return () if count and max(cells) > len(page) - _CHILD.size else cells


def children_of(page: bytes, pgno: int) -> Sequence[int]:
    """Return the children of an interior page in the order of their keys; none of any other page."""
    if kind_of(page, pgno) not in (INDEX_INNER, TABLE_INNER):
        return ()
    cells = _cells(page, pgno, _INNER_HEADER)
    start = (_FIRST_HEADER if pgno == 1 else 0) + _INNER_HEADER - _CHILD.size
    read = _CHILD.unpack_from
    return (*(read(page, cell)[0] for cell in cells), read(page, start)[0])


def keys_of(page: bytes, pgno: int) -> Sequence[int]:
    """Return for each child of a table's interior page but the last the greatest rowid below it."""
    if kind_of(page, pgno) != TABLE_INNER:
        return ()
    try:
        return [_signed(_varint(page, cell + _CHILD.size)[0]) for cell in _cells(page, pgno, _INNER_HEADER)]
    except IndexError:
        return ()


def rowids_of(page: bytes) -> Sequence[int]:
    """Return the rowids at the ends of an index leaf's entries, those apart that lie on overflow pages."""
    if page[0] != INDEX_LEAF:
        return ()
    rowids: list[int] = []
    room = len(page)  # for all headers: those of a damaged page may lie on each other
    try:
        for cell in _cells(page, 0, _LEAF_HEADER):
            size, start = _varint(page, cell)
            header_size, _ = _varint(page, start)
            room -= header_size
            if room < 0:
                break
            if header_size <= size and start + size <= len(
                page
            ):  # with an overflow page it does not fit here
                rowids += _rowid(page, start, start + header_size, start + size)
    except IndexError:
        return ()
    return rowids


def _rowid(page: bytes, start: int, header_end: int, end: int) -> Sequence[int]:
    """Return the number at the end of a record; none where another kind of value is there."""
    kind = 0
    _, at = _varint(page, start)
    while at < header_end:
        kind, at = _varint(page, at)
    length = _INTEGER_SIZES.get(kind)
    if length is None or at > end:
        return ()
    return [int.from_bytes(page[end - length : end], "big", signed=True) if length else kind - 8]


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = page[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for place in range(at + 1, at + 8):
        value = value << 7 | page[place] & 0x7F
        if page[place] < 0x80:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class Tree:
    """What is known of the b-trees of one view.

    Attributes:
        children: Of interior pages, in the order of their keys.
        last: Below a parent, the place of the child that was read last.
    """

    def __init__(self) -> None:
        self.children: dict[int, Sequence[int]] = {}
        self.last: dict[int, int] = {}
        self._places: dict[int, int] = {}  # numbers: the garbage collector would look through so many pairs
        self._keys: dict[int, Sequence[int]] = {}
        self._pages: dict[int, bytes] = {}

    def learn(self, pgno: int, page: bytes) -> Sequence[int]:
        """Remember the children of an interior page, and return them."""
        known = self.children.get(pgno)
        if known is not None:
            return known
        found = children_of(page, pgno)
        if not found:
            return found
        while len(self._places) > _MOST_PLACES:
            self._forget(next(iter(self.children)))
        self.children[pgno] = found
        self._places.update(
            zip(found, range(pgno << _PLACE_BITS, 1 + len(found) + (pgno << _PLACE_BITS)), strict=False)
        )
        if kind_of(page, pgno) == TABLE_INNER:
            self._pages[pgno] = page  # its keys are for those who look rows up
        return found

    def _forget(self, pgno: int) -> None:
        for child in self.children.pop(pgno):
            if self.place_of(child)[0] == pgno:
                del self._places[child]
        self.last.pop(pgno, None)
        self._keys.pop(pgno, None)
        self._pages.pop(pgno, None)

    def place_of(self, pgno: int) -> tuple[int, int]:
        """Return the parent of a page, and its place below it; 0 where that is not known."""
        return divmod(self._places.get(pgno, 0), 1 << _PLACE_BITS)

    def above(self, pgno: int) -> Sequence[int]:
        """Return the pages known above one, its root first."""
        path: list[int] = []
        while len(path) < DEEPEST and (parent := self.place_of(pgno)[0]):
            path.append(pgno := parent)
        return path[::-1]

    def towards(self, root: int, rowid: int, depth: int) -> tuple[int, int]:
        """Return the page `depth` below the root of a table where a row would be, or the last known on the way there.

        Returns:
            The page, and how far below the root it is.
        """
        pgno = root
        for level in range(depth):
            keys, children = self._keys_of(pgno), self.children.get(pgno)
            if not keys or children is None:
                return pgno, level
            pgno = children[bisect_left(keys, rowid)]
        return pgno, depth

    def _keys_of(self, pgno: int) -> Sequence[int]:
        keys = self._keys.get(pgno)
        if keys is None and (page := self._pages.pop(pgno, None)) is not None:
            keys = self._keys[pgno] = keys_of(page, pgno)
        return keys or ()
