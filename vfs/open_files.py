"""Opening LTX files for queries: header, page index, and small files whole, in as few requests as it takes."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

from backends import Piece
from ltx import CorruptError, LTXFile, Replica, UnsupportedVersionError
from ltx.errors import TruncatedError
from ltx.format import HEADER_SIZE, Decoder, Header
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.index import PageIndex, index_range
from ltx.replica.apply import FileError
from vfs.cache import PageCache, PageKey
from vfs.view import OpenFile
from vfs.waiting import ForkedLock

__all__ = ["TAIL_SIZE", "WHOLE_SIZE", "FileOpener"]

TAIL_SIZE = 64 << 10
"""Read from the end of every file at first: about 7,000 index entries."""

WHOLE_SIZE = 512 << 10
"""A file up to this size is read whole, and so verified: one request in place of two and one for each page."""

_BATCH_SIZE = 16 << 20
_KEPT_SIZE = 8 << 20
"""Bytes of pages of one file that are kept when it is read whole."""

_MOST_NUMBERS = 10_000

_Identity = tuple[str, int, str]


class FileOpener:
    """Opens files of one replica, each once for as long as somebody uses it. Safe to use from several threads."""

    def __init__(self, replica: Replica, cache: PageCache) -> None:
        self._replica = replica
        self._cache = cache
        self._open: WeakValueDictionary[_Identity, OpenFile] = WeakValueDictionary()
        self._numbers: dict[tuple[str, int, bytes], int] = {}
        self._compared: dict[_Identity, int] = {}
        self._next_number = itertools.count(1)
        self._lock = ForkedLock()

    def open(self, files: Sequence[LTXFile]) -> list[OpenFile]:
        """Open files: one or two ranged reads of each in parallel, and another of those with a long page index.

        A file that is read whole is verified, and its pages are cached.

        Raises:
            FileError: One is damaged.
            NotFoundError: One is gone.
        """
        # A file without a version may have been replaced by one of the same name and size: read it again.
        known = {file: self._open.get(_identity(file)) for file in files if file.version}
        found = {file: opened for file, opened in known.items() if opened is not None}
        wanted = [file for file in files if file not in found]
        for some in _batches(wanted):
            rest = iter(
                self._replica.backend.get_ranges([piece for file in some for piece in _first_pieces(file)])
            )
            ends = [(b"" if _is_read_whole(file) else next(rest), next(rest)) for file in some]
            for file, opened in zip(some, self._open_all(some, ends), strict=True):
                found[file] = opened
                with self._lock.now:
                    self._open[_identity(file)] = opened
        return [found[file] for file in files]

    def is_another(self, file: LTXFile, opened: OpenFile, *, anyway: bool = False) -> bool:
        """Whether a file holds something else than the one of the same name that was opened.

        A version changes with less than the content, on some storages by a copy or by a change of permissions.

        Args:
            file: As it is listed now.
            opened: The one that was opened.
            anyway: Read its checksum even if its version is the same or was looked at before.

        Raises:
            NotFoundError: It is gone.
        """
        if file.size != opened.file.size:
            return True
        if file.version == opened.file.version and not anyway:
            return False
        identity = _identity(file)
        if self._compared.get(identity) != opened.number or anyway:
            if len(self._compared) >= _MOST_NUMBERS:
                self._compared.clear()
            self._compared[identity] = self._number(file, self._replica.backend.get(file.key, -TRAILER_SIZE))
        return self._compared[identity] != opened.number

    def _open_all(self, files: Sequence[LTXFile], ends: Sequence[tuple[bytes, bytes]]) -> Iterator[OpenFile]:
        """Open files of which the first and last bytes were read."""
        long: dict[LTXFile, Piece] = {}
        for file, (head, tail) in zip(files, ends, strict=True):
            with _named(file):
                if len(tail) < (min(file.size, TAIL_SIZE) if head else file.size):
                    raise TruncatedError("it is shorter than its listing says", offset=file.size)
                start, end = index_range(tail, file.size)
            if start < file.size - len(tail):
                long[file] = (file.key, start, end)
        raw = (
            dict(zip(long, self._replica.backend.get_ranges(list(long.values())), strict=True))
            if long
            else {}
        )
        for file, (head, tail) in zip(files, ends, strict=True):
            with _named(file):
                yield self._open_one(file, head, tail, raw.get(file))

    def _open_one(self, file: LTXFile, head: bytes, tail: bytes, raw: bytes | None) -> OpenFile:
        base = file.size - len(tail)
        start, end = index_range(tail, file.size)
        index = PageIndex.decode(tail[start - base : end - base] if raw is None else raw, file.size)
        header = Header.unpack(head or tail)
        if (header.min_txid, header.max_txid) != (file.min_txid, file.max_txid):
            raise CorruptError("the header has other TXIDs than the name", offset=16)
        number = self._number(file, tail[-TRAILER_SIZE:])
        if base == 0:
            pgnos: list[int] = []
            pages: list[tuple[PageKey, bytes]] = []
            for pgno, page in Decoder([tail]):
                pgnos.append(pgno)
                if len(pages) * len(page) < _KEPT_SIZE:  # a small file of zeros holds a lot of them
                    pages.append(((number, pgno), page))
            if pgnos != index.pgnos.tolist():
                raise CorruptError("the page index does not say where the pages are", offset=start)
            self._cache.put(pages)
        return OpenFile(number, file, header, index, is_verified=base == 0)

    def _number(self, file: LTXFile, trailer: bytes) -> int:
        """The same number for the same file with the same checksum, also after it was closed."""
        with self._lock.now:
            key = (file.key, file.size, trailer)
            if key not in self._numbers:
                if len(self._numbers) >= _MOST_NUMBERS:  # forgetting one costs its pages in the cache
                    del self._numbers[next(iter(self._numbers))]
                self._numbers[key] = next(self._next_number)
            return self._numbers[key]


@contextmanager
def _named(file: LTXFile) -> Iterator[None]:
    """Say which file an error in it is about."""
    try:
        yield
    except (CorruptError, UnsupportedVersionError) as error:
        raise FileError(file, error) from error


def _is_read_whole(file: LTXFile) -> bool:
    return file.size <= WHOLE_SIZE


def _batches(files: Iterable[LTXFile]) -> Iterator[list[LTXFile]]:
    """Cut files into groups that are read at once, so that many of them do not fill the memory."""
    batch: list[LTXFile] = []
    size = 0
    for file in files:
        batch.append(file)
        size += sum(end - start for _, start, end in _first_pieces(file))
        if size >= _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _first_pieces(file: LTXFile) -> list[tuple[str, int, int]]:
    if _is_read_whole(file):
        return [(file.key, 0, file.size)]
    return [(file.key, 0, HEADER_SIZE), (file.key, max(0, file.size - TAIL_SIZE), file.size)]


def _identity(file: LTXFile) -> _Identity:
    return file.key, file.size, file.version
