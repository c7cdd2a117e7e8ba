"""One state of a database, and where each of its pages lies: immutable, so that a reader can hold on to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx import TXID, CorruptError, LTXFile
from ltx.format import Header, lock_page
from ltx.format.frame import FRAME_HEAD
from ltx.format.index import PageIndex
from ltx.replica.apply import FileError

__all__ = ["Doubt", "OpenFile", "Run", "View", "build_view", "extend_view"]

_NOWHERE = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class OpenFile:
    """An LTX file of which the header and the page index are known.

    Attributes:
        number: Stands for this file and its content in the keys of the page cache.
        file: Where it lies.
        header: What it says of itself.
        index: Where its pages are.
        is_verified: Whether all of it was read and its checksum is right.
        proven: Of a file that was not verified: places in the index where the entries on both sides were found
            to be right, so that no page between them hides in the file under a wrong number.
    """

    number: int
    file: LTXFile
    header: Header
    index: PageIndex
    is_verified: bool
    proven: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Run:
    """Frames of one file that lie one behind the other.

    Attributes:
        file: The file.
        start: First byte of the first frame.
        end: Byte after the last frame.
        frames: Page number, start relative to `start`, and size of each.
    """

    file: OpenFile
    start: int
    end: int
    frames: tuple[tuple[int, int, int], ...]

    def cut(self, count: int) -> "Run":
        """Return the first frames, at least one."""
        if count >= len(self.frames):
            return self
        frames = self.frames[: max(1, count)]
        _, start, size = frames[-1]
        return Run(self.file, self.start, self.start + start + size, frames)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A newer file that could hold pages which were found in an older one, if its page index were damaged.

    Attributes:
        file: The newer file, not verified.
        place: Where the pages would stand in its index.
        start: First byte of the frame before that place, or of the one behind it where there is none before.
        end: Byte after the head of the frame behind it.
        heads: Page number and start, relative to `start`, of these one or two frames.
    """

    file: OpenFile
    place: int
    start: int
    end: int
    heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class View:
    """A database as it was after one transaction.

    Attributes:
        txid: The transaction.
        time: When it was committed.
        page_size: Bytes of a page.
        commit: Pages in the database.
        files: The files that its pages lie in, in the order of the plan, and unverified ones behind the first.
        last: The file that ends with the transaction, which says how many pages there are.
        unverified: Those of the files that were not verified, the first file apart.
        trusted: For each page whether it is known to lie in no newer file; empty where none is in doubt.
        lineage: Tells apart the replicas that lay in one place, one after the other, and used the same TXIDs.
    """

    txid: TXID
    time: datetime
    page_size: int
    commit: int
    files: tuple[OpenFile, ...]
    _file_of: NDArray[np.uint32]
    _offset_of: NDArray[np.uint64]
    _size_of: NDArray[np.uint32]
    last: OpenFile
    unverified: tuple[OpenFile, ...] = ()
    trusted: bytearray = field(default_factory=bytearray)
    lineage: int = 0

    @property
    def size(self) -> int:
        """Bytes of the database."""
        return self.commit * self.page_size

    @property
    def lock_page(self) -> int:
        """The page that is never stored and reads as zeros."""
        return lock_page(self.page_size)

    def file_of(self, pgno: int) -> OpenFile:
        """Return the file that holds a page from 1 to commit, the lock page excepted.

        Raises:
            CorruptError: No file does: the replica is not whole.
        """
        place = int(self._file_of[pgno])
        if place == _NOWHERE:
            raise CorruptError(f"page {pgno} of TXID {self.txid:016x} is in no file of the replica")
        return self.files[place]

    def run_at(self, pgno: int, max_pages: int, max_size: int) -> Run:
        """Return the frame of a page and those of the next pages, as far as they lie right behind it.

        Args:
            pgno: The first page.
            max_pages: At most this many frames.
            max_size: At most this many bytes, but never less than the first frame.

        Raises:
            CorruptError: The page is in no file.
        """
        file = self.file_of(pgno)
        stop = min(pgno + max_pages, self.commit + 1)
        offsets, sizes = self._offset_of[pgno:stop], self._size_of[pgno:stop]
        ends = offsets + sizes
        start = int(offsets[0])
        together = (
            (self._file_of[pgno + 1 : stop] == self._file_of[pgno])
            & (offsets[1:] == ends[:-1])
            & (ends[1:] <= start + max_size)
        )
        breaks = np.flatnonzero(~together)
        count = int(breaks[0]) + 1 if len(breaks) else stop - pgno
        frames = tuple(
            (pgno + place, int(offset) - start, int(size))
            for place, (offset, size) in enumerate(zip(offsets[:count], sizes[:count], strict=True))
        )
        return Run(file, start, int(ends[count - 1]), frames)

    def doubts(self, pgno: int) -> list[Doubt]:
        """Return what must be looked at before a page is known to lie in no newer file than it was found in.

        That a newer file lacks it is what its index says. The numbers in the index of a file that was not
        verified whole have nothing to be checked against but the frames themselves.
        """
        if not self.unverified or self.trusted[pgno]:
            return []
        found_in = self.file_of(pgno).file.max_txid
        doubts = []
        for file in self.unverified:
            if file.file.max_txid > found_in and len(file.index):
                place = int(np.searchsorted(file.index.pgnos, pgno))
                if place not in file.proven:
                    doubts.append(_doubt(file, place))
        if not doubts:
            self.trusted[pgno] = True
        return doubts

    def trust(self, pgnos: Iterable[int]) -> None:
        """Take pages for the newest from now on: what there was to look at was right."""
        if self.unverified:
            for pgno in pgnos:
                self.trusted[pgno] = True


