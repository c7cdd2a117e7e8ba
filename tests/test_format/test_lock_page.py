"""The page at 1 GiB, which SQLite locks and never writes, is in no file."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ltx.errors import CorruptError
from ltx.format import Decoder, Encoder, Header
from tests.support.ltxfiles import ALL_PAGE_SIZES, FileSpec, lock_page

LOCK = lock_page(65536)
ZEROS = bytes(65536)


def header(commit: int, page_size: int = 65536, txid: int = 1) -> Header:
    return Header.unpack(FileSpec(commit=commit, page_size=page_size, min_txid=txid).header)


@pytest.mark.parametrize("commit", [LOCK - 1, LOCK, LOCK + 1, LOCK + 3])
def test_a_snapshot_of_over_1_gib_jumps_over_it(commit: int) -> None:
    def pages() -> Iterator[tuple[int, bytes]]:
        for pgno in range(1, commit + 1):
            if pgno != LOCK:
                yield pgno, ZEROS

    encoder = Encoder(header(commit), pages())
    decoder = Decoder(encoder)
    following = 1
    for pgno, page in decoder:
        assert pgno == following
        assert page == ZEROS
        following = pgno + 1 + (pgno + 1 == LOCK)
    assert decoder.page_count == encoder.page_count == commit - (commit >= LOCK)
    assert decoder.size == encoder.size


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
def test_an_increment_holds_its_neighbours_and_never_itself(page_size: int) -> None:
    lock, page = lock_page(page_size), bytes(page_size)
    good = FileSpec(pages={lock - 1: page, lock + 1: page}, page_size=page_size, commit=lock + 5, min_txid=2)
    assert tuple(Decoder([good.encode()])) == good.content
    assert b"".join(Encoder(header(lock + 5, page_size, 2), good.content)) == good.encode()
    wrong = replace(good, pages={lock - 1: page, lock: page})
    with pytest.raises(CorruptError, match="lock page") as caught:
        list(Decoder([wrong.encode()]))
    assert caught.value.offset == wrong.frames[1][1]
    with pytest.raises(CorruptError, match="lock page"):
        list(Encoder(header(lock + 5, page_size, 2), wrong.content))


@pytest.mark.parametrize("extra", [LOCK, LOCK + 2])
def test_a_snapshot_that_does_not_jump_exactly_one_page_is_refused(extra: int) -> None:
    def pages() -> Iterator[tuple[int, bytes]]:
        for pgno in (*range(1, LOCK), extra):
            yield pgno, ZEROS

    with pytest.raises(CorruptError, match=f"page {extra}"):
        for _ in Encoder(header(LOCK + 2), pages()):
            pass
