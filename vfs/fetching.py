"""Getting pages from the storage, or from the disk, into the cache: with proof that they are the newest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TypeVar

from backends import Backend, NotFoundError, Piece
from ltx import CorruptError
from ltx.format.frame import decode_frame
from ltx.replica.apply import FileError
from vfs.cache import Frame, PageCache, PageKey, page_key, page_keys, page_number
from vfs.frames import frames_in, pages_in, parts_of
from vfs.kept_files import KeptFiles
from vfs.proof import dispelled
from vfs.runs import part_lacking
from vfs.view import Doubt, Run, View
from vfs.waiting import Interrupted, Waiter

__all__ = ["Fetcher", "Pages"]

_R = TypeVar("_R")
Pages = Mapping[PageKey, bytes]
"""Pages, and frames (`Frame`) of pages that were not decoded yet."""


class Fetcher:
    """Reads runs of one replica's files. Safe to use from several threads.

    Args:
        backend: Where the replica lies.
        cache: Of pages.
        waiter: Waits for the backend.
        kept: A cache on disk.
    """

    def __init__(self, backend: Backend, cache: PageCache, waiter: Waiter, kept: KeptFiles | None) -> None:
        self._backend = backend
        self._cache = cache
        self._waiter = waiter
        self._kept = kept

    def fetched(self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt]) -> Iterator[Pages]:
        """Read runs, and yield what they bring, part by part: it is in the cache, and taken for the newest.

        Raises:
            FileError: A file is gone, or what was in doubt is wrong.
        """
        if not self._kept:
            yield from self._taken(view, runs, self._read(runs, doubts))
            return
        held: dict[PageKey, bytes] = {}
        for run in runs:
            frames = self._kept.frames(run)
            held.update((page_key(run.file.number, pgno), frame) for pgno, frame in frames.items())
        lacking = [part for run in runs if (part := part_lacking(run, held))]
        read = self._read(lacking, doubts)
        new = dict(chain.from_iterable(pages.items() for pages in self._taken(view, lacking, read)))
        if new:
            self._waiter.start(partial(self._keep_on_disk, view.page_size, lacking, read, new), lambda: False)
        self._keep(view, held)
        there = {**held, **new}
        for run in runs:
            for part in parts_of(run, view.page_size):
                keys = page_keys(run.file.number, part.pgnos)
                yield {key: there[key] for key in keys if key in there}

    def _taken(self, view: View, runs: Sequence[Run], reads: Sequence[bytes]) -> Iterator[Pages]:
        """Cut what was read of runs into pages, keep them, and yield them part by part."""
        for run, read in zip(runs, reads, strict=True):
            data = memoryview(read)
            for part in parts_of(run, view.page_size):
                pages = pages_in(part, data[part.start - run.start :], view.page_size)
                taken = dict(zip(page_keys(run.file.number, part.pgnos), pages, strict=False))
                self._keep(view, taken)
                yield taken

    def _keep(self, view: View, pages: Pages) -> None:
        """Put pages into the cache, and take them for the newest: what was in doubt was right."""
        self._cache.put_new(pages)
        view.trust(map(page_number, pages))

    def _keep_on_disk(
        self, page_size: int, runs: Sequence[Run], reads: Sequence[bytes], taken: Pages
    ) -> None:
        """Keep the frames that are right."""
        right: dict[PageKey, Frame] = {}
        for run, data in zip(runs, reads, strict=True):
            for pgno, frame in zip(run.pgnos, frames_in(run, data), strict=False):
                key = page_key(run.file.number, pgno)
                with suppress(CorruptError):
                    if type(taken[key]) is not bytes:
                        decode_frame(frame, pgno, page_size)
                    right[key] = frame
        if self._kept:
            self._kept.keep(right)

    def _read(self, runs: Sequence[Run], doubts: Sequence[Doubt]) -> Sequence[bytes]:
        """Read runs, and see at the same time that what is in doubt about them is right."""
        parts: Sequence[Run | Doubt] = (*doubts, *runs)
        return dispelled(doubts, self._get(parts, self._backend.get_ranges)) if parts else ()

    def _get(self, parts: Sequence["Run | Doubt"], get: Callable[[Sequence[Piece]], _R]) -> _R:
        """Get bytes, and say which file is gone where one is."""
        try:
            return get([(each.file.file.key, each.start, each.end) for each in parts])
        except NotFoundError as error:
            gone = next((each for each in parts if each.file.file.key == error.key), parts[0])
            raise FileError(gone.file.file, error) from error

    def at_once(
        self, view: View, runs: Sequence[Run], doubts: Sequence[Doubt], interrupted: Interrupted
    ) -> Pages | None:
        """Read runs as `fetched`, all of them, in the caller's own thread; None where that could mean to wait."""
        if self._kept:
            return None
        read = self._waiter.at_once(
            lambda: self._get((*doubts, *runs), self._backend.get_at_once), interrupted
        )
        if read is None:
            return None
        return dict(
            chain.from_iterable(pages.items() for pages in self._taken(view, runs, dispelled(doubts, read)))
        )

    def look(self, doubts: Sequence[Doubt], interrupted: Interrupted) -> None:
        """See that what is in doubt is right.

        Raises:
            FileError: It is wrong, or its file is gone.
        """
        read = self._waiter.at_once(lambda: self._get(doubts, self._backend.get_at_once), interrupted)
        if read is None:
            self._waiter.wait(lambda: self._read([], doubts), interrupted)
        else:
            dispelled(doubts, read)