def _doubt(file: OpenFile, place: int) -> Doubt:
    index = file.index
    around = range(max(0, place - 1), min(place + 1, len(index)))
    start = int(index.offsets[around[0]])
    heads = tuple((int(index.pgnos[each]), int(index.offsets[each]) - start) for each in around)
    return Doubt(file, place, start, start + heads[-1][1] + FRAME_HEAD.size, heads)


def build_view(opened: Sequence[OpenFile], time: datetime, lineage: int = 0) -> View:
    """Make the view that the files of a plan give, the first of them being a snapshot.

    Raises:
        FileError: They do not belong together, or one grows the database without all new pages.
    """
    first = opened[0]
    if not first.header.is_snapshot:
        raise FileError(first.file, CorruptError("it is no snapshot, and nothing lies before it"))
    empty = View(
        TXID(0),
        time,
        first.header.page_size,
        0,
        (),
        np.full(1, _NOWHERE, np.uint32),
        np.zeros(1, np.uint64),
        np.zeros(1, np.uint32),
        first,
        lineage=lineage,
    )
    return extend_view(empty, opened, time)


def extend_view(view: View, opened: Sequence[OpenFile], time: datetime) -> View:
    """Make the view that results when further files are applied to one; the old one stays as it is.

    A page's place changes only for a file with a higher TXID; commit is that of the last file; pages beyond a
    smaller commit are dropped.

    Raises:
        FileError: As `build_view`.
    """
    _check_fits(view, opened)  # before anything is made as big as a header says
    commit = opened[-1].header.commit
    room = max(view.commit, *(each.header.commit for each in opened)) + 1
    file_of = np.full(room, _NOWHERE, np.uint32)
    offset_of, size_of = np.zeros(room, np.uint64), np.zeros(room, np.uint32)
    file_of[: view.commit + 1] = view._file_of
    offset_of[: view.commit + 1] = view._offset_of
    size_of[: view.commit + 1] = view._size_of
    for place, each in enumerate(opened, start=len(view.files)):
        pgnos = each.index.pgnos
        file_of[pgnos], offset_of[pgnos], size_of[pgnos] = place, each.index.offsets, each.index.sizes
        file_of[each.header.commit + 1 :] = _NOWHERE
    arrays = [array[: commit + 1].copy() for array in (file_of, offset_of, size_of)]
    for array in arrays:
        array.flags.writeable = False
    files = (*view.files, *opened)
    txid, last = opened[-1].file.max_txid, opened[-1]
    files, places, offsets, sizes = _packed(files, arrays)
    doubtful = tuple(each for each in files[1:] if not each.is_verified)
    trusted = bytearray(commit + 1 if doubtful else 0)
    if doubtful and view.trusted and all(each.is_verified for each in opened):
        trusted[: len(view.trusted)] = view.trusted[: len(trusted)]
    return View(
        txid,
        time,
        view.page_size,
        commit,
        files,
        places,
        offsets,
        sizes,
        last,
        doubtful,
        trusted,
        view.lineage,
    )


def _check_fits(view: View, opened: Sequence[OpenFile]) -> None:
    before: OpenFile | None = view.last if view.commit else None
    old_commit = view.commit
    for each in opened:
        _check_fit(each, before, view.page_size, old_commit)
        before, old_commit = each, each.header.commit


def _check_fit(each: OpenFile, before: OpenFile | None, page_size: int, old_commit: int) -> None:
    """Hold a file to the one before it. Of the two the one that was not verified is taken for the damaged one."""
    header, pgnos = each.header, each.index.pgnos
    suspect = before if before and each.is_verified and not before.is_verified else each
    if header.page_size != page_size:
        raise FileError(
            suspect.file,
            CorruptError(
                f"pages of {header.page_size} bytes in {each.file.name}, of {page_size} before it", offset=8
            ),
        )
    if len(pgnos) and (int(pgnos[-1]) > header.commit or bool((pgnos == header.lock_page).any())):
        raise FileError(each.file, CorruptError("the page index names pages that the file cannot hold"))
    grown = len(pgnos) - int(np.searchsorted(pgnos, old_commit, side="right"))
    wanted = max(0, header.commit - old_commit) - (old_commit < header.lock_page <= header.commit)
    if grown < wanted:
        raise FileError(
            suspect.file,
            CorruptError(
                f"the database grows to {header.commit} pages with {each.file.name}, which lacks "
                f"{wanted - grown} of the new ones",
                offset=12,
            ),
        )


def _packed(
    files: tuple[OpenFile, ...], arrays: Sequence[NDArray[Any]]
) -> tuple[tuple[OpenFile, ...], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint32]]:
    """Leave out files that no page lies in any more, so that following for weeks does not pile them up.

    One that was not verified stays: a page could hide in it.
    """
    file_of, offset_of, size_of = arrays
    used = np.unique(file_of)
    used = used[used != _NOWHERE]
    first = int(used[0]) if len(used) else len(files)
    doubtful = [place for place, each in enumerate(files) if place > first and not each.is_verified]
    used = np.union1d(used, np.array(doubtful, np.uint32))
    if len(used) == len(files):
        return files, file_of, offset_of, size_of
    renumbered = np.full(len(files) + 1, _NOWHERE, np.uint32)
    renumbered[used] = np.arange(len(used), dtype=np.uint32)
    packed = np.where(file_of == _NOWHERE, _NOWHERE, renumbered[np.minimum(file_of, len(files))])
    packed.flags.writeable = False
    return tuple(files[place] for place in used), packed, offset_of, size_of
