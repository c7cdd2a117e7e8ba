"""From an LTX file to its pages, in one pass and flat memory, verified to the last byte."""

from collections.abc import Iterable, Iterator

import lz4.frame

from ltx.errors import ChecksumError, CorruptError, TruncatedError
from ltx.format.checksum import CHECKSUM_FLAG, crc, page_checksum, xor_page
from ltx.format.frame import (
    BLOCK_FLAG,
    FRAME_HEAD,
    LEGACY_HEAD_SIZE,
    TERMINATOR,
    decompress_block,
    max_block_size,
)
from ltx.format.header import HEADER_SIZE, Header
from ltx.format.order import PageOrder

__all__ = ["TRAILER_SIZE", "Decoder"]

TRAILER_SIZE = 16
_TAIL_SIZE = 8 + TRAILER_SIZE
"""What follows the entries of the page index: its length, and the trailer."""

_LEGACY_MARGIN = 64
"""Bytes by which an LZ4 frame may be longer than its page."""


class Decoder:
    """The pages of one LTX file, as `(pgno, page)` in ascending order. It can be iterated over once.

    The header is read at once. Only when the iteration ends without an error were all bytes seen and every
    checksum right: whoever uses a page before that must be able to take it back.

    Attributes:
        header: The file's header.
        frame_offset: Where the frame of the page last yielded begins, in bytes from the file's start.
        page_count: How many pages were yielded.
        size: After the end: the size of the file in bytes.
        file_checksum: After the end: the checksum that the file states, and that is right.

    Args:
        source: The file's bytes from its start, in pieces of any size.

    Raises:
        CorruptError: Here or while iterating: the bytes are no valid LTX file. The offset says where.
    """

    def __init__(self, source: Iterable[bytes]) -> None:
        self._source = iter(source)
        self._buffer = memoryview(b"")
        self._base = 0
        self._position = 0
        self._need(HEADER_SIZE, "the header")
        head = self._buffer[:HEADER_SIZE]
        self.header = Header.unpack(head)
        self._checksum = crc(head)
        self._database = CHECKSUM_FLAG
        self._order = PageOrder(self.header)
        self._position = HEADER_SIZE
        self._began = False
        self.frame_offset = 0
        self.page_count = 0
        self.size = 0
        self.file_checksum = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        if self._began:
            raise ValueError("a decoder can be iterated over once: open the file again")
        self._began = True
        page_size = self.header.page_size
        bound = max_block_size(page_size)
        track = self.header.has_checksums and self.header.is_snapshot
        check = self._order.check
        while True:
            self._need(FRAME_HEAD.size, "a page frame")
            position, buffer = self._position, self._buffer
            pgno, flags, size = FRAME_HEAD.unpack_from(buffer, position)
            self.frame_offset = self._base + position
            if pgno == 0:
                break
            try:
                check(pgno)
                if flags == BLOCK_FLAG:
                    if not 0 < size <= bound:
                        raise CorruptError(f"page {pgno} claims an LZ4 block of {size} bytes")
                    end = position + FRAME_HEAD.size + size
                    if end > len(buffer):
                        self._need(FRAME_HEAD.size + size, f"page {pgno}")
                        position, buffer = self._position, self._buffer
                        end = position + FRAME_HEAD.size + size
                    start = position + FRAME_HEAD.size
                    page = decompress_block(buffer[start:end], page_size)
                    self._checksum = crc(page, crc(buffer[position:start], self._checksum))
                    self._position = end
                elif flags == 0:
                    page = self._legacy_page(pgno)
                else:
                    raise CorruptError(f"page {pgno} has unknown flags {flags:#x}")
            except CorruptError as error:
                if error.offset is None:
                    error.offset = self.frame_offset
                raise
            if track:
                self._database = xor_page(self._database, page_checksum(pgno, page))
            self.page_count += 1
            yield pgno, page
        self._finish()

    def _legacy_page(self, pgno: int) -> bytes:
        """Read a page that is an LZ4 frame of unstated length."""
        page_size = self.header.page_size
        head = self._take(LEGACY_HEAD_SIZE, "")
        decompressor = lz4.frame.LZ4FrameDecompressor()
        page: bytes = b""
        while not decompressor.eof:
            # No more at a time than a page should need: what is left over is copied.
            piece = (
                self._take(page_size + _LEGACY_MARGIN, f"page {pgno}") if decompressor.needs_input else b""
            )
            try:
                page += decompressor.decompress(piece, max_length=page_size + 1 - len(page))
            except RuntimeError as error:
                raise CorruptError(f"the LZ4 frame of page {pgno} is damaged: {error}") from error
            if len(page) > page_size:
                raise CorruptError(f"the LZ4 frame of page {pgno} holds more than {page_size} bytes")
        if len(page) != page_size:
            raise CorruptError(f"the LZ4 frame of page {pgno} holds {len(page)} bytes, not {page_size}")
        self._position -= len(decompressor.unused_data or b"")
        self._checksum = crc(page, crc(head, self._checksum))
        return page

    def _finish(self) -> None:
        """Read the rest of the file: terminator, page index, trailer."""
        where = self.frame_offset
        if bytes(self._buffer[self._position : self._position + len(TERMINATOR)]) != TERMINATOR:
            raise CorruptError("page number 0", offset=where)
        try:
            self._order.finish()
        except CorruptError as error:
            error.offset = where
            raise
        self._position += len(TERMINATOR)
        checksum = crc(TERMINATOR, self._checksum)
        held, index_size, last = bytes(self._buffer[self._position :]), 0, b""
        while True:
            if len(held) > _TAIL_SIZE:
                entries, held = held[:-_TAIL_SIZE], held[-_TAIL_SIZE:]
                checksum = crc(entries, checksum)
                index_size += len(entries)
                last = entries[-1:]
            piece = next(self._source, None)
            if piece is None:
                break
            held += piece
        self.size = where + len(TERMINATOR) + index_size + len(held)
        if index_size == 0:
            raise TruncatedError("the file ends before its page index does", offset=self.size)
        stated = int.from_bytes(held[:8], "big")
        if stated != index_size or last != b"\0":
            raise CorruptError(
                f"the page index has {index_size} bytes and says {stated}", offset=self.size - _TAIL_SIZE
            )
        self._check_trailer(crc(held[:16], checksum), held)

    def _check_trailer(self, checksum: int, tail: bytes) -> None:
        post, stated = int.from_bytes(tail[8:16], "big"), int.from_bytes(tail[16:], "big")
        if stated != CHECKSUM_FLAG | checksum:
            raise ChecksumError(
                f"the file's checksum is {CHECKSUM_FLAG | checksum:016x}, its trailer says {stated:016x}",
                offset=self.size - 8,
            )
        if self.header.has_checksums and self.header.is_snapshot and post != self._database:
            raise ChecksumError(
                f"the database's checksum is {self._database:016x}, the trailer says {post:016x}",
                offset=self.size - 16,
            )
        self.file_checksum = stated

    def _need(self, size: int, what: str) -> None:
        """See to it that `size` bytes lie in the buffer from the position on."""
        if len(self._buffer) - self._position >= size:
            return
        parts: list[bytes | memoryview] = [self._buffer[self._position :]]
        have = len(parts[0])
        self._base += self._position
        self._position = 0
        try:
            while have < size:
                piece = next(self._source, None)
                if piece is None:
                    raise TruncatedError(f"the file ends within {what}", offset=self._base + have)
                parts.append(piece)
                have += len(piece)
        finally:
            self._buffer = memoryview(b"".join(parts))

    def _take(self, most: int, what: str) -> bytes:
        """Move on by up to `most` bytes, at least one, and return them."""
        self._need(1, what)
        taken = bytes(self._buffer[self._position : self._position + most])
        self._position += len(taken)
        return taken
