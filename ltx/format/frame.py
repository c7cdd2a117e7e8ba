"""One page of an LTX file: six or ten bytes in front of it, then the page in LZ4 (docs/formats/ltx.md, Page frame)."""

import struct

import lz4.block
import lz4.frame

from ltx.errors import CorruptError

__all__ = [
    "BLOCK_FLAG",
    "FRAME_HEAD",
    "LEGACY_HEAD_SIZE",
    "TERMINATOR",
    "compress_page",
    "decode_frame",
    "decompress_block",
    "max_block_size",
]

FRAME_HEAD = struct.Struct(">IHI")
"""Page number, flags, size of the LZ4 block behind it."""

BLOCK_FLAG = 1
"""A size follows, and an LZ4 block. Without it an LZ4 frame follows at once: how files were written until 2025."""

LEGACY_HEAD_SIZE = 6
TERMINATOR = bytes(6)
"""Stands where the next frame would: a page number of zero."""


def max_block_size(page_size: int) -> int:
    """Return the most bytes that a page can take as an LZ4 block; random pages grow."""
    return page_size + page_size // 255 + 16


def compress_page(page: bytes | memoryview) -> bytes:
    """Return a page as an LZ4 block. Always compressed: the format knows no plain page."""
    block: bytes = lz4.block.compress(page, store_size=False)
    return block


def decompress_block(block: bytes | memoryview, page_size: int) -> bytes:
    """Return the page in an LZ4 block.

    Raises:
        CorruptError: It is no LZ4 block, or not exactly one page.
    """
    try:
        page: bytes = lz4.block.decompress(block, uncompressed_size=page_size)
    except lz4.block.LZ4BlockError as error:
        raise CorruptError(f"a page's LZ4 block is damaged: {error}") from error
    if len(page) != page_size:  # lz4 does not mind a block that is too short
        raise CorruptError(f"a page of {len(page)} bytes where pages have {page_size}")
    return page


def decode_frame(frame: bytes | memoryview, pgno: int, page_size: int) -> bytes:
    """Return the page in one whole frame, as a page index locates it.

    Args:
        frame: All bytes of the frame.
        pgno: The page that it must hold.
        page_size: Bytes of a page.

    Raises:
        CorruptError: It holds another page, or is damaged. The offset is relative to the frame.
    """
    if len(frame) < FRAME_HEAD.size:
        raise CorruptError(f"a frame of {len(frame)} bytes is too short", offset=0)
    found, flags, size = FRAME_HEAD.unpack_from(frame)
    if found != pgno:
        raise CorruptError(f"a frame holds page {found} where the index says page {pgno}", offset=0)
    if flags == BLOCK_FLAG:
        if size != len(frame) - FRAME_HEAD.size:
            raise CorruptError(
                f"a frame says that its block has {size} bytes, the index says otherwise", offset=6
            )
        try:
            return decompress_block(frame[FRAME_HEAD.size :], page_size)
        except CorruptError as error:
            error.offset = FRAME_HEAD.size
            raise
    if flags:
        raise CorruptError(f"unknown page flags {flags:#x}", offset=4)
    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        page: bytes = decompressor.decompress(frame[LEGACY_HEAD_SIZE:], max_length=page_size + 1)
    except RuntimeError as error:
        raise CorruptError(f"a page's LZ4 frame is damaged: {error}", offset=LEGACY_HEAD_SIZE) from error
    if len(page) != page_size or not decompressor.eof or decompressor.unused_data:
        raise CorruptError(f"an LZ4 frame that is not one page of {page_size} bytes", offset=LEGACY_HEAD_SIZE)
    return page
