"""Opening LTX files for queries: header, page index, and small files whole, in as few round trips as it takes."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from backends import NotFoundError, Piece
from ltx import TXID, CorruptError, LTXFile, Replica, UnsupportedVersionError
from ltx.errors import TruncatedError
from ltx.format import HEADER_SIZE, Decoder, Header
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.frame import BLOCK_FLAG, FRAME_HEAD, decode_frame
from ltx.format.index import PageIndex, index_range
from ltx.replica.apply import FileError
from vfs.cache import PageCache, PageKey, page_key
from vfs.index_search import SearchedIndex
from vfs.kept_files import KeptFiles
from vfs.view import OpenFile
from vfs.waiting import ForkedLock

__all__ = ["TAIL_SIZE", "WHOLE_SIZE", "FileOpener"]

TAIL_SIZE = 64 << 10
"""Read from the end of a file at first, at most: about 7,000 index entries."""

WHOLE_SIZE = 512 << 10
"""A file up to this size may be read whole, and so verified: one request in place of two and one for each page."""

INDEX_SIZE = 192 << 10
"""Bytes of longer indexes that are read whole when files are opened; beyond that they are searched."""

_HEAD_SIZE = 16 << 10
"""Read from the start of a snapshot: its first pages are what every query begins with."""

_SIZE, _FEW, _SIZE_OF_ONE = 512 << 10, 21, 32 << 10
"""Bytes that opening a few files reads, and as many more for each one beyond these."""

_SHORT_INDEX = 8 << 10
"""Bytes up to which a snapshot's index is decoded whole; of a longer one that is here, too, what is asked for."""

_INDEX_PART = 240
"""A page index is such a part of its file, about, where pages of 4 KiB become half as long."""

_BATCH_SIZE = 16 << 20
_KEPT_SIZE = 8 << 20
"""Bytes of pages of one file that are kept when it is read whole."""

_MOST_NUMBERS = 10_000
_LEAST_TAIL_SIZE = 8 << 10

_Identity = tuple[str, int, str]


