"""Getting one LTX file onto the disk whole: in big pieces, verified, from where an earlier process was interrupted."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from backends import Backend, NotFoundError
from ltx import CorruptError, UnsupportedVersionError
from ltx.errors import ChecksumError
from ltx.format import Decoder
from ltx.format.frame import decode_frame
from ltx.format.index import PageIndex
from ltx.replica.apply import FileError
from vfs.disk_cache import FileName
from vfs.hydration_store import HydrationStore
from vfs.view import OpenFile
from vfs.waiting import Interrupted, Waiter

__all__ = ["BLOCK_SIZE", "DiskError", "FileKeeper", "frames_of"]

BLOCK_SIZE = 4 << 20
"""Bytes of a file that one request gets."""

_TRIES = 3
"""Of a write that another process's write came before."""


class DiskError(Exception):
    """The disk takes nothing at the moment."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Some bytes of a file: whole frames, and at the file's ends what lies around them.

    Attributes:
        start: First byte.
        end: Byte after the last one.
        pgnos: Whose frames, ascending.
        offsets: Where each of them begins.
        sizes: Bytes of each.
    """

    start: int
    end: int
    pgnos: Sequence[int]
    offsets: Sequence[int]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Read:
    """What there is of a block.

    Attributes:
        held: Frames from the disk.
        start: Where in the file the bytes begin that the storage gave.
        data: These bytes.
    """

    held: Mapping[int, bytes]
    start: int
    data: bytes


class FileKeeper:
    """Brings files of one replica into a cache on disk.

    Args:
        backend: Where the replica lies.
        store: The cache.
        waiter: Waits for the backend.
        interrupted: Says whether to give up.
        before: Called before each request goes out; it may wait, or raise.
        progress: Called with the bytes of the file that are there.
    """

    def __init__(
        self,
        backend: Backend,
        store: HydrationStore,
        waiter: Waiter,
        interrupted: Interrupted,
        before: Callable[[], None],
        progress: Callable[[int], None],
    ) -> None:
        self._backend = backend
        self._store = store
        self._waiter = waiter
        self._interrupted = interrupted
        self._before = before
        self._progress = progress

    def keep_all(self, file: OpenFile, index: PageIndex, name: FileName) -> None:
        """See to it that all frames of a file are kept, and verify the file by its checksum.

        Raises:
            FileError: It is gone or damaged.
            DiskError: The disk takes nothing.
            FullError: There is no room for it.
        """
        try:
            self._decode(file, index, name)
        except ChecksumError as error:  # nothing says which of its pages is wrong
            self._store.drop(name)
            raise FileError(file.file, error) from error
        except (CorruptError, UnsupportedVersionError) as error:
            raise FileError(file.file, error) from error
        self._sure(lambda: self._store.set_verified(name))

    def keep_some(self, file: OpenFile, index: PageIndex, name: FileName, pgnos: Sequence[int]) -> None:
        """See to it that some frames are kept, of a file that was verified before.

        Args:
            file: The file.
            index: All of its page index.
            name: What it is kept by.
            pgnos: The pages, ascending.

        Raises:
            FileError: As `keep_all`.
            DiskError: As `keep_all`.
            FullError: As `keep_all`.
        """
        places = [index.place(pgno) for pgno in pgnos]
        for block, read in self._read(file, name, list(_blocks(index, places))):
            frames = _new_frames(block, read)
            for pgno, frame in frames:
                try:
                    decode_frame(frame, pgno, file.header.page_size)
                except CorruptError as error:
                    raise FileError(file.file, error) from error
            self._keep(name, frames)
            self._progress(block.end)

    def _decode(self, file: OpenFile, index: PageIndex, name: FileName) -> None:
        """Send a file through the decoder, and keep the frames of each block when it asks for the next."""
        seen: list[int] = []

        def pieces() -> Iterator[bytes]:
            for block, read in self._read(file, name, list(_whole(index, file.file.size))):
                yield _bytes_of(block, read)
                if seen != list(block.pgnos):
                    raise CorruptError("the page index does not say where the pages are", offset=block.start)
                seen.clear()
                self._keep(name, _new_frames(block, read))
                self._progress(block.end)

        for pgno, _ in Decoder(pieces()):
            seen.append(pgno)

    def _read(
        self, file: OpenFile, name: FileName, blocks: Sequence[_Block]
    ) -> Iterator[tuple[_Block, _Read]]:
        """Yield what there is of each block, while the next one is on its way."""
        under_way: Future[_Read] | None = None
        for place, block in enumerate(blocks):
            read = self._waiter.wait_for(under_way or self._start(file, name, block), self._interrupted)
            following = blocks[place + 1] if place + 1 < len(blocks) else None
            under_way = self._start(file, name, following) if following else None
            yield block, read

    def _start(self, file: OpenFile, name: FileName, block: _Block) -> Future[_Read]:
        held = self._store.get(name, block.pgnos, touch=False) if block.pgnos else {}
        start, end = _lacking(block, held)
        if start < end:
            self._before()
        return self._waiter.start(
            lambda: _Read(held, start, self._get(file, start, end) if start < end else b""),
            self._interrupted,
        )

    def _get(self, file: OpenFile, start: int, end: int) -> bytes:
        try:
            data = self._backend.get(file.file.key, start, end)
        except NotFoundError as error:
            raise FileError(file.file, error) from error
        if len(data) != end - start:
            raise FileError(file.file, CorruptError("it is shorter than it was", offset=start + len(data)))
        return data

    def _keep(self, name: FileName, frames: Sequence[tuple[int, bytes]]) -> None:
        if frames:
            self._sure(lambda: self._store.put(name, frames))

    def _sure(self, write: Callable[[], bool]) -> None:
        for _ in range(_TRIES):
            if write():
                return
            if self._store.failure:
                break
        raise DiskError(self._store.failure or "other processes write all the time")


