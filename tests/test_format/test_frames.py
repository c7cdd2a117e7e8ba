"""Frames that are decoded at once: the same pages as one by one, or none of them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx.errors import CorruptError
from ltx.format.frame import FRAME_HEAD, compress_page, decode_frame, decode_frames
from tests.support.ltxfiles import FileSpec, literal_block
from tests.support.strategies import fewer, file_specs

PAGE_SIZES = [512 << power for power in range(8)]


class Laid:
    """Frames one behind the other, with other bytes around them."""

    def __init__(self, frames: list[tuple[int, bytes]], before: bytes = b"") -> None:
        self.data = before
        self.pgnos = [pgno for pgno, _ in frames]
        self.starts: list[int] = []
        self.sizes = [len(frame) for _, frame in frames]
        for _, frame in frames:
            self.starts.append(len(self.data))
            self.data += frame
        self.data += b"what follows"

    def decoded(self, page_size: int) -> list[bytes] | None:
        return decode_frames(self.data, self.pgnos, self.starts, self.sizes, page_size)

    def one_by_one(self, page_size: int) -> list[bytes] | None:
        """What `decode_frame` makes of them; None where it refuses one."""
        try:
            return [
                decode_frame(self.data[start : start + size], pgno, page_size)
                for pgno, start, size in zip(self.pgnos, self.starts, self.sizes, strict=True)
            ]
        except CorruptError:
            return None


def framed(pgno: int, block: bytes) -> tuple[int, bytes]:
    return pgno, FRAME_HEAD.pack(pgno, 1, len(block)) + block


def pages(page_size: int, count: int, seed: int) -> list[bytes]:
    """Pages of zeros, of random bytes, which grow in LZ4, and of words."""
    chosen = random.Random(seed)
    words = b"".join(chosen.choice((b"some ", b"words ", b"again ")) for _ in range(page_size))
    kinds = (bytes(page_size), chosen.randbytes(page_size), words[:page_size])
    return [chosen.choice(kinds) for _ in range(count)]


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_pages_of_every_size_come_out_as_they_went_in(page_size: int) -> None:
    wanted = pages(page_size, 40, seed=page_size)
    for first in (1, 65_530, 70_000, (1 << 32) - 41):
        laid = Laid([framed(first + at, compress_page(page)) for at, page in enumerate(wanted)], b"before")
        assert laid.decoded(page_size) == wanted
    apart = Laid([framed(3 * at + 1, compress_page(page)) for at, page in enumerate(wanted)])
    assert apart.decoded(page_size) == wanted


@fewer(3)
@given(file_specs())
def test_the_frames_of_every_file_are_read_or_left_to_be_read_one_by_one(spec: FileSpec) -> None:
    laid = Laid([(pgno, head + payload) for pgno, _, head, payload, _ in spec.frames])
    if laid.pgnos:
        found = laid.decoded(spec.page_size)
        if found is None:
            assert spec.legacy, "only the old kind of frame must be read one by one"
        else:
            assert found == laid.one_by_one(spec.page_size) == [page for _, page in spec.content]


def test_no_flipped_bit_gives_other_pages_than_one_by_one() -> None:
    page_size = 512
    right = Laid([framed(at, compress_page(page)) for at, page in enumerate(pages(page_size, 6, seed=3), 7)])
    refused = 0
    for place in range(right.starts[0] * 8, (right.starts[-1] + right.sizes[-1]) * 8):
        data = bytearray(right.data)
        data[place // 8] ^= 1 << place % 8
        laid = Laid([])
        laid.data, laid.pgnos, laid.starts, laid.sizes = bytes(data), right.pgnos, right.starts, right.sizes
        found = laid.decoded(page_size)
        assert found == laid.one_by_one(page_size)
        refused += found is None
    assert refused > 100


@pytest.mark.parametrize("longer", [1, 2, 514, 40_000])
def test_a_page_too_long_and_one_as_much_too_short_do_not_make_up_for_each_other(longer: int) -> None:
    """Between the pages come marks, and so each must have its own length."""
    page_size = 65_536
    sizes = (page_size, page_size + longer, page_size - longer, page_size)
    for content in (b"\0", b"\x05", b"\x06"):  # also what the mark of a page looks like
        blocks = [literal_block(content * size) for size in sizes]
        laid = Laid([framed(pgno, block) for pgno, block in enumerate(blocks, 5)])
        assert laid.decoded(page_size) is None


@given(st.binary(max_size=300), st.integers(1, 20))
def test_random_blocks_are_refused_or_read_as_one_by_one(block: bytes, count: int) -> None:
    laid = Laid([framed(pgno, block) for pgno in range(1, count + 1)])
    assert laid.decoded(512) == laid.one_by_one(512)
