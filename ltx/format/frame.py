"""One page of an LTX file: six or ten bytes in front of it, then the page in LZ4 (docs/formats/ltx.md, Page frame)."""

import struct
from collections.abc import Sequence

import lz4.block
import lz4.frame
from xxhash import xxh32_intdigest

from ltx.errors import CorruptError

__all__ = [
    "BLOCK_FLAG",
    "FRAME_HEAD",
    "LEGACY_HEAD_SIZE",
    "TERMINATOR",
    "compress_page",
    "decode_frame",
    "decode_frames",
    "decompress_block",
    "max_block_size",
]

FRAME_HEAD = struct.Struct(">IHI")
"""Page number, flags, size of the LZ4 block behind it."""

BLOCK_FLAG = 1
"""A size follows, and an LZ4 block. Without it an LZ4 frame follows at once: how files were written until 2025."""

_LZ4_MAGIC = bytes.fromhex("04224d18")
_LZ4_DESCRIPTOR = struct.Struct("<BBQ")
_LZ4_FLAGS = 0x68
"""Version 1, blocks that do not depend on each other, and a content size."""

_LZ4_BLOCK_SIZES = {4: 64 << 10, 5: 256 << 10}
_LZ4_HEAD = struct.Struct("<IHI")
"""In place of ours: the size of a plain block, that block, and the size of the block behind it."""

_PLAIN = 1 << 31
_MARK_SIZE = 2

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


def decode_frames(
    data: bytes | memoryview,
    pgnos: Sequence[int],
    starts: Sequence[int],
    sizes: Sequence[int],
    page_size: int,
) -> list[bytes] | None:
    """Return the pages of whole frames at once, while other threads run: one page is too short for that.

    LZ4's own frame format (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md) holds blocks one behind the
    other, and one call decodes them all. The ten bytes before each block are made into what stands there in that format:
    the block's size, and before it a plain block of two bytes. These come out between the pages and so show that
    each page is as long as it must be.

    Args:
        data: Holds the frames, one behind the other, nothing between them.
        pgnos: The page that each must hold.
        starts: Where in the data each begins.
        sizes: Bytes of each.
        page_size: Bytes of a page.

    Returns:
        The pages; None where one is damaged, or of the old kind: `decode_frame` tells which, or reads it.
    """
    first, end = starts[0], starts[-1] + sizes[-1]
    stride = _MARK_SIZE + page_size
    descriptor = _LZ4_DESCRIPTOR.pack(_LZ4_FLAGS, _block_kind(page_size) << 4, len(pgnos) * stride)
    checksum = xxh32_intdigest(descriptor) >> 8 & 0xFF
    content = bytearray().join((_LZ4_MAGIC, descriptor, bytes((checksum,)), data[first:end], bytes(4)))
    shift = len(content) - 4 - end
    unpack, pack = FRAME_HEAD.unpack_from, _LZ4_HEAD.pack_into
    for pgno, start, size in zip(pgnos, starts, sizes, strict=True):
        block_size = size - FRAME_HEAD.size
        if unpack(content, start + shift) != (pgno, BLOCK_FLAG, block_size):
            return None
        pack(content, start + shift, _PLAIN | _MARK_SIZE, pgno & 0xFFFF, block_size)
    try:
        decoded = lz4.frame.decompress(content)
    except RuntimeError:
        return None
    marks = struct.pack(f"<{len(pgnos)}H", *[pgno & 0xFFFF for pgno in pgnos])
    if (
        len(decoded) != len(pgnos) * stride
        or decoded[::stride] != marks[::2]
        or decoded[1::stride] != marks[1::2]
    ):
        return None
    return [decoded[start : start + page_size] for start in range(_MARK_SIZE, len(decoded), stride)]


def _block_kind(page_size: int) -> int:
    """Return how LZ4's frame format names a size that no block of a page is beyond."""
    return next(kind for kind, size in _LZ4_BLOCK_SIZES.items() if size >= max_block_size(page_size))
