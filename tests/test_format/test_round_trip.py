"""Files of every page size: what the encoder writes is what the plain builder says, and is read back."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx.format import Decoder, Encoder, Header
from tests.support.ltxfiles import ALL_PAGE_SIZES, NO_CHECKSUM, FileSpec, literal_block
from tests.support.strategies import fewer, file_specs


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
def test_every_file_is_read_back_and_written_again(page_size: int) -> None:
    @fewer(3)
    @given(file_specs(page_size), st.integers(1, 70_000))
    def check(spec: FileSpec, piece_size: int) -> None:
        data = spec.encode()
        decoder = Decoder(data[start : start + piece_size] for start in range(0, len(data), piece_size))
        pages = tuple(decoder)
        assert pages == spec.content
        assert decoder.size == len(data)
        assert decoder.file_checksum == int.from_bytes(data[-8:], "big")
        if spec.flags == NO_CHECKSUM:
            current = replace(spec, legacy=frozenset(), reserved=bytes(20))
            assert b"".join(Encoder(decoder.header, pages)) == current.encode()

    check()


@settings(max_examples=30)
@given(file_specs(512))
def test_another_compressors_blocks_give_the_same_pages_and_database(spec: FileSpec) -> None:
    payloads = {pgno: literal_block(page) for pgno, page in spec.content if pgno not in spec.legacy}
    other = replace(spec, payloads=payloads)
    assert tuple(Decoder([other.encode()])) == spec.content


@given(file_specs())
def test_decoding_what_was_encoded_gives_the_header_back(spec: FileSpec) -> None:
    head = Header.unpack(spec.header)
    if spec.flags == NO_CHECKSUM:
        assert Decoder(Encoder(head, spec.content)).header == head
