"""LTX files built from plain data, right or wrong: the oracle that `ltx.format` is held against.

Written from the format's description with its own struct, varint and CRC code; nothing here calls `ltx`.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import lz4.block
import lz4.frame

FLAG = 1 << 63
NO_CHECKSUM = 2
LOCK_OFFSET = 1 << 30
ALL_PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)

_POLYNOMIAL = 0xD800000000000000  # ISO 3309, reflected
_ONES = (1 << 64) - 1


def _table() -> tuple[int, ...]:
    values = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        values.append(value)
    return tuple(values)


_TABLE = _table()


def crc64(data: bytes, before: int = 0) -> int:
    """Return the CRC-64/ISO of data, byte by byte; `before` continues one."""
    value, table = before ^ _ONES, _TABLE
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ _ONES


def varint(value: int) -> bytes:
    """Return an unsigned LEB128 number."""
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def page_checksum(pgno: int, page: bytes) -> int:
    return FLAG | crc64(struct.pack(">I", pgno) + page)


def database_checksum(pages: Mapping[int, bytes]) -> int:
    total = 0
    for pgno, page in pages.items():
        total ^= page_checksum(pgno, page)
    return FLAG | total


def lock_page(page_size: int) -> int:
    return LOCK_OFFSET // page_size + 1


def block(page: bytes) -> bytes:
    """Return a page as an LZ4 block, as the project's encoder compresses it."""
    packed: bytes = lz4.block.compress(page, store_size=False)
    return packed


def literal_block(page: bytes) -> bytes:
    """Return a page as an LZ4 block without any match: legal, and no compressor's output."""
    size = len(page)
    if size < 15:
        return bytes([size << 4]) + page
    full, rest = divmod(size - 15, 255)
    return b"\xf0" + b"\xff" * full + bytes([rest]) + page


def legacy_frame(page: bytes) -> bytes:
    """Return a page as an LZ4 frame with a content checksum, as writers did until 2025."""
    packed: bytes = lz4.frame.compress(page, content_checksum=True, store_size=False)
    return packed


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """One LTX file as plain data. What is None is worked out as a right file has it.

    `legacy` names the pages to write as LZ4 frames; `payloads` and `page_flags` replace what stands in single
    frames, `sizes` what they claim as the block's size. `index` replaces the raw index entries (without the
    length behind them), `index_size` that length.
    """

    pages: Mapping[int, bytes] | Iterable[tuple[int, bytes]] = ()
    page_size: int = 512
    commit: int | None = None
    min_txid: int = 1
    max_txid: int | None = None
    timestamp_ms: int = 1000
    flags: int = NO_CHECKSUM
    pre_checksum: int = 0
    wal_offset: int = 0
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    node_id: int = 0
    reserved: bytes = bytes(20)
    magic: bytes = b"LTX1"
    legacy: frozenset[int] = frozenset()
    payloads: Mapping[int, bytes] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)
    page_flags: Mapping[int, int] = field(default_factory=dict)
    terminator: bytes = bytes(6)
    index: bytes | None = None
    index_size: int | None = None
    post_checksum: int | None = None
    file_checksum: int | None = None

    @cached_property
    def content(self) -> tuple[tuple[int, bytes], ...]:
        """The pages as pairs, in the order in which they are written."""
        return tuple(self.pages.items() if isinstance(self.pages, Mapping) else self.pages)

    @property
    def last_txid(self) -> int:
        return self.min_txid if self.max_txid is None else self.max_txid

    @property
    def page_count(self) -> int:
        """The commit: the database's size in pages."""
        return max((pgno for pgno, _ in self.content), default=0) if self.commit is None else self.commit

    @cached_property
    def header(self) -> bytes:
        """The first 100 bytes."""
        fields = struct.pack(
            ">4sIIIQQqQqqIIQ",
            self.magic,
            self.flags,
            self.page_size,
            self.page_count,
            self.min_txid,
            self.last_txid,
            self.timestamp_ms,
            self.pre_checksum,
            self.wal_offset,
            self.wal_size,
            self.wal_salt1,
            self.wal_salt2,
            self.node_id,
        )
        return fields + self.reserved

    @cached_property
    def frames(self) -> tuple[tuple[int, int, bytes, bytes, bytes], ...]:
        """Of each page: its number, offset, frame head, payload, and the page itself."""
        found = []
        offset = len(self.header)
        for pgno, page in self.content:
            if pgno in self.legacy:
                payload = self.payloads.get(pgno, b"") or legacy_frame(page)
                head = struct.pack(">IH", pgno, self.page_flags.get(pgno, 0))
            else:
                payload = self.payloads[pgno] if pgno in self.payloads else block(page)
                size = self.sizes.get(pgno, len(payload))
                head = struct.pack(">IHI", pgno, self.page_flags.get(pgno, 1), size)
            found.append((pgno, offset, head, payload, page))
            offset += len(head) + len(payload)
        return tuple(found)

    @cached_property
    def raw_index(self) -> bytes:
        """The index entries, the zero that ends them, and the eight bytes of their length."""
        entries = self.index
        if entries is None:
            entries = b"".join(
                varint(pgno) + varint(offset) + varint(len(head) + len(payload))
                for pgno, offset, head, payload, _ in self.frames
            )
            entries += b"\0"
        size = len(entries) if self.index_size is None else self.index_size
        return entries + struct.pack(">Q", size)

    @cached_property
    def trailer(self) -> bytes:
        """The last 16 bytes."""
        post = self.post_checksum
        if post is None:  # of an increment's database only the test knows it
            post = 0 if self.flags & NO_CHECKSUM else database_checksum(dict(self.content))
        stated = self.file_checksum
        if stated is None:
            value = crc64(self.header)
            for _, _, head, _, page in self.frames:
                value = crc64(page, crc64(head, value))
            tail = self.terminator + self.raw_index + struct.pack(">Q", post)
            stated = FLAG | crc64(tail, value)
        return struct.pack(">QQ", post, stated)

    @cached_property
    def index_offset(self) -> int:
        """Where the page index begins."""
        return (
            len(self.header)
            + sum(len(head) + len(payload) for _, _, head, payload, _ in self.frames)
            + len(self.terminator)
        )

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        body = b"".join(head + payload for _, _, head, payload, _ in self.frames)
        return self.header + body + self.terminator + self.raw_index + self.trailer


def apply(database: dict[int, bytes], spec: FileSpec) -> dict[int, bytes]:
    """Return a database, by page number, after a file was applied to it: what every merge must agree with."""
    changed = {**({} if spec.min_txid == 1 else database), **dict(spec.content)}
    return {pgno: page for pgno, page in changed.items() if pgno <= spec.page_count}
