"""The page index: where the frames lie, and no lie about it believed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx.errors import CorruptError, TruncatedError
from ltx.format import Decoder
from ltx.format import index as index_module
from ltx.format.frame import decode_frame
from ltx.format.index import PageIndex, index_range
from tests.support.ltxfiles import FileSpec, literal_block, varint
from tests.support.refusals import tried
from tests.support.strategies import fewer, file_specs


@pytest.fixture(scope="module", params=[0, 1 << 40], ids=["with numpy", "without"], autouse=True)
def few(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let numpy decode what is longer than this: with it and without it the same must come out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_FEW", request.param)
        patch.setattr(index_module, "_MANY", request.param)
        yield


SPEC = FileSpec(pages={pgno: pgno.to_bytes(4, "big") * 128 for pgno in (2, 3, 300, 70_000)}, min_txid=2)
Entry = tuple[int, int, int]


def entries_of(spec: FileSpec) -> list[Entry]:
    return [(pgno, offset, len(head) + len(payload)) for pgno, offset, head, payload, _ in spec.frames]


def raw(entries: Sequence[Entry]) -> bytes:
    return b"".join(varint(value) for entry in entries for value in entry) + b"\0"


def decode(spec: FileSpec) -> PageIndex:
    return PageIndex.decode(spec.raw_index, len(spec.encode()))


def listed(index: PageIndex) -> list[Entry]:
    return list(zip(index.pgnos.tolist(), index.offsets.tolist(), index.sizes, strict=True))


@fewer(3)
@given(file_specs())
def test_the_index_of_every_file_locates_every_frame(spec: FileSpec) -> None:
    data = spec.encode()
    start, end = index_range(data[-24:], len(data))
    assert (start, end) == (spec.index_offset, len(data) - 16)
    index = PageIndex.decode(data[start:end], len(data))
    assert listed(index) == entries_of(spec)
    assert len(index) == len(spec.content)
    for (pgno, page), (_, offset, size) in zip(spec.content, listed(index), strict=True):
        frame = data[offset : offset + size]
        assert decode_frame(frame, pgno, spec.page_size) == page
        assert decode_frame(memoryview(frame), pgno, spec.page_size) == page


def test_an_index_may_be_empty() -> None:
    spec = FileSpec(commit=4, min_txid=2)
    assert listed(decode(spec)) == []


def test_numbers_with_needless_zero_bytes_are_read() -> None:
    spec = FileSpec(pages={5: bytes(512)}, min_txid=2)
    _, offset, size = entries_of(spec)[0]
    padded = bytes([0x85, 0x80, 0x00]) + varint(offset) + varint(size) + b"\0"
    assert listed(decode(replace(spec, index=padded))) == entries_of(spec)


FIRST, SECOND, THIRD, LAST = entries_of(SPEC)
END = LAST[1] + LAST[2]
WRONG_ENTRIES: dict[str, list[Entry]] = {
    "a frame missing at the end": [FIRST, SECOND, THIRD],
    "a frame missing at the start": [SECOND, THIRD, LAST],
    "a frame missing in between": [FIRST, THIRD, LAST],
    "none": [],
    "pages out of order": [FIRST, (300, *SECOND[1:]), (3, *THIRD[1:]), LAST],
    "a page twice": [FIRST, (2, *SECOND[1:]), THIRD, LAST],
    "page 0": [(0, *FIRST[1:]), SECOND, THIRD, LAST],
    "a page beyond 32 bits": [FIRST, SECOND, THIRD, (1 << 32, *LAST[1:])],
    "the first frame inside the header": [(2, 99, FIRST[2] + 1), SECOND, THIRD, LAST],
    "frames that overlap": [FIRST, (3, SECOND[1] - 1, SECOND[2] + 1), THIRD, LAST],
    "a frame without a payload": [
        FIRST,
        SECOND,
        (300, THIRD[1], 10),
        (70_000, THIRD[1] + 10, END - THIRD[1] - 10),
    ],
    "an empty frame": [FIRST, SECOND, (300, THIRD[1], 0), (70_000, THIRD[1], END - THIRD[1])],
    "a frame too long": [FIRST, SECOND, THIRD, (70_000, LAST[1], LAST[2] + 1)],
    "a frame beyond any size": [(2, 100, 1 << 62), SECOND, THIRD, LAST],
    "sums that overflow": [(2, 100, (1 << 63) - 1), (3, (1 << 63) - 1, (1 << 63) - 1), THIRD, LAST],
}


@pytest.mark.parametrize("kind", WRONG_ENTRIES)
def test_an_index_that_contradicts_its_file_is_refused(kind: str) -> None:
    # The file keeps its length, so that nothing but the entries is wrong.
    good = SPEC.raw_index
    wrong = raw(WRONG_ENTRIES[kind])
    file_size = len(SPEC.encode()) + len(wrong) + 8 - len(good)
    with pytest.raises(CorruptError) as caught:
        PageIndex.decode(wrong + len(wrong).to_bytes(8, "big"), file_size)
    assert caught.value.offset == SPEC.index_offset


def test_a_frame_longer_than_any_page_can_be_is_refused() -> None:
    entries = raw([(1, 100, 1 << 18)])
    file_size = 100 + (1 << 18) + 6 + len(entries) + 8 + 16
    with pytest.raises(CorruptError, match="contradicts"):
        PageIndex.decode(entries + len(entries).to_bytes(8, "big"), file_size)
    entries = raw([(1, 100, (1 << 18) - 1)])
    assert len(PageIndex.decode(entries + len(entries).to_bytes(8, "big"), file_size - 1)) == 1


RAW_DAMAGE = {
    "nothing": b"",
    "a length alone": (0).to_bytes(8, "big"),
    "no zero at its end": b"\x01" + (1).to_bytes(8, "big"),
    "a length too small": SPEC.raw_index[:-8] + (len(SPEC.raw_index) - 9).to_bytes(8, "big"),
    "a length too big": SPEC.raw_index[:-8] + (1 << 63).to_bytes(8, "big"),
    "an entry cut short": raw([FIRST])[:-2] + b"\0",
    "a number that does not end": b"\x02\xff\0",
    "a number of ten bytes": b"\x02" + b"\xff" * 9 + b"\x01\x10\0",
    "a number of a million bytes": b"\x80" * 1_000_000 + b"\x01\x01\x01\0",
}


@pytest.mark.parametrize("kind", RAW_DAMAGE)
def test_bytes_that_are_no_index_are_refused_with_their_offset(kind: str) -> None:
    data = RAW_DAMAGE[kind]
    if not kind.startswith(("nothing", "a length", "no zero")):
        data += len(data).to_bytes(8, "big")
    with pytest.raises(CorruptError) as caught:
        PageIndex.decode(data, SPEC.index_offset + len(data) + 16)
    assert caught.value.offset is not None


def test_no_flipped_bit_of_an_index_moves_a_page() -> None:
    good, file_size = SPEC.raw_index, len(SPEC.encode())
    for place in range(len(good) * 8):
        wrong = bytearray(good)
        wrong[place // 8] ^= 1 << place % 8
        found, error = tried(lambda: listed(PageIndex.decode(bytes(wrong), file_size)))  # noqa: B023
        if found is None:
            assert error
            assert error.offset is not None
        else:
            # Page numbers alone say nothing of the file; the frames that they lead to do.
            assert [entry[1:] for entry in found] == [entry[1:] for entry in entries_of(SPEC)]


@given(st.binary(max_size=80), st.integers(0, 1 << 40))
def test_random_bytes_are_no_index_or_an_empty_one(data: bytes, file_size: int) -> None:
    framed = data + b"\0" + (len(data) + 1).to_bytes(8, "big")
    for candidate in (data, framed):
        index, error = tried(lambda: PageIndex.decode(candidate, file_size))  # noqa: B023
        if index is None:
            assert error
            assert error.offset is not None
        else:
            assert len(index) == 0 or index.offsets[0] == 100


@given(st.binary(min_size=24, max_size=60), st.integers(0, 1 << 40))
def test_no_tail_leads_outside_its_file(tail: bytes, file_size: int) -> None:
    found, _ = tried(lambda: index_range(tail, file_size))
    if found:
        assert 106 <= found[0] < found[1] == file_size - 16


def test_files_too_short_for_an_index_are_refused() -> None:
    data = FileSpec(commit=1, min_txid=2).encode()
    assert len(data) == 131
    assert index_range(data[-24:], 131) == (106, 115)
    for size in range(131):
        with pytest.raises(TruncatedError):
            index_range(data[:size][-24:], size)


FRAME = b"\0\0\0\x07\0\x01\0\0\0\x0c" + bytes.fromhex("1f410100ffe8504141414141")
LEGACY = FileSpec(pages={7: b"A" * 512}, legacy=frozenset({7})).frames[0]
LEGACY_FRAME = LEGACY[2] + LEGACY[3]
WRONG_FRAMES = {
    "nothing": (b"", 0),
    "a head cut short": (FRAME[:9], 0),
    "another page": (b"\0\0\0\x08" + FRAME[4:], 0),
    "unknown flags": (FRAME[:4] + b"\0\x03" + FRAME[6:], 4),
    "a size that is not the frame's": (FRAME + b"\0", 6),
    "a block cut short": (FRAME[:9] + b"\x0b" + FRAME[10:-1], 10),
    "no block": (FRAME[:9] + b"\x03" + b"\xff\xff\xff", 10),
    "a page too short": (FRAME[:6] + b"\0\0\x01\xff" + literal_block(bytes(508))[:511], 10),
    "a page too long": (FRAME[:6] + b"\0\0\x02\x05" + literal_block(bytes(514)), 10),
    "no LZ4 frame": (LEGACY_FRAME[:6] + b"????????????", 6),
    "an LZ4 frame cut short": (LEGACY_FRAME[:-1], 6),
    "bytes behind an LZ4 frame": (LEGACY_FRAME + b"\0", 6),
    "an LZ4 frame of another length": (LEGACY_FRAME[:6] + FileSpec(
        pages={7: bytes(1024)}, page_size=1024, legacy=frozenset({7})
    ).frames[0][3], 6),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_FRAMES)
def test_a_frame_that_is_not_the_page_that_the_index_says_is_refused(kind: str) -> None:
    assert decode_frame(FRAME, 7, 512) == decode_frame(LEGACY_FRAME, 7, 512) == b"A" * 512
    frame, offset = WRONG_FRAMES[kind]
    with pytest.raises(CorruptError) as caught:
        decode_frame(frame, 7, 512)
    assert caught.value.offset == offset


def test_a_decoder_needs_no_index_but_its_length() -> None:
    """What restores reads frames in order; only the checksum holds the entries to them."""
    spec = replace(SPEC, index=raw([(1, 2, 3)]))
    assert tuple(Decoder([spec.encode()])) == spec.content
    with pytest.raises(CorruptError):
        decode(spec)
