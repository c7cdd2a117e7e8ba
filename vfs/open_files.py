"""Opening LTX files for queries: header, page index, and small files whole, in as few requests as it takes."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

from backends import Piece
from ltx import CorruptError, LTXFile, Replica
from ltx.errors import TruncatedError
from ltx.format import HEADER_SIZE, Decoder, Header
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.index import PageIndex, index_range
from ltx.replica.apply import FileError
from vfs.cache import PageCache
from vfs.view import OpenFile

__all__ = ["FileOpener"]

_TAIL_SIZE = 64 << 10
"""Read from the end of every file at first: a file up to this size whole, of others about 7,000 index entries."""

_Identity = tuple[str, int, str]


class FileOpener:
    """Opens files of one replica, each once for as long as somebody uses it. Safe to use from several threads."""

    def __init__(self, replica: Replica, cache: PageCache) -> None:
        self._replica = replica
        self._cache = cache
        self._open: WeakValueDictionary[_Identity, OpenFile] = WeakValueDictionary()
        self._numbers: dict[tuple[_Identity, bytes], int] = {}
        self._next_number = itertools.count(1)
        self._lock = threading.Lock()

    def open(self, files: Sequence[LTXFile]) -> list[OpenFile]:
        """Open files: two ranged reads of each in parallel, and a third of those with a long page index.

        A file of up to 64 KiB is read and verified whole, and its pages are cached.

        Raises:
            FileError: One is damaged.
            NotFoundError: One is gone.
        """
        # A file without a version may have been replaced by one of the same name and size: read it again.
        known = {file: self._open.get(_identity(file)) for file in files if file.version}
        found = {file: opened for file, opened in known.items() if opened is not None}
        wanted = [file for file in files if file not in found]
        if wanted:
            heads_and_tails = self._replica.backend.get_ranges(
                [piece for file in wanted for piece in _first_pieces(file)]
            )
            rest = iter(heads_and_tails)
            ends = [(next(rest) if file.size > _TAIL_SIZE else b"", next(rest)) for file in wanted]
            for file, opened in zip(wanted, self._open_all(wanted, ends), strict=True):
                found[file] = opened
                with self._lock:
                    self._open[_identity(file)] = opened
        return [found[file] for file in files]

    def _open_all(self, files: Sequence[LTXFile], ends: Sequence[tuple[bytes, bytes]]) -> Iterator[OpenFile]:
        """Open files of which the first and last bytes were read."""
        long: dict[LTXFile, Piece] = {}
        for file, (_, tail) in zip(files, ends, strict=True):
            with _named(file):
                if len(tail) < min(file.size, _TAIL_SIZE):
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
            pages = list(Decoder([tail]))
            if [pgno for pgno, _ in pages] != index.pgnos.tolist():
                raise CorruptError("the page index does not say where the pages are", offset=start)
            self._cache.put(((number, pgno), page) for pgno, page in pages)
        return OpenFile(number, file, header, index)

    def _number(self, file: LTXFile, trailer: bytes) -> int:
        """The same number for the same file with the same checksum, also after it was closed."""
        with self._lock:
            key = (_identity(file), trailer)
            if key not in self._numbers:
                self._numbers[key] = next(self._next_number)
            return self._numbers[key]


@contextmanager
def _named(file: LTXFile) -> Iterator[None]:
    """Say which file a CorruptError is about."""
    try:
        yield
    except CorruptError as error:
        raise FileError(file, error) from error


def _first_pieces(file: LTXFile) -> list[tuple[str, int, int]]:
    if file.size <= _TAIL_SIZE:
        return [(file.key, 0, file.size)]
    return [(file.key, 0, HEADER_SIZE), (file.key, file.size - _TAIL_SIZE, file.size)]


def _identity(file: LTXFile) -> _Identity:
    return file.key, file.size, file.version
