"""The LTX file format: pages to bytes and back. Knows no storage and no SQLite."""

from ltx.format.checksum import CHECKSUM_FLAG, CHECKSUM_SIZE, database_checksum, page_checksum, xor_page
from ltx.format.decoder import Decoder
from ltx.format.encoder import Encoder
from ltx.format.header import HEADER_SIZE, NO_CHECKSUM, Header, lock_page, to_datetime, to_timestamp_ms
from ltx.format.merge import merge
from ltx.format.names import MAX_TXID, TXID, file_name, format_txid, parse_file_name, parse_txid

__all__ = [
    "CHECKSUM_FLAG",
    "CHECKSUM_SIZE",
    "HEADER_SIZE",
    "MAX_TXID",
    "NO_CHECKSUM",
    "TXID",
    "Decoder",
    "Encoder",
    "Header",
    "database_checksum",
    "file_name",
    "format_txid",
    "lock_page",
    "merge",
    "page_checksum",
    "parse_file_name",
    "parse_txid",
    "to_datetime",
    "to_timestamp_ms",
    "xor_page",
]
