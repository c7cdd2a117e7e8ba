"""Reading the pages of a view: the one that is asked for, those that lie behind it, and proof that they are the newest."""

from collections.abc import Sequence
from contextlib import suppress

from backends import Backend, NotFoundError
from ltx import CorruptError
from ltx.format.frame import FRAME_HEAD, decode_frame
from ltx.replica.apply import FileError
from vfs.cache import PageCache, PageKey
from vfs.view import Doubt, Run, View
from vfs.waiting import Interrupted, Waiter

__all__ = ["PageReader"]

_RUN_SIZE = 1 << 20
"""Bytes that one request for pages gets at most."""

_RUN_PAGES_SIZE = 8 << 20
"""Bytes of the pages in it: those of zeros take next to nothing in a file."""

_KNOWN_BETWEEN = 4


class PageReader:
    """Reads pages of one replica through a cache. Safe to use from several threads.

    Args:
        backend: Where the replica lies.
        cache: Of pages.
        waiter: Waits for the backend.
    """

    def __init__(self, backend: Backend, cache: PageCache, waiter: Waiter) -> None:
        self._backend = backend
        self._cache = cache
        self._waiter = waiter

    def page(self, view: View, pgno: int, ahead: int, interrupted: Interrupted) -> bytes:
        """Return a page of a view, and keep up to `ahead` of those that lie behind it.

        Raises:
            FileError: A file that it lies in, or could lie in, is gone or damaged.
        """
        if pgno == view.lock_page:
            return bytes(view.page_size)
        file = view.file_of(pgno)
        doubts = view.doubts(pgno)
        page = self._cache.get((file.number, pgno))
        if page is None:
            room = min(self._cache.max_size // 4, _RUN_PAGES_SIZE) // view.page_size
            run = self._lacking(view.run_at(pgno, max(1, min(ahead, room)), _RUN_SIZE))
            pages = self._waiter.wait(lambda: self._read(view.page_size, run, doubts), interrupted)
            self._cache.put(((file.number, number), data) for number, data in pages)
            view.trust(number for number, _ in pages)
            page = pages[0][1]
        elif doubts:
            self._waiter.wait(lambda: self._read(view.page_size, None, doubts), interrupted)
            view.trust((pgno,))
        if pgno == 1:
            _check_commit(view, page)
        return page

    def located(self, view: View, pgno: int) -> PageKey | None:
        """Return what a page is kept by; None where finding it, or proof that it is the newest, takes a request."""
        with suppress(CorruptError, FileError):  # whoever reads the page learns of it
            if next(view.unlocated(pgno), None) is None and not view.doubts(pgno):
                return view.file_of(pgno).number, pgno
        return None

    def _lacking(self, run: Run) -> Run:
        """Cut a run off where pages follow that are in the cache; a few between others are not worth a request."""
        end = known = 0
        for place, (pgno, _, _) in enumerate(run.frames):
            if (run.file.number, pgno) in self._cache:
                known += 1
                if known == _KNOWN_BETWEEN:
                    break
            else:
                known, end = 0, place + 1
        return run.cut(end)

    def _read(self, page_size: int, run: Run | None, doubts: Sequence[Doubt]) -> list[tuple[int, bytes]]:
        """Read and check a run, and what is in doubt about it, at the same time."""
        parts = [*doubts, *([run] if run else ())]
        try:
            read = self._backend.get_ranges([(each.file.file.key, each.start, each.end) for each in parts])
        except NotFoundError as error:
            gone = next((each for each in parts if each.file.file.key == error.key), parts[0])
            raise FileError(gone.file.file, error) from error
        for doubt, frames in zip(doubts, read, strict=False):
            _dispel(doubt, frames)
        return _decode(run, read[-1], page_size) if run else []


def _decode(run: Run, read: bytes, page_size: int) -> list[tuple[int, bytes]]:
    """Decode and check frames. Those behind the first that are damaged are left for when they are asked for."""
    data = memoryview(read)
    pages: list[tuple[int, bytes]] = []
    for pgno, start, size in run.frames:
        try:
            pages.append((pgno, decode_frame(data[start : start + size], pgno, page_size)))
        except CorruptError as error:
            if pages:
                break
            error.offset = run.start + start + (error.offset or 0)
            raise FileError(run.file.file, error) from error
    return pages


def _check_commit(view: View, page_one: bytes) -> None:
    """See that the file that says how many pages there are does not deny some, where it was not verified.

    SQLite itself would find out, if a reader's page 1 did not have the number that the file says.
    """
    stated = int.from_bytes(page_one[28:32], "big")
    if view.last.is_verified or page_one[24:28] != page_one[92:96] or stated <= view.commit:
        return
    raise FileError(
        view.last.file, CorruptError(f"a database of {stated} pages would have {view.commit}", offset=12)
    )


def _dispel(doubt: Doubt, frames: bytes) -> None:
    """See that the frames around a place are those that the index names.

    Raises:
        FileError: They are not.
    """
    for pgno, start in doubt.heads:
        head = frames[start : start + FRAME_HEAD.size]
        if len(head) < FRAME_HEAD.size or FRAME_HEAD.unpack(head)[0] != pgno:
            raise FileError(
                doubt.file.file,
                CorruptError(
                    f"the page index names page {pgno} where another lies", offset=doubt.start + start
                ),
            )
    doubt.file.proven.add(doubt.place)