class FileOpener:
    """Opens files of one replica, each once for as long as somebody uses it. Safe to use from several threads."""

    def __init__(self, replica: Replica, cache: PageCache, kept: KeptFiles | None = None) -> None:
        self._replica = replica
        self._kept = kept
        self._cache = cache
        self._open: WeakValueDictionary[_Identity, OpenFile] = WeakValueDictionary()
        self._numbers: dict[tuple[str, int, bytes], int] = {}
        self._compared: dict[_Identity, int] = {}
        self._next_number = itertools.count(1)
        self._lock = ForkedLock()

    def open(self, files: Sequence[LTXFile]) -> list[OpenFile]:
        """Open files: one or two ranged reads of each in parallel, and another of those with a longer page index.

        A file that is read whole is verified, and its pages are cached. A very long index is searched when it is
        needed.

        Raises:
            FileError: One is damaged.
            NotFoundError: One is gone.
        """
        # A file without a version may have been replaced by one of the same name and size: read it again.
        known = {file: self._open.get(_identity(file)) for file in files if file.version}
        found = {file: opened for file, opened in known.items() if opened is not None}
        wanted = [file for file in files if file not in found]
        kept = self._kept.proven(wanted, self._replica.backend) if self._kept else {}
        for some in _batches(_ends_of(wanted)):
            for ends in some:
                if ends.file in kept:
                    ends.take(kept[ends.file])
            lacking = [ends for ends in some if not ends.read]
            read = iter(
                self._replica.backend.get_ranges([piece for ends in lacking for piece in ends.pieces])
                if lacking
                else ()
            )
            for ends in lacking:
                ends.read = [next(read) for _ in ends.pieces]
            for ends, opened in zip(some, self._open_all(some), strict=True):
                found[ends.file] = opened
                with self._lock.now:
                    self._open[_identity(ends.file)] = opened
        return [found[file] for file in files]

    def open_next(self, key: str, level: int, txid: TXID) -> OpenFile | None:
        """Open the file of one transaction by its name, in one request if it is small; None where there is none.

        Its size and version are not known then: nothing listed it.

        Raises:
            FileError: It is damaged.
        """
        backend = self._replica.backend
        try:
            data = backend.get(key, 0, WHOLE_SIZE + 1)
        except NotFoundError:
            return None
        if len(data) <= WHOLE_SIZE:
            file = LTXFile(level, txid, txid, len(data), key)
            with _named(file):
                return self._open_one(_Ends(file, ((key, 0, len(data)),), [data]), None)
        info = backend.head(key)
        file = LTXFile(level, txid, txid, info.size, key, info.modified, info.version)
        return self.open([file])[0]

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

    def _open_all(self, some: Sequence["_Ends"]) -> Iterator[OpenFile]:
        """Open files of which the first and last bytes were read."""
        long: dict[LTXFile, Piece] = {}
        room = INDEX_SIZE
        for ends in sorted(some, key=lambda each: each.file.size):
            file = ends.file
            with _named(file):
                if len(ends.tail) < ends.pieces[-1][2] - ends.pieces[-1][1]:
                    raise TruncatedError("it is shorter than its listing says", offset=file.size)
                start, end = index_range(ends.tail, file.size)
            if start < ends.base and ends.index is None and end - start <= room:
                long[file] = (file.key, start, end)
                room -= end - start
        raw = (
            dict(zip(long, self._replica.backend.get_ranges(list(long.values())), strict=True))
            if long
            else {}
        )
        for ends in some:
            with _named(ends.file):
                opened = self._open_one(ends, raw.get(ends.file) or ends.index)
            if self._kept and not ends.was_kept:
                self._kept.keep_opening(
                    ends.file, ends.tail[-TRAILER_SIZE:], ends.to_keep(raw.get(ends.file))
                )
            yield opened

    def _open_one(self, ends: "_Ends", raw: bytes | None) -> OpenFile:
        file, tail, base = ends.file, ends.tail, ends.base
        start, end = index_range(tail, file.size)
        header = Header.unpack(ends.read[0])
        if (header.min_txid, header.max_txid) != (file.min_txid, file.max_txid):
            raise CorruptError("the header has other TXIDs than the name", offset=16)
        held = raw or tail[max(0, start - base) : end - base]
        is_long = len(held) < end - start or (header.is_snapshot and len(held) > _SHORT_INDEX)
        index: PageIndex | SearchedIndex
        if is_long and base:
            index = self._searched(file, header, start, end, held)
        else:
            index = PageIndex.decode(held, file.size)
        number = self._number(file, tail[-TRAILER_SIZE:])
        if isinstance(index, PageIndex) and base == 0:
            self._keep_all(number, tail, index, start)
        elif header.is_snapshot:
            first = _first_pages(ends.read[0], header.page_size)
            self._cache.put([(page_key(number, pgno), page) for pgno, page in first])
        return OpenFile(number, file, header, index, is_verified=base == 0)

    def _searched(self, file: LTXFile, header: Header, start: int, end: int, held: bytes) -> SearchedIndex:
        backend, key = self._replica.backend, file.key
        if held[-9:-8] != b"\0":
            raise CorruptError("the page index does not end as it must", offset=end - 9)
        return SearchedIndex(
            file,
            lambda first, last: backend.get(key, first, last),
            start,
            end - 9,
            held[:-9],
            header.page_size if header.is_snapshot else None,
        )

    def _keep_all(self, number: int, data: bytes, index: PageIndex, start: int) -> None:
        """Verify a whole file, and keep its pages."""
        pgnos: list[int] = []
        pages: list[tuple[PageKey, bytes]] = []
        for pgno, page in Decoder([data]):
            pgnos.append(pgno)
            if len(pages) * len(page) < _KEPT_SIZE:  # a small file of zeros holds a lot of them
                pages.append((page_key(number, pgno), page))
        if pgnos != index.pgnos.tolist():
            raise CorruptError("the page index does not say where the pages are", offset=start)
        self._cache.put(pages)
        if self._kept and self._kept.on_whole:
            self._kept.on_whole(number, data, index)

    def _number(self, file: LTXFile, trailer: bytes) -> int:
        """The same number for the same file with the same checksum, also after it was closed."""
        with self._lock.now:
            key = (file.key, file.size, trailer)
            if key not in self._numbers:
                if len(self._numbers) >= _MOST_NUMBERS:  # forgetting one costs its pages in the cache
                    del self._numbers[next(iter(self._numbers))]
                self._numbers[key] = next(self._next_number)
                if self._kept:
                    self._kept.name(self._numbers[key], file, trailer)
            return self._numbers[key]


