"""Bytes that somebody damaged or forged end in a CorruptError that says where, soon and in little memory."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx.errors import CorruptError, TruncatedError, UnsupportedVersionError
from ltx.format import Decoder, merge
from tests.support.ltxfiles import FLAG, FileSpec, varint
from tests.support.measure import cpu_seconds, peak_memory
from tests.support.refusals import tried
from tests.support.strategies import fewer, file_specs

NOISE = {pgno: Random(pgno).randbytes(512) for pgno in (1, 2)}
FLAT = {1: bytes(512), 2: b"ab" * 256, 3: b"c" * 512}
FILES = {
    "noise": FileSpec(pages=NOISE),
    "flat pages": FileSpec(pages=FLAT),
    "legacy frames": FileSpec(pages=FLAT | NOISE, legacy=frozenset({2, 3})),
    "checksums": FileSpec(pages=NOISE, flags=0),
    "an increment": FileSpec(pages=FLAT, commit=9, min_txid=3, max_txid=5, wal_offset=32, wal_salt1=8),
    "no pages": FileSpec(commit=9, min_txid=3),
}


def pages_of(data: bytes) -> tuple[tuple[int, bytes], ...]:
    return tuple(Decoder([data]))


def refusal(data: bytes) -> CorruptError | None:
    """Return the error with which a file is refused; None where it is accepted."""
    try:
        return tried(lambda: pages_of(data))[1]
    except UnsupportedVersionError as error:
        assert data[:3] == b"LTX" != data[:4]
        return CorruptError(str(error), offset=3)


@pytest.mark.parametrize("kind", FILES)
def test_every_prefix_of_a_file_is_refused_with_an_offset_in_it(kind: str) -> None:
    data = FILES[kind].encode()
    for size in range(len(data)):
        error = refusal(data[:size])
        assert error, size
        assert error.offset is not None, size
        assert 0 <= error.offset <= size, size


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_before_its_index_ends_is_known_to_be_truncated(kind: str) -> None:
    spec = FILES[kind]
    data = spec.encode()
    for size in (*range(spec.frames[-1][1] if spec.frames else 100), spec.index_offset):
        error = refusal(data[:size])
        assert isinstance(error, TruncatedError), size


@pytest.mark.parametrize("kind", FILES)
def test_every_flipped_bit_is_found_or_changes_nothing(kind: str) -> None:
    spec = FILES[kind]
    data = spec.encode()
    for place in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        error = refusal(bytes(wrong))
        if error is None:  # another spelling of the same page in LZ4
            assert in_payload(spec, place // 8), place
            assert pages_of(bytes(wrong)) == spec.content, place
        else:
            assert error.offset is not None, place
            assert 0 <= error.offset <= len(data), place


def in_payload(spec: FileSpec, offset: int) -> bool:
    return any(
        start + len(head) <= offset < start + len(head) + len(payload)
        for _, start, head, payload, _ in spec.frames
    )


def test_every_flipped_bit_is_found_but_four_a_block_that_lz4_does_not_read() -> None:
    spec = FILES["noise"]
    data = spec.encode()
    missed = set()
    for place in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        if not refusal(bytes(wrong)):
            missed.add(place)
    # The token of the last sequence: its lower half is a match's length, and there is no match.
    tokens = [offset + len(head) for _, offset, head, *_ in spec.frames]
    assert missed == {token * 8 + bit for token in tokens for bit in range(4)}


@pytest.mark.parametrize("kind", FILES)
def test_every_replaced_byte_is_found_or_changes_nothing(kind: str) -> None:
    spec, data = FILES[kind], FILES[kind].encode()
    for place in range(len(data)):
        for value in {0, 0xFF, data[place] + 1 & 0xFF, data[place] - 1 & 0xFF} - {data[place]}:
            wrong = data[:place] + bytes([value]) + data[place + 1 :]
            assert refusal(wrong) or pages_of(wrong) == spec.content, (place, value)


@pytest.mark.parametrize("kind", FILES)
def test_bytes_behind_the_trailer_are_refused(kind: str) -> None:
    data = FILES[kind].encode()
    for size in (*range(1, 60), 100_000):
        assert refusal(data + bytes(size)), size
        assert refusal(data + b"\xff" * size), size
    assert refusal(data + data)
    assert refusal(data + data[-16:])


@pytest.mark.parametrize("kind", FILES)
def test_a_missing_or_doubled_byte_is_found(kind: str) -> None:
    spec, data = FILES[kind], FILES[kind].encode()
    for place in range(len(data)):
        for wrong in (data[:place] + data[place + 1 :], data[: place + 1] + data[place:]):
            assert refusal(wrong) or pages_of(wrong) == spec.content, place


@fewer(3)
@given(file_specs(512), st.data())
def test_frames_that_change_places_or_files_are_found(spec: FileSpec, data: st.DataObject) -> None:
    pages = list(spec.content)
    shuffled = data.draw(st.permutations(pages))
    wrong = replace(spec, pages=tuple(shuffled))
    # Checksums are right; only the order is not.
    assert (refusal(wrong.encode()) is None) == (shuffled == pages)


@fewer(1)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_never_a_file(data: bytes, behind_a_header: bool) -> None:
    error = refusal(FILES["noise"].header + data if behind_a_header else data)
    assert error
    assert error.offset is not None


u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
few = st.integers(0, 20)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "commit": few | u32,
            "page_size": st.sampled_from([0, 1, 256, 511, 513, 1024, 65536, 1 << 31]),
            "min_txid": few | u64,
            "max_txid": few | u64,
            "flags": few | u32,
            "pre_checksum": few | u64,
            "wal_size": few,
            "terminator": st.binary(max_size=12),
            "index": st.binary(max_size=30),
            "index_size": few | u64,
            "post_checksum": few | u64,
            "sizes": st.dictionaries(st.sampled_from([1, 2]), few | u32),
            "page_flags": st.dictionaries(st.sampled_from([1, 2]), few | u16),
            "payloads": st.dictionaries(st.sampled_from([1, 2]), st.binary(max_size=600)),
            "legacy": st.frozensets(st.sampled_from([1, 2])),
        },
    )
)
def test_random_fields_under_right_checksums_are_refused_or_read_as_they_stand(
    changes: dict[str, object],
) -> None:
    spec = replace(FileSpec(pages=NOISE), **changes)  # type: ignore[arg-type]
    pages, error = tried(lambda: pages_of(spec.encode()))
    if pages is None:
        assert error
        assert error.offset is not None
    else:
        assert pages == spec.content


BIG = (1 << 32) - 1
HUGE_CLAIMS = {
    "a block of 4 GiB": FileSpec(pages=NOISE, sizes={1: BIG}),
    "a block one byte beyond what a page can take": FileSpec(pages=NOISE, sizes={1: 512 + 512 // 255 + 17}),
    "4 billion pages of 64 KiB": FileSpec(pages={1: bytes(65536)}, page_size=65536, commit=BIG),
    "an index of 2^64 bytes": FileSpec(pages=NOISE, index_size=(1 << 64) - 1),
    "an index of 0 bytes": FileSpec(pages=NOISE, index_size=0),
    "an LZ4 block of endless zeros": FileSpec(
        pages=NOISE, payloads={1: b"\x1f\x00\x01\x00" + b"\xff" * 500 + b"\x00\x50aaaaa"}
    ),
    "an LZ4 frame that says 2^63 bytes": FileSpec(
        pages=NOISE,
        legacy=frozenset({1}),
        payloads={1: bytes.fromhex("04224d18 4c70 ffffffffffffff7f 00") + b"\xff\xff\xff\x7f"},
    ),
    "an LZ4 frame with a skippable part of 4 GiB": FileSpec(
        pages=NOISE, legacy=frozenset({1}), payloads={1: b"\x50\x2a\x4d\x18\xff\xff\xff\xff"}
    ),
}


@pytest.mark.parametrize("claim", HUGE_CLAIMS)
def test_a_huge_claim_costs_neither_memory_nor_time(claim: str) -> None:
    data = HUGE_CLAIMS[claim].encode()
    error = refusal(data)
    assert error
    assert error.offset is not None
    assert peak_memory(lambda: refusal(data)) < 1 << 20
    assert cpu_seconds(lambda: refusal(data)) < 1


def endless(beginning: bytes, piece: bytes, times: int) -> Iterator[bytes]:
    yield beginning
    for _ in range(times):
        yield piece


def test_an_index_without_end_is_read_in_flat_memory() -> None:
    spec = FileSpec(pages=NOISE)
    beginning = spec.encode()[: spec.index_offset]

    def read(times: int) -> None:
        with pytest.raises(CorruptError):
            list(Decoder(endless(beginning, b"\x80" * 65536, times)))

    read(1)
    assert peak_memory(lambda: read(800)) < peak_memory(lambda: read(8)) + (1 << 18) < 1 << 20


def test_a_legacy_frame_without_end_is_read_in_flat_memory() -> None:
    spec = FileSpec(pages=NOISE, legacy=frozenset({1}))
    frame_start = b"\0\0\0\x01\0\0" + bytes.fromhex("04224d18 6040 82")
    nothing = (1).to_bytes(4, "little") + b"\0"  # a block that decompresses to no bytes

    def read(times: int) -> None:
        with pytest.raises(TruncatedError):
            list(Decoder(endless(spec.header + frame_start, nothing * 10_000, times)))

    read(1)
    assert peak_memory(lambda: read(100)) < peak_memory(lambda: read(8)) + (1 << 18) < 1 << 20
    assert cpu_seconds(lambda: read(100)) < 5


def test_an_oversized_file_is_refused_by_a_merge_too() -> None:
    good = FileSpec(pages=NOISE)
    wrong = FileSpec(pages=NOISE, min_txid=2, sizes={2: BIG})
    with pytest.raises(CorruptError, match="4294967295") as caught:
        list(merge([Decoder([good.encode()]), Decoder([wrong.encode()])]))
    assert caught.value.offset == wrong.frames[1][1]


def test_a_forged_checksum_does_not_help_a_forged_structure() -> None:
    """Everything is as a right file has it, checksums included, except for the one thing named."""
    entries = varint(1) + varint(100) + varint(12)
    forged = {
        "a snapshot without its last page": FileSpec(pages={1: NOISE[1]}, commit=2),
        "an increment in which a page stands twice": FileSpec(
            pages=((1, NOISE[1]), (1, NOISE[2])), min_txid=2, commit=2
        ),
        "a page beyond the commit": FileSpec(pages=NOISE, commit=1, min_txid=2),
        "a terminator with a page flag": FileSpec(pages=NOISE, terminator=b"\0\0\0\0\0\x01"),
        "an index without its zero": FileSpec(pages=NOISE, index=entries + b"\x01"),
        "no index": FileSpec(pages=NOISE, index=b"", index_size=0),
        "a database checksum without its flag": FileSpec(pages=NOISE, flags=0, post_checksum=1),
        "a file checksum of zero": FileSpec(pages=NOISE, file_checksum=0),
        "a file checksum of the flag alone": FileSpec(pages=NOISE, file_checksum=FLAG),
    }
    for name, spec in forged.items():
        error = refusal(spec.encode())
        assert error, name
        assert error.offset is not None, name
