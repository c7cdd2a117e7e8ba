"""One state of a database, and where each of its pages lies: immutable, so that a reader can hold on to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx import TXID, CorruptError, LTXFile
from ltx.format import Header, lock_page
from ltx.format.index import PageIndex

__all__ = ["OpenFile", "Run", "View", "build_view", "extend_view"]

_NOWHERE = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class OpenFile:
    """An LTX file of which the header and the page index are known.

    Attributes:
        number: Stands for this file and its content in the keys of the page cache.
        file: Where it lies.
        header: What it says of itself.
        index: Where its pages are.
    """

    number: int
    file: LTXFile
    header: Header
    index: PageIndex


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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class View:
    """A database as it was after one transaction.

    Attributes:
        txid: The transaction.
        time: When it was committed.
        page_size: Bytes of a page.
        commit: Pages in the database.
        files: The files that its pages lie in, in the order of the plan.
    """

    txid: TXID
    time: datetime
    page_size: int
    commit: int
    files: tuple[OpenFile, ...]
    _file_of: NDArray[np.uint32]
    _offset_of: NDArray[np.uint64]
    _size_of: NDArray[np.uint32]

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


def build_view(opened: Sequence[OpenFile], time: datetime) -> View:
    """Make the view that the files of a plan give, the first of them being a snapshot.

    Raises:
        CorruptError: They do not belong together, or one grows the database without all new pages.
    """
    first = opened[0]
    if not first.header.is_snapshot:
        raise CorruptError(f"{first.file.key} is no snapshot, and nothing lies before it")
    empty = View(
        TXID(0),
        time,
        first.header.page_size,
        0,
        (),
        np.full(1, _NOWHERE, np.uint32),
        np.zeros(1, np.uint64),
        np.zeros(1, np.uint32),
    )
    return extend_view(empty, opened, time)


def extend_view(view: View, opened: Sequence[OpenFile], time: datetime) -> View:
    """Make the view that results when further files are applied to one; the old one stays as it is.

    A page's place changes only for a file with a higher TXID; commit is that of the last file; pages beyond a
    smaller commit are dropped.

    Raises:
        CorruptError: As `build_view`.
    """
    commit = opened[-1].header.commit
    room = max(view.commit, *(each.header.commit for each in opened)) + 1
    file_of = np.full(room, _NOWHERE, np.uint32)
    offset_of, size_of = np.zeros(room, np.uint64), np.zeros(room, np.uint32)
    file_of[: view.commit + 1] = view._file_of
    offset_of[: view.commit + 1] = view._offset_of
    size_of[: view.commit + 1] = view._size_of
    old_commit = view.commit
    for place, each in enumerate(opened, start=len(view.files)):
        _check_fit(each, view.page_size, old_commit)
        pgnos = each.index.pgnos
        file_of[pgnos], offset_of[pgnos], size_of[pgnos] = place, each.index.offsets, each.index.sizes
        old_commit = each.header.commit
        file_of[old_commit + 1 :] = _NOWHERE
    arrays = [array[: commit + 1].copy() for array in (file_of, offset_of, size_of)]
    for array in arrays:
        array.flags.writeable = False
    files = (*view.files, *opened)
    return View(opened[-1].file.max_txid, time, view.page_size, commit, *_packed(files, arrays))


def _check_fit(each: OpenFile, page_size: int, old_commit: int) -> None:
    header, pgnos = each.header, each.index.pgnos
    if header.page_size != page_size:
        raise CorruptError(
            f"{each.file.key} has pages of {header.page_size} bytes, those before it {page_size}"
        )
    if len(pgnos) and (int(pgnos[-1]) > header.commit or bool((pgnos == header.lock_page).any())):
        raise CorruptError(f"the page index of {each.file.key} names pages that the file cannot hold")
    grown = len(pgnos) - int(np.searchsorted(pgnos, old_commit, side="right"))
    wanted = max(0, header.commit - old_commit) - (old_commit < header.lock_page <= header.commit)
    if grown < wanted:
        raise CorruptError(f"{each.file.key} grows the database and lacks {wanted - grown} of the new pages")


def _packed(
    files: tuple[OpenFile, ...], arrays: Sequence[NDArray[Any]]
) -> tuple[tuple[OpenFile, ...], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint32]]:
    """Leave out files that no page lies in any more, so that following for weeks does not pile them up."""
    file_of, offset_of, size_of = arrays
    used = np.unique(file_of)
    used = used[used != _NOWHERE]
    if len(used) == len(files):
        return files, file_of, offset_of, size_of
    renumbered = np.full(len(files) + 1, _NOWHERE, np.uint32)
    renumbered[used] = np.arange(len(used), dtype=np.uint32)
    packed = np.where(file_of == _NOWHERE, _NOWHERE, renumbered[np.minimum(file_of, len(files))])
    packed.flags.writeable = False
    return tuple(files[place] for place in used), packed, offset_of, size_of
