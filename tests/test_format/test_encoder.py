"""What the encoder writes, byte for byte, and every way to misuse it."""

from collections.abc import Iterable, Iterator

import pytest

from ltx.errors import CorruptError
from ltx.format import Decoder, Encoder, Header, encoder
from tests.support.ltxfiles import FileSpec, literal_block, varint

PAGE = b"a page that LZ4 makes smaller; ".ljust(512, b"x")


def header(*, commit: int, txid: int = 1, page_size: int = 512, **fields: int) -> Header:
    """A header as `FileSpec` packs it by default."""
    spec = FileSpec(page_size=page_size, commit=commit, min_txid=txid, **fields)  # type: ignore[arg-type]
    return Header.unpack(spec.header)


def encode(head: Header, pages: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(Encoder(head, pages))


def test_a_varint_is_seven_bits_a_byte_from_the_lowest() -> None:
    for value in (0, 1, 127, 128, 300, 16383, 16384, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1):
        assert encoder.uvarint(value) == varint(value)


def test_an_increment_without_pages_is_a_file() -> None:
    data = encode(header(commit=3, txid=2), [])
    assert data == FileSpec(commit=3, min_txid=2).encode()
    assert list(Decoder([data])) == []


def test_pages_may_be_views_of_a_buffer_that_is_used_again() -> None:
    buffer = bytearray(512)

    def pages() -> Iterator[tuple[int, memoryview]]:
        for pgno in range(1, 6):
            buffer[:] = bytes([pgno]) * 512
            yield pgno, memoryview(buffer)

    data = b"".join(Encoder(header(commit=5), pages()))
    assert data == FileSpec(pages={pgno: bytes([pgno]) * 512 for pgno in range(1, 6)}).encode()


def test_the_attributes_describe_the_file_that_was_written() -> None:
    made = Encoder(header(commit=9, txid=4), [(2, PAGE), (9, PAGE)])
    assert (made.size, made.file_checksum) == (0, 0)
    data = b"".join(made)
    assert made.size == len(data)
    assert made.page_count == 2
    assert made.file_checksum == int.from_bytes(data[-8:], "big")


def test_a_long_page_index_goes_through_a_temporary_file_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = dict.fromkeys(range(1, 2001), PAGE)
    expected = encode(header(commit=2000), pages.items())
    monkeypatch.setattr(encoder, "_INDEX_IN_MEMORY", 1000)
    monkeypatch.setattr(encoder, "_READ_SIZE", 4096)
    assert encode(header(commit=2000), pages.items()) == expected == FileSpec(pages=pages).encode()


def test_pages_are_asked_for_as_the_file_is_taken() -> None:
    taken: list[int] = []

    def pages() -> Iterator[tuple[int, bytes]]:
        for pgno in range(1, 101):
            taken.append(pgno)
            yield pgno, bytes([pgno]) * 65536

    made = Encoder(header(commit=100, page_size=65536), pages())
    stream = iter(made)
    next(stream)
    assert taken == []
    assert len(b"".join(stream)) + 100 == made.size
    assert taken == list(range(1, 101))


def test_a_file_left_half_way_states_neither_size_nor_checksum() -> None:
    made = Encoder(header(commit=2), [(1, PAGE), (2, PAGE)])
    stream = iter(made)
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert (made.size, made.file_checksum) == (0, 0)


def test_an_error_of_the_page_source_comes_through_as_it_is() -> None:
    class SourceError(Exception):
        pass

    def pages() -> Iterator[tuple[int, bytes]]:
        yield 1, PAGE
        raise SourceError

    made = Encoder(header(commit=2), pages())
    with pytest.raises(SourceError):
        b"".join(made)
    assert made.size == 0


def test_an_encoder_gives_its_file_once() -> None:
    made = Encoder(header(commit=1, txid=2), [(1, PAGE)])
    b"".join(made)
    with pytest.raises(ValueError, match="once"):
        b"".join(made)


@pytest.mark.parametrize("size", [0, 1, 511, 513, 1024])
def test_a_page_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"page 1 has {size} bytes, not 512"):
        encode(header(commit=1), [(1, bytes(size))])


def test_headers_that_cannot_be_written_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="NO_CHECKSUM"):
        Encoder(header(commit=1, flags=0), [])
    with pytest.raises(ValueError, match="deleted"):
        Encoder(header(commit=0, txid=2), [])


@pytest.mark.parametrize(
    ("commit", "pgnos", "message"),
    [
        (2, [2], "page 2 follows page 0"),
        (3, [1, 3], "page 3 follows page 1"),
        (3, [1, 2, 2], "page 2 follows page 2"),
        (3, [1, 2], "a snapshot of 3 pages ends at page 2"),
        (3, [], "a snapshot of 3 pages ends at page 0"),
        (2, [1, 2, 3], "page 3 lies beyond the database's 2 pages"),
        (2, [0], "page 0 follows page 0"),
    ],
)
def test_a_snapshot_holds_pages_1_to_commit_without_a_gap(
    commit: int, pgnos: list[int], message: str
) -> None:
    with pytest.raises(CorruptError, match=message):
        encode(header(commit=commit), [(pgno, PAGE) for pgno in pgnos])


@pytest.mark.parametrize(
    ("pgnos", "message"),
    [
        ([2, 1], "page 1 follows page 2"),
        ([2, 2], "page 2 follows page 2"),
        ([0], "page 0 follows page 0"),
        ([-1], "page -1 follows page 0"),
        ([6], "page 6 lies beyond the database's 5 pages"),
        ([1 << 32], "lies beyond"),
    ],
)
def test_an_increment_holds_pages_in_ascending_order_up_to_commit(pgnos: list[int], message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        encode(header(commit=5, txid=2), [(pgno, PAGE) for pgno in pgnos])


def test_random_pages_grow_and_are_still_compressed() -> None:
    page = bytes((value * 197 + value // 7 * 31) % 256 for value in range(512))
    data = encode(header(commit=1), [(1, page)])
    assert data[110:-36] != page
    assert list(Decoder([data])) == [(1, page)]
    literal = FileSpec(pages={1: page}, payloads={1: literal_block(page)}).encode()
    assert list(Decoder([literal])) == [(1, page)]
