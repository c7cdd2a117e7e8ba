"""The first 100 bytes of an LTX file (docs/formats/ltx.md, Header)."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ltx.errors import CorruptError, TruncatedError, UnsupportedVersionError
from ltx.format.checksum import CHECKSUM_FLAG
from ltx.format.names import MAX_TXID, TXID

__all__ = [
    "HEADER_SIZE",
    "LOCK_PAGE_OFFSET",
    "MAX_PAGE_SIZE",
    "MIN_PAGE_SIZE",
    "NO_CHECKSUM",
    "Header",
    "lock_page",
    "to_datetime",
    "to_timestamp_ms",
]

MAGIC = b"LTX1"
HEADER_SIZE = 100
NO_CHECKSUM = 0x2
"""The one flag: the file carries no checksum of the database before and after it."""

MIN_PAGE_SIZE, MAX_PAGE_SIZE = 512, 65536
LOCK_PAGE_OFFSET = 0x40000000

# magic, flags, page size, commit, min TXID, max TXID, timestamp, pre-apply checksum,
# WAL offset, WAL size, WAL salts 1 and 2, node id; then 20 reserved bytes.
_LAYOUT = struct.Struct(">4sIIIQQqQqqIIQ20x")
assert _LAYOUT.size == HEADER_SIZE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999


def to_datetime(timestamp_ms: int) -> datetime:
    """Return an aware UTC time; milliseconds outside the years 1 to 9999 give the first or last of those."""
    return _EPOCH + timedelta(milliseconds=min(max(timestamp_ms, _FIRST_MS), _LAST_MS))


def to_timestamp_ms(time: datetime) -> int:
    """Return whole milliseconds since 1970; the rest is cut off. The time must be aware."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def lock_page(page_size: int) -> int:
    """Return the number of the page that SQLite locks and never writes, whose first byte is at 1 GiB."""
    return LOCK_PAGE_OFFSET // page_size + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an LTX file says of itself. One that exists is valid.

    Attributes:
        page_size: Bytes of a page: a power of two, 512 to 65536.
        commit: Size of the database in pages once the file is applied; 0 says it was deleted.
        min_txid: The first transaction in the file.
        max_txid: The last one.
        timestamp_ms: When the last one was committed, in milliseconds since 1970, UTC.
        flags: 0, or `NO_CHECKSUM`.
        pre_checksum: Checksum of the database before the file is applied; 0 where there is none.
        wal_offset: Where in the WAL the frames came from, in bytes; 0 where unknown.
        wal_size: How many bytes of WAL they were.
        wal_salt1: First salt of that WAL.
        wal_salt2: Second salt of that WAL.
        node_id: Who wrote it; 0 where that is not said.

    Raises:
        CorruptError: A field contradicts the format or another field.
    """

    page_size: int
    commit: int
    min_txid: TXID
    max_txid: TXID
    timestamp_ms: int
    flags: int = NO_CHECKSUM
    pre_checksum: int = 0
    wal_offset: int = 0
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    node_id: int = 0

    def __post_init__(self) -> None:
        for offset, wrong, reason in (
            (4, self.flags & ~NO_CHECKSUM, f"unknown flags {self.flags:#x}"),
            (
                8,
                not MIN_PAGE_SIZE <= self.page_size <= MAX_PAGE_SIZE or self.page_size & (self.page_size - 1),
                f"page size {self.page_size} is no power of two from 512 to 65536",
            ),
            (12, not 0 <= self.commit < 1 << 32, f"commit {self.commit} does not fit in 32 bits"),
            (
                16,
                not 1 <= self.min_txid <= self.max_txid <= MAX_TXID,
                f"TXIDs {self.min_txid} to {self.max_txid} are not in order from 1",
            ),
            (
                32,
                not -(1 << 63) <= self.timestamp_ms < 1 << 63,
                f"timestamp {self.timestamp_ms} does not fit",
            ),
            (40, not self._pre_checksum_fits(), f"pre-apply checksum {self.pre_checksum:#x} does not fit"),
            (48, not 0 <= self.wal_offset < 1 << 63, f"WAL offset {self.wal_offset} is negative or too big"),
            (56, not 0 <= self.wal_size < 1 << 63, f"WAL size {self.wal_size} is negative or too big"),
            (
                64,
                not (0 <= self.wal_salt1 < 1 << 32 and 0 <= self.wal_salt2 < 1 << 32),
                f"WAL salts {self.wal_salt1} and {self.wal_salt2} do not fit in 32 bits each",
            ),
            (
                48,
                self.wal_offset == 0 and (self.wal_salt1 or self.wal_salt2 or self.wal_size),
                "WAL salts or a WAL size without a WAL offset",
            ),
            (72, not 0 <= self.node_id < 1 << 64, f"node id {self.node_id} does not fit in 64 bits"),
        ):
            if wrong:
                raise CorruptError(f"LTX header: {reason}", offset=offset)

    def _pre_checksum_fits(self) -> bool:
        if self.min_txid == 1 or self.flags & NO_CHECKSUM:
            return self.pre_checksum == 0
        return CHECKSUM_FLAG <= self.pre_checksum < CHECKSUM_FLAG << 1

    @property
    def is_snapshot(self) -> bool:
        """Whether the file holds every page: nothing marks it but a min TXID of 1."""
        return self.min_txid == 1

    @property
    def has_checksums(self) -> bool:
        """Whether the file carries checksums of the database."""
        return not self.flags & NO_CHECKSUM

    @property
    def lock_page(self) -> int:
        """Number of the page that is never stored."""
        return lock_page(self.page_size)

    @property
    def timestamp(self) -> datetime:
        """When the last transaction was committed, as an aware UTC time."""
        return to_datetime(self.timestamp_ms)

    def pack(self) -> bytes:
        """Return the 100 bytes."""
        return _LAYOUT.pack(
            MAGIC,
            self.flags,
            self.page_size,
            self.commit,
            self.min_txid,
            self.max_txid,
            self.timestamp_ms,
            self.pre_checksum,
            self.wal_offset,
            self.wal_size,
            self.wal_salt1,
            self.wal_salt2,
            self.node_id,
        )

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> "Header":
        """Read a header from the first 100 bytes of a file.

        The reserved bytes are not looked at; the file's checksum covers them.

        Raises:
            TruncatedError: There are fewer than 100 bytes.
            UnsupportedVersionError: It is LTX of another version.
            CorruptError: It is no LTX file, or a field is wrong.
        """
        if len(data) < HEADER_SIZE:
            raise TruncatedError(f"an LTX header has 100 bytes, here are {len(data)}", offset=len(data))
        fields = _LAYOUT.unpack_from(data)
        if fields[0] != MAGIC:
            if fields[0][:3] == MAGIC[:3]:
                raise UnsupportedVersionError(
                    f"an LTX file of version {fields[0][3:].decode('latin-1')!r}; known is '1'"
                )
            raise CorruptError("not an LTX file: it does not begin with LTX1", offset=0)
        _, flags, page_size, commit, low, high, timestamp_ms, pre, offset, size, salt1, salt2, node_id = (
            fields
        )
        return cls(
            page_size=page_size,
            commit=commit,
            min_txid=TXID(low),
            max_txid=TXID(high),
            timestamp_ms=timestamp_ms,
            flags=flags,
            pre_checksum=pre,
            wal_offset=offset,
            wal_size=size,
            wal_salt1=salt1,
            wal_salt2=salt2,
            node_id=node_id,
        )
