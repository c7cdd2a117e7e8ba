"""Known answers: the vectors of the format's own tests, and one whole file byte by byte."""

from collections.abc import Iterator

from ltx.format import Decoder, Encoder, Header, database_checksum, page_checksum
from ltx.format.checksum import crc
from tests.support import ltxfiles
from tests.support.ltxfiles import FileSpec

GOLDEN_FILE = bytes.fromhex(
    "4c545831 00000002 00000200 00000001 0000000000000001 0000000000000001 00000000000003e8"
    "0000000000000000 0000000000000000 0000000000000000 00000000 00000000 0000000000000000"
    "0000000000000000000000000000000000000000"
    "00000001 0001 0000000c 1f410100ffe8504141414141"
    "000000000000"
    "01 64 16 00 0000000000000004"
    "0000000000000000 f10e966c4d3cb537"
)


def test_the_golden_file_is_what_the_encoder_writes() -> None:
    header = Header(page_size=512, commit=1, min_txid=1, max_txid=1, timestamp_ms=1000)  # type: ignore[arg-type]
    encoder = Encoder(header, [(1, b"A" * 512)])
    assert b"".join(encoder) == GOLDEN_FILE
    assert (encoder.size, encoder.file_checksum) == (156, 0xF10E966C4D3CB537)


def test_the_golden_file_is_what_the_plain_builder_writes() -> None:
    assert FileSpec(pages={1: b"A" * 512}).encode() == GOLDEN_FILE


def test_the_golden_file_is_read_back() -> None:
    decoder = Decoder([GOLDEN_FILE])
    assert list(decoder) == [(1, b"A" * 512)]
    assert (decoder.size, decoder.file_checksum, decoder.page_count) == (156, 0xF10E966C4D3CB537, 1)


def test_the_crc_is_that_of_iso_3309_and_not_of_ecma() -> None:
    assert crc(b"123456789") == 0xB90956C775A41001
    assert ltxfiles.crc64(b"123456789") == 0xB90956C775A41001


def test_page_checksums() -> None:
    assert page_checksum(1, bytes(4096)) == 0xD9328F592D9E733D
    assert page_checksum(2, b"\1" * 512) == 0xE436B67102377EEE


def test_database_checksums() -> None:
    assert database_checksum([(1, b"2" * 512), (2, b"3" * 512)]) == 0x8B87423EEEEEEEEE
    assert database_checksum([(pgno, bytes([pgno]) * 512) for pgno in (1, 2, 3)]) == 0xEFFFFFFFECD99000


def test_the_checksum_of_a_database_beyond_its_lock_page() -> None:
    page = b"x" * 4096

    def pages() -> Iterator[tuple[int, bytes]]:
        for pgno in range(1, 262_155 + 1):
            if pgno != 262_145:
                yield pgno, page

    assert database_checksum(pages()) == 0xC19B668C376662C7
