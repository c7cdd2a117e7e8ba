"""Pages from files in pieces of any size, and from every kind of file ever written."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import lz4.frame
import pytest

from ltx.errors import ChecksumError, CorruptError, TruncatedError
from ltx.format import CHECKSUM_FLAG, Decoder
from tests.support.ltxfiles import FLAG, NO_CHECKSUM, FileSpec, legacy_frame, literal_block

PAGES = {1: b"one" * 170 + b"12", 2: Random(2).randbytes(512), 3: bytes(512)}
KINDS = {
    "blocks": FileSpec(pages=PAGES),
    "legacy frames": FileSpec(pages=PAGES, legacy=frozenset(PAGES)),
    "both": FileSpec(pages=PAGES, legacy=frozenset({2})),
    "database checksums": FileSpec(pages=PAGES, flags=0, legacy=frozenset({1, 3})),
    "an increment": FileSpec(pages=PAGES, commit=9, min_txid=7, max_txid=8),
    "no pages": FileSpec(commit=9, min_txid=7),
    "an increment with checksums": FileSpec(pages=PAGES, min_txid=7, flags=0, pre_checksum=FLAG | 5),
    "another compressor": FileSpec(pages=PAGES, payloads={2: literal_block(PAGES[2])}),
}


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_every_size_give_the_same_pages(kind: str) -> None:
    spec = KINDS[kind]
    data = spec.encode()
    for size in (*range(1, 130), *range(130, len(data) + 1, 41), len(data)):
        decoder = Decoder(in_pieces(data, size))
        assert tuple(decoder) == spec.content, size
        assert (decoder.size, decoder.page_count) == (len(data), len(spec.content)), size
        assert decoder.file_checksum == int.from_bytes(data[-8:], "big"), size


@pytest.mark.parametrize("kind", KINDS)
def test_empty_pieces_and_views_are_pieces_too(kind: str) -> None:
    spec = KINDS[kind]

    def pieces() -> Iterator[bytes]:
        for piece in in_pieces(spec.encode(), 97):
            yield b""
            yield memoryview(piece)  # type: ignore[misc]
        yield b""

    assert tuple(Decoder(pieces())) == spec.content


@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_each_page_says_where_its_frame_begins(size: int) -> None:
    for spec in KINDS.values():
        decoder = Decoder(in_pieces(spec.encode(), size))
        offsets = [decoder.frame_offset for _ in decoder]
        assert offsets == [offset for _, offset, *_ in spec.frames]


def test_the_header_is_read_before_any_page_is_asked_for() -> None:
    data = KINDS["an increment"].encode()
    decoder = Decoder([data[:100]])
    assert (decoder.header.min_txid, decoder.header.max_txid, decoder.header.commit) == (7, 8, 9)
    with pytest.raises(TruncatedError):
        list(decoder)


def test_a_decoder_gives_its_pages_once() -> None:
    decoder = Decoder([KINDS["blocks"].encode()])
    list(decoder)
    with pytest.raises(ValueError, match="once"):
        list(decoder)


def test_nothing_is_stated_before_the_end_was_seen() -> None:
    decoder = Decoder([KINDS["blocks"].encode()])
    pages = iter(decoder)
    for _ in PAGES:
        next(pages)
    assert (decoder.size, decoder.file_checksum) == (0, 0)
    assert next(pages, None) is None
    assert decoder.size


def test_an_error_of_the_byte_source_comes_through_as_it_is() -> None:
    class SourceError(Exception):
        pass

    def pieces() -> Iterator[bytes]:
        yield KINDS["blocks"].encode()[:300]
        raise SourceError

    with pytest.raises(SourceError):
        list(Decoder(pieces()))


def test_reserved_header_bytes_are_passed_over_but_checked() -> None:
    spec = replace(KINDS["blocks"], reserved=b"any 20 bytes at all.")
    assert tuple(Decoder([spec.encode()])) == spec.content
    wrong = bytearray(spec.encode())
    wrong[80] ^= 1
    with pytest.raises(ChecksumError):
        list(Decoder([bytes(wrong)]))


def test_a_wrong_file_checksum_is_found_in_its_place() -> None:
    for spec in KINDS.values():
        data = bytearray(spec.encode())
        data[-1] ^= 1
        with pytest.raises(ChecksumError) as caught:
            list(Decoder([bytes(data)]))
        assert caught.value.offset == len(data) - 8


def test_a_file_checksum_without_its_flag_is_wrong() -> None:
    data = KINDS["blocks"].encode()
    stated = int.from_bytes(data[-8:], "big")
    with pytest.raises(ChecksumError):
        list(Decoder([data[:-8], (stated & ~CHECKSUM_FLAG).to_bytes(8, "big")]))


def test_a_snapshots_database_checksum_is_verified() -> None:
    spec = replace(KINDS["database checksums"], post_checksum=FLAG | 1)
    with pytest.raises(ChecksumError, match="database's checksum") as caught:
        list(Decoder([spec.encode()]))
    assert caught.value.offset == len(spec.encode()) - 16


def test_the_database_checksum_of_an_increment_is_not_known_and_not_verified() -> None:
    spec = replace(KINDS["an increment with checksums"], post_checksum=FLAG | 1)
    assert tuple(Decoder([spec.encode()])) == spec.content


def test_a_database_checksum_where_there_should_be_none_is_passed_over() -> None:
    spec = replace(KINDS["blocks"], flags=NO_CHECKSUM, post_checksum=FLAG | 1)
    assert tuple(Decoder([spec.encode()])) == spec.content


def test_a_deletion_has_no_pages() -> None:
    spec = FileSpec(commit=0, min_txid=4, flags=0, pre_checksum=FLAG | 9, post_checksum=FLAG)
    decoder = Decoder([spec.encode()])
    assert list(decoder) == []
    assert decoder.header.commit == 0


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_legacy_file_that_ends_right_behind_its_trailer_is_read_to_its_end(size: int) -> None:
    pages = {pgno: Random(pgno).randbytes(300) + bytes(212) for pgno in range(1, 31)}
    spec = FileSpec(pages=pages, legacy=frozenset(pages))
    decoder = Decoder(in_pieces(spec.encode(), size))
    assert tuple(decoder) == spec.content
    assert decoder.size == len(spec.encode())


def test_a_legacy_frame_without_checksums_or_in_several_blocks_is_one_page() -> None:
    page = Random(3).randbytes(30_000) + bytes(35_536)
    other = Random(4).randbytes(65_536)
    session = lz4.frame.LZ4FrameCompressor(auto_flush=True)
    parts = session.begin() + session.compress(other[:9]) + session.compress(other[9:]) + session.flush()
    payloads = {1: lz4.frame.compress(page), 2: parts}
    spec = FileSpec(pages={1: page, 2: other}, page_size=65536, legacy=frozenset({1, 2}), payloads=payloads)
    for size in (1000, 1 << 20):
        assert tuple(Decoder(in_pieces(spec.encode(), size))) == spec.content


LEGACY_DAMAGE = {
    "too long": (legacy_frame(bytes(513)), "more than 512 bytes"),
    "far too long": (legacy_frame(bytes(50_000_000)), "more than 512 bytes"),
    "too short": (legacy_frame(bytes(511)), "holds 511 bytes, not 512"),
    "empty": (legacy_frame(b""), "holds 0 bytes, not 512"),
    "no frame": (b"no LZ4 frame at all", "damaged"),
    "wrong content checksum": (legacy_frame(bytes(512))[:-1] + b"?", "damaged"),
    "a skippable frame": (b"\x50\x2a\x4d\x18" + (512).to_bytes(4, "little") + bytes(512), "holds 0 bytes"),
}


@pytest.mark.parametrize("kind", LEGACY_DAMAGE)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_legacy_frame_that_is_not_one_page_is_refused(kind: str, size: int) -> None:
    payload, message = LEGACY_DAMAGE[kind]
    spec = FileSpec(pages={1: bytes(512), 2: bytes(512)}, legacy=frozenset({2}), payloads={2: payload})
    with pytest.raises(CorruptError, match=message) as caught:
        list(Decoder(in_pieces(spec.encode(), size)))
    assert caught.value.offset == spec.frames[1][1]


@pytest.mark.parametrize("legacy", [False, True])
def test_other_page_flags_are_refused(legacy: bool) -> None:
    pages = frozenset({2}) if legacy else frozenset[int]()
    for flags in (2, 3, 0x8000, 0xFFFF, 0x0100):
        spec = FileSpec(pages=PAGES, legacy=pages, page_flags={2: flags})
        with pytest.raises(CorruptError, match="unknown flags") as caught:
            list(Decoder([spec.encode()]))
        assert caught.value.offset == spec.frames[1][1]
