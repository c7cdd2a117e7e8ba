"""From pages to an LTX file, in one pass and flat memory."""

from collections.abc import Iterable, Iterator

from ltx.format.checksum import CHECKSUM_FLAG, crc
from ltx.format.compression import Page, compressed
from ltx.format.frame import BLOCK_FLAG, FRAME_HEAD, TERMINATOR
from ltx.format.header import HEADER_SIZE, NO_CHECKSUM, Header
from ltx.format.order import PageOrder

__all__ = ["Encoder", "uvarint"]

_READ_SIZE = 1 << 20
_INDEX_IN_MEMORY = 4 << 20
"""Bytes of page index, about 500,000 pages, beyond which it goes to a temporary file."""


def uvarint(value: int) -> bytes:
    """Return an unsigned LEB128 number: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class Encoder:
    """The bytes of one LTX file, made as they are iterated over. It can be iterated over once.

    Memory is bounded, whatever the size of the database: some batches of 512 KiB, and a page index that goes to
    a temporary file when it grows. Pages are taken in the thread that iterates, some MiB before they come out,
    and compressed in a helper process too. What is iterated over to the end is a valid file; the attributes below are
    set from then on.

    Attributes:
        page_count: How many pages it holds.
        size: Its size in bytes.
        file_checksum: Its checksum, which the last eight bytes state.

    Args:
        header: Must carry `NO_CHECKSUM` (nothing of today's writes database checksums) and a commit over 0.
        pages: Page numbers and pages, in the order that `PageOrder` wants.

    Raises:
        ValueError: The header cannot be encoded; while iterating: a page has the wrong size, or it is done twice.
        CorruptError: While iterating: a page that may not stand where it does.
    """

    def __init__(self, header: Header, pages: Iterable[tuple[int, bytes | memoryview]]) -> None:
        if header.flags != NO_CHECKSUM:
            raise ValueError("only files without database checksums are written: set flags=NO_CHECKSUM")
        if header.commit == 0:
            raise ValueError("a file without database checksums cannot say that the database was deleted")
        self.header = header
        self.page_count = 0
        self.size = 0
        self.file_checksum = 0
        self._pages = pages
        self._checksum = 0
        self._began = False

    def __iter__(self) -> Iterator[bytes]:
        if self._began:
            raise ValueError("an encoder can be iterated over once: its pages are gone")
        self._began = True
        from tempfile import SpooledTemporaryFile  # readers do without

        with SpooledTemporaryFile(max_size=_INDEX_IN_MEMORY) as index:
            head = self.header.pack()
            self._checksum = crc(head)
            yield head
            offset = HEADER_SIZE
            for piece, entries in self._frames():
                index.write(entries)
                offset += len(piece)
                yield piece
            index_size = index.tell() + 1
            index.write(b"\0" + index_size.to_bytes(8, "big"))
            index.seek(0)
            self._checksum = crc(TERMINATOR, self._checksum)
            yield TERMINATOR
            while piece := index.read(_READ_SIZE):
                self._checksum = crc(piece, self._checksum)
                yield piece
        post_checksum = bytes(8)
        self.file_checksum = CHECKSUM_FLAG | crc(post_checksum, self._checksum)
        self.size = offset + len(TERMINATOR) + index_size + 8 + 16
        yield post_checksum + self.file_checksum.to_bytes(8, "big")

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield up to about 512 KiB of frames at a time, and their entries of the page index."""
        checksum, offset = self._checksum, HEADER_SIZE
        for batch, blocks in compressed(self._checked(), self.header.page_size):
            frames: list[bytes] = []
            entries: list[bytes] = []
            for (pgno, page), block in zip(batch, blocks, strict=True):
                head = FRAME_HEAD.pack(pgno, BLOCK_FLAG, len(block))
                checksum = crc(page, crc(head, checksum))
                size = FRAME_HEAD.size + len(block)
                frames += head, block
                entries += uvarint(pgno), uvarint(offset), uvarint(size)
                offset += size
            self.page_count += len(batch)
            self._checksum = checksum
            yield b"".join(frames), b"".join(entries)

    def _checked(self) -> Iterator[Page]:
        page_size, order = self.header.page_size, PageOrder(self.header)
        for pgno, page in self._pages:
            if len(page) != page_size:
                raise ValueError(f"page {pgno} has {len(page)} bytes, not {page_size}")
            order.check(pgno)
            yield pgno, bytes(page)
        order.finish()
