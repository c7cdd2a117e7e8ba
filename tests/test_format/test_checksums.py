"""Checksums against a byte-by-byte CRC, and the algebra that keeps a database's up to date."""

from hypothesis import given
from hypothesis import strategies as st

from ltx.format import CHECKSUM_FLAG, database_checksum, page_checksum, xor_page
from ltx.format.checksum import crc
from tests.support import ltxfiles
from tests.support.strategies import pages

databases = st.dictionaries(st.integers(1, 40), pages(512), max_size=6)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_the_crc_can_be_continued_anywhere(data: bytes, cut: int) -> None:
    assert crc(data) == ltxfiles.crc64(data)
    assert crc(data[cut:], crc(data[:cut])) == crc(data)


@given(databases)
def test_a_database_checksum_is_that_of_its_pages_in_any_order(database: dict[int, bytes]) -> None:
    expected = ltxfiles.database_checksum(database)
    assert database_checksum(database.items()) == expected
    assert database_checksum(reversed(database.items())) == expected


@given(databases, st.integers(1, 40), pages(512))
def test_a_changed_page_moves_the_checksum_by_its_own(
    database: dict[int, bytes], pgno: int, page: bytes
) -> None:
    checksum = database_checksum(database.items())
    if pgno in database:
        checksum = xor_page(checksum, page_checksum(pgno, database[pgno]))
    checksum = xor_page(checksum, page_checksum(pgno, page))
    assert checksum == database_checksum({**database, pgno: page}.items())


def test_no_checksum_is_ever_zero() -> None:
    assert database_checksum([]) == CHECKSUM_FLAG
    page = b"p" * 512
    assert database_checksum([(1, page), (1, page)]) == CHECKSUM_FLAG