@contextmanager
def _named(file: LTXFile) -> Iterator[None]:
    """Say which file an error in it is about."""
    try:
        yield
    except (CorruptError, UnsupportedVersionError) as error:
        raise FileError(file, error) from error


@dataclass(slots=True)
class _Ends:
    """What is read of a file at first: all of it, or a piece from its start and one from its end.

    Attributes:
        file: The file.
        pieces: Which bytes.
        read: What was read, for each piece.
        index: The page index, where it was kept and lies before the last piece.
        was_kept: Whether nothing had to be read.
    """

    file: LTXFile
    pieces: tuple[Piece, ...]
    read: list[bytes] = field(default_factory=list)
    index: bytes | None = None
    was_kept: bool = False

    def take(self, kept: Sequence[tuple[int, bytes]]) -> None:
        """Take what was kept of an earlier opening: the first and the last piece, or all, and an index between."""
        count = 1 if len(kept) == 1 else 2
        self.pieces = tuple((self.file.key, start, start + len(data)) for start, data in kept[:count])
        self.read = [data for _, data in kept[:count]]
        self.index = kept[count][1] if len(kept) > count else None
        self.was_kept = True

    def to_keep(self, index: bytes | None) -> Sequence[tuple[int, bytes]]:
        """Return what to keep for the next opening."""
        pieces = [(start, data) for (_, start, _), data in zip(self.pieces, self.read, strict=True)]
        return pieces if index is None else [*pieces, (0, index)]

    @property
    def tail(self) -> bytes:
        """The last bytes."""
        return self.read[-1]

    @property
    def base(self) -> int:
        """Where in the file they begin."""
        return self.pieces[-1][1]

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(end - start for _, start, end in self.pieces)


def _ends_of(files: Sequence[LTXFile]) -> list[_Ends]:
    """Say what to read of files at first, so that many of them do not cost much more than a few.

    The smallest are read whole, as far as that goes; what is left is for the ends of the others.
    """
    room = _SIZE + _SIZE_OF_ONE * max(0, len(files) - _FEW)
    pieces: dict[LTXFile, tuple[Piece, ...]] = {}
    in_order = sorted(files, key=lambda each: each.size)
    for place, file in enumerate(in_order):
        rest = len(in_order) - place - 1
        if file.size <= min(WHOLE_SIZE, room - rest * _LEAST_TAIL_SIZE):
            pieces[file] = ((file.key, 0, file.size),)
            room -= file.size
            continue
        most = max(_LEAST_TAIL_SIZE, room // (rest + 1))
        index = file.size // _INDEX_PART + TRAILER_SIZE
        tail = min(index if TAIL_SIZE < index <= most else TAIL_SIZE, most, file.size)
        head = min(_HEAD_SIZE if file.min_txid == 1 else HEADER_SIZE, file.size)
        pieces[file] = ((file.key, 0, head), (file.key, file.size - tail, file.size))
        room -= tail
    return [_Ends(file, pieces[file]) for file in files]


def _batches(some: Iterable[_Ends]) -> Iterator[list[_Ends]]:
    """Cut files into groups that are read at once, so that many of them do not fill the memory."""
    batch: list[_Ends] = []
    size = 0
    for ends in some:
        batch.append(ends)
        size += ends.size
        if size >= _BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _first_pages(head: bytes, page_size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the pages at the start of a snapshot that lie in some bytes whole, the next one's number included."""
    start = HEADER_SIZE
    for pgno in itertools.count(1):
        if start + FRAME_HEAD.size > len(head):
            return
        found, flags, size = FRAME_HEAD.unpack_from(head, start)
        stop = start + FRAME_HEAD.size + size
        if (
            found != pgno
            or flags != BLOCK_FLAG
            or stop + 4 > len(head)
            or head[stop : stop + 4] != (pgno + 1).to_bytes(4, "big")
        ):
            return
        try:
            page = decode_frame(head[start:stop], pgno, page_size)
        except CorruptError:
            return  # whoever asks for it gets the error
        yield pgno, page
        start = stop


def _identity(file: LTXFile) -> _Identity:
    return file.key, file.size, file.version