def frames_of(index: PageIndex, data: bytes) -> Sequence[tuple[int, bytes]]:
    """Return the frames of a whole file, by page number."""
    block = next(_whole(index, len(data), len(data)))
    return _new_frames(block, _Read({}, 0, data))


def _whole(index: PageIndex, file_size: int, size: int = BLOCK_SIZE) -> Iterator[_Block]:
    """Cut a file into blocks that leave nothing out."""
    start = 0
    for block in _blocks(index, range(len(index)), size):
        end = block.end
        if end == index.end and file_size - start <= size + size // 2:
            end = file_size
        yield _Block(start, end, block.pgnos, block.offsets, block.sizes)
        start = end
    for begin in range(start, file_size, size):
        yield _Block(begin, min(begin + size, file_size), (), (), ())


def _blocks(index: PageIndex, places: Sequence[int], size: int = BLOCK_SIZE) -> Iterator[_Block]:
    """Cut those frames of a file into blocks that stand at some places of its index, ascending."""
    begin = 0
    while begin < len(places):
        first = index.offset(places[begin])
        behind = range(begin, len(places))
        fitting = bisect_right(behind, first + size, key=lambda each: index.offset(places[each] + 1))
        stop = begin + max(1, fitting)
        chosen = places[begin:stop]
        offsets = [index.offset(place) for place in chosen]
        sizes = [index.offset(place + 1) - start for place, start in zip(chosen, offsets, strict=True)]
        yield _Block(first, offsets[-1] + sizes[-1], [index.pgnos[place] for place in chosen], offsets, sizes)
        begin = stop


def _lacking(block: _Block, held: Mapping[int, bytes]) -> tuple[int, int]:
    """Return from where to where a block must be read; nothing where all of it is there."""
    frames = zip(block.pgnos, block.offsets, block.sizes, strict=True)
    lacking = [(start, start + size) for pgno, start, size in frames if pgno not in held]
    if block.pgnos:
        first, last = block.offsets[0], block.offsets[-1] + block.sizes[-1]
        if block.start < first:
            lacking.insert(0, (block.start, first))
        if last < block.end:
            lacking.append((last, block.end))
    else:
        lacking = [(block.start, block.end)]
    return (lacking[0][0], lacking[-1][1]) if lacking else (0, 0)


def _bytes_of(block: _Block, read: _Read) -> bytes:
    """Return all bytes of a block, of which the storage gave a part."""
    end = read.start + len(read.data)
    frames = zip(block.pgnos, block.offsets, strict=True)
    before, behind = [], []
    for pgno, start in frames:
        if not read.data or start < read.start:
            before.append(read.held[pgno])
        elif start >= end:
            behind.append(read.held[pgno])
    return b"".join([*before, read.data, *behind])


def _new_frames(block: _Block, read: _Read) -> Sequence[tuple[int, bytes]]:
    """Return the frames of a block that were not kept yet."""
    return [
        (pgno, read.data[start - read.start : start - read.start + size])
        for pgno, start, size in zip(block.pgnos, block.offsets, block.sizes, strict=True)
        if pgno not in read.held
    ]
