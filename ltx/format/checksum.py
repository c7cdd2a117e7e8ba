"""Checksums of pages, databases and files: CRC-64/ISO as Go computes it, with bit 63 set.

Bit 63 marks a checksum that is there, so that none is ever zero (docs/formats/ltx.md, Checksums).
"""

from collections.abc import Iterable

from fastcrc import crc64

__all__ = ["CHECKSUM_FLAG", "CHECKSUM_SIZE", "crc", "database_checksum", "page_checksum", "xor_page"]

CHECKSUM_FLAG = 1 << 63
CHECKSUM_SIZE = 8
"""Bytes of a checksum; the last ones of a file are its own."""

crc = crc64.go_iso
"""`crc(data, previous=None)`: the plain CRC-64/ISO, which can be continued."""


def page_checksum(pgno: int, page: bytes | memoryview) -> int:
    """Return the checksum of one page: its number as four bytes, then its bytes."""
    return CHECKSUM_FLAG | crc(page, crc(pgno.to_bytes(4, "big")))


def xor_page(database: int, page: int) -> int:
    """Add a page's checksum to a database's, or take it out again: both are the same operation."""
    return CHECKSUM_FLAG | (database ^ page)


def database_checksum(pages: Iterable[tuple[int, bytes]]) -> int:
    """Return the checksum of a whole database from its pages, the lock page left out."""
    total = CHECKSUM_FLAG
    for pgno, page in pages:
        total = xor_page(total, page_checksum(pgno, page))
    return total
