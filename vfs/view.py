"""One state of a database, and where each of its pages lies: immutable, so that a reader can hold on to it."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import add

from ltx import TXID, CorruptError, LTXFile
from ltx.format import Header, lock_page
from ltx.format.frame import FRAME_HEAD
from ltx.format.index import PageIndex, count_ascending
from ltx.replica.apply import FileError
from vfs.index_search import SearchedIndex
from vfs.layers import PageMap

__all__ = ["Doubt", "Layer", "OpenFile", "Run", "Single", "View"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class OpenFile:
    """An LTX file of which the header and the page index are known.

    Attributes:
        number: Stands for this file and its content in the keys of the page cache.
        file: Where it lies.
        header: What it says of itself.
        index: Where its pages are. One that is searched reads what it is asked for.
        is_verified: Whether all of it was read and its checksum is right.
        proven: Of a file that was not verified: bytes at which a frame begins whose entry in the index was found to
            be right, and the one before it too, so that no page between them hides under a wrong number.
    """

    number: int
    file: LTXFile
    header: Header
    index: PageIndex | SearchedIndex
    is_verified: bool
    proven: set[int] = field(default_factory=set)

    def whole_index(self) -> PageIndex:
        """Return all of the page index, reading what was not read yet.

        Raises:
            FileError: It is damaged or gone.
        """
        return self.index if isinstance(self.index, PageIndex) else self.index.load()


@dataclass(frozen=True, slots=True)
class Run:
    """Frames of one file that lie one behind the other, or nearly.

    Attributes:
        file: The file.
        start: First byte of the first frame.
        pgnos: Page number of each, ascending.
        starts: Where each begins, relative to `start`.
        sizes: Bytes of each.
    """

    file: OpenFile
    start: int
    pgnos: Sequence[int]
    starts: Sequence[int]
    sizes: Sequence[int]

    @property
    def end(self) -> int:
        """Byte after the last frame."""
        return self.start + self.starts[-1] + self.sizes[-1]

    def cut(self, start: int, stop: int) -> "Run":
        """Return frames `[start, stop)` of it, at least one."""
        if start == 0 and stop >= len(self.pgnos):
            return self
        shift = self.starts[start]
        starts = [each - shift for each in self.starts[start:stop]]
        return Run(self.file, self.start + shift, self.pgnos[start:stop], starts, self.sizes[start:stop])


@dataclass(frozen=True, slots=True)
class Doubt:
    """A newer file that could hold pages which were found in an older one, if its page index were damaged.

    Attributes:
        file: The newer file, not verified.
        place: Byte at which the frame behind that place begins.
        start: First byte of the frame before that place, or of the one behind it where there is none before.
        end: Byte after the head of the frame behind it.
        heads: Page number and start, relative to `start`, of these one or two frames.
    """

    file: OpenFile
    place: int
    start: int
    end: int
    heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Single:
    """A file that is asked itself which pages it holds: a snapshot, or one whose index is searched.

    Attributes:
        file: The file.
        limit: The last page of it that still counts.
    """

    file: OpenFile
    limit: int

    def get(self, pgno: int) -> OpenFile | None:
        """Return the file if it has a page that counts."""
        header = self.file.header
        if pgno > self.limit:
            return None
        if header.is_snapshot:
            return self.file if 1 <= pgno <= header.commit and pgno != header.lock_page else None
        return self.file if self.file.index.near(pgno).holds(pgno) else None

    def cut(self, commit: int) -> "Single":
        """Leave out the pages beyond a size."""
        return self if commit >= self.limit else Single(self.file, commit)

    def same(self, pgno: int, stop: int) -> int:
        """Return up to where pages behind `pgno` are all in this file if it is, as its run says, or all not."""
        if self.file.header.is_snapshot or pgno > self.limit:
            return stop
        index = self.file.index.near(pgno)
        place = index.place(pgno)
        if place < len(index) and index.pgnos[place] != pgno:
            return min(stop, index.pgnos[place])
        return min(stop, self.limit + 1)

    def owned(self, pgnos: "array[int]", _file: OpenFile) -> "array[int]":
        """Return those of some pages of the file, ascending, that count."""
        return pgnos[: bisect_right(pgnos, self.limit)]

    def without(self, pgnos: "array[int]") -> "array[int]":
        """Return those of some pages, ascending, that are not in the file."""
        if self.file.header.is_snapshot:
            return pgnos[bisect_right(pgnos, self.limit) :]
        held = set(self.owned(self.file.whole_index().pgnos, self.file))
        return array("I", (pgno for pgno in pgnos if pgno not in held))

    @property
    def files(self) -> tuple[OpenFile, ...]:
        """The file, as the only one."""
        return (self.file,)


Layer = Single | PageMap[OpenFile]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class View:
    """A database as it was after one transaction. What a view shares with the one it extends is there once.

    Attributes:
        txid: The transaction.
        time: When it was committed.
        page_size: Bytes of a page.
        commit: Pages in the database.
        last: The file that ends with the transaction, which says how many pages there are.
        files: The files that its pages lie in, in the order of the plan, and unverified ones behind the first.
        unverified: Those of the files that were not verified, the first file apart.
        searched: The indexes that are read as they are needed, the newest first: they say where a page is.
        searched_increments: Those of them that are no snapshot's: they say, too, whether a page is in their file.
        lineage: Tells apart the replicas that lay in one place, one after the other, and used the same TXIDs.
    """

    txid: TXID
    time: datetime
    page_size: int
    commit: int
    last: OpenFile
    lineage: int
    layers: tuple[Layer, ...]
    files: tuple[OpenFile, ...]
    unverified: tuple[OpenFile, ...]
    searched: tuple[SearchedIndex, ...]
    searched_increments: tuple[SearchedIndex, ...]
    trusted: bytearray = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the database."""
        return self.commit * self.page_size

    @property
    def lock_page(self) -> int:
        """The page that is never stored and reads as zeros."""
        return lock_page(self.page_size)

    @property
    def only(self) -> OpenFile | None:
        """The file that holds all pages, if one does."""
        return self.last if len(self.files) == 1 and self.last.header.is_snapshot else None

    def file_of(self, pgno: int) -> OpenFile:
        """Return the file that holds a page from 1 to commit, the lock page excepted.

        Where an increment's index is searched this may read; `undecided` says so before.

        Raises:
            CorruptError: No file does: the replica is not whole.
            FileError: An index that is searched is damaged or gone.
        """
        return self._found(pgno)[1]

    def _found(self, pgno: int) -> tuple[int, OpenFile]:
        for place, layer in enumerate(self.layers):
            file = layer.get(pgno)
            if file is not None:
                return place, file
        raise CorruptError(f"page {pgno} of TXID {self.txid:016x} is in no file of the replica")

    def unlocated(self, pgno: int) -> Iterator[SearchedIndex]:
        """Yield the indexes that must be read to say where a page is, for whoever would rather read them at once."""
        for layer in self.layers:
            if isinstance(layer, PageMap):
                if layer.get(pgno) is not None:
                    return
            elif isinstance(layer.file.index, SearchedIndex) and pgno <= layer.limit:
                known = layer.file.index.known(pgno)
                if known is None:
                    yield layer.file.index
                elif known.holds(pgno):
                    return

    def undecided(self, pgno: int) -> Iterator[SearchedIndex]:
        """Yield the indexes that must be read to say which file holds a page."""
        if self.searched_increments:
            yield from (index for index in self.unlocated(pgno) if index in self.searched_increments)

    def are_located(self, pgnos: Iterable[int]) -> bool:
        """Whether it is known where pages lie, which ascend."""
        known_up_to = 0
        for pgno in pgnos if self.searched else ():
            if pgno <= known_up_to:
                continue
            if next(self.unlocated(pgno), None) is not None:
                return False
            if not self.searched_increments and (known := self.searched[0].known(pgno)):
                known_up_to = known.pgnos[-1]  # what lies before in the snapshot is known as well
        return True

    def span(self, pgno: int, stop: int) -> tuple[OpenFile, int]:
        """Return the file that holds a page, and up to where the next ones before `stop` are known to lie in it too.

        Raises:
            CorruptError: The page is in no file.
            FileError: An index that is searched is damaged or gone.
        """
        layer, file = self._found(pgno)
        if isinstance(self.layers[layer], Single) and not file.header.is_snapshot:
            return file, pgno + 1
        for each in self.layers[: layer + 1]:
            stop = each.same(pgno, stop)
        return file, stop

    def run_at(self, pgno: int, max_pages: int, max_size: int) -> Run:
        """Return the frame of a page and those of the next pages, as far as they lie right behind it.

        Args:
            pgno: The first page.
            max_pages: At most this many frames.
            max_size: At most this many bytes, but never less than the first frame.

        Raises:
            CorruptError: The page is in no file.
            FileError: An index that is searched is damaged or gone.
        """
        layer, file = self._found(pgno)
        index = file.index.near(pgno)
        place = index.place(pgno)
        if place == len(index) or index.pgnos[place] != pgno:
            raise FileError(file.file, CorruptError(f"the page index does not say where page {pgno} is"))
        count = min(max_pages, self.commit + 1 - pgno, len(index) - place)
        stop = pgno + count_ascending(index.pgnos, place, count)
        for each in self.layers[: layer + 1]:
            stop = each.same(pgno, stop)
        offsets, sizes = index.frames(place, place + stop - pgno)
        start = offsets[0]
        count = max(1, bisect_right(list(map(add, offsets, sizes)), start + max_size))
        starts = [each - start for each in offsets[:count]]
        return Run(file, start, range(pgno, pgno + count), starts, sizes[:count])

    def doubts(self, pgno: int) -> list[Doubt]:
        """Return what must be looked at before a page is known to lie in no newer file than it was found in.

        That a newer file lacks it is what its index says. The numbers in the index of a file that was not
        verified whole have nothing to be checked against but the frames themselves.
        """
        if self.trusts(pgno):
            return []
        found_in = self.file_of(pgno).file.max_txid
        doubts = []
        for file in self.unverified:
            if file.file.max_txid > found_in:
                index = file.index.near(pgno)
                place = index.place(pgno)
                if len(index) and index.offset(place) not in file.proven:
                    doubts.append(_doubt(file, index, place))
        if not doubts:
            self.trust((pgno,))
        return doubts

    def trusts(self, pgno: int) -> bool:
        """Whether nothing has to be looked at for a page any more."""
        return not self.unverified or bool(self.trusted[pgno >> 3] >> (pgno & 7) & 1)

    def trust(self, pgnos: Iterable[int]) -> None:
        """Take pages for the newest from now on: what there was to look at was right."""
        if self.unverified:
            for pgno in pgnos:  # two threads at once may lose a mark, which costs a look
                self.trusted[pgno >> 3] |= 1 << (pgno & 7)

    def trust_all(self) -> None:
        """Take all pages for the newest from now on: every frame of every file was looked at."""
        self.trusted[:] = b"\xff" * len(self.trusted)

    def pages_in(self, file: OpenFile, index: PageIndex) -> "array[int]":
        """Return the pages whose newest version lies in a file, ascending.

        Args:
            file: One of the view's.
            index: All of its page index.
        """
        pgnos = index.pgnos[: index.place(self.commit + 1)]
        for layer in self.layers:
            if file in layer.files:
                return layer.owned(pgnos, file)
            pgnos = layer.without(pgnos)
        return pgnos[:0]


def _doubt(file: OpenFile, index: PageIndex, place: int) -> Doubt:
    around = range(max(0, place - 1), min(place + 1, len(index)))
    start = index.offset(around[0])
    heads = tuple((index.pgnos[each], index.offset(each) - start) for each in around)
    return Doubt(file, index.offset(place), start, start + heads[-1][1] + FRAME_HEAD.size, heads)
