"""The sidecar's table of page hashes: whole to the last bit, or not there."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from xxhash import xxh3_64_digest

from ltx.replication.table import HASH_SIZE, TableWriter, open_table, page_hash

CHECKSUM = 0xF123456789ABCDEF


def write(path: Path, pages: int = 5, *, txid: int = 7) -> bytes:
    """Write a table of some pages, and return its bytes."""
    with closing(TableWriter(path, 4096, pages)) as writer:
        for pgno in range(1, pages + 1):
            writer.append(page_hash(bytes([pgno])))
        writer.install(txid, CHECKSUM)
    return path.read_bytes()


def read(path: Path) -> tuple[int, int, int, int, list[bytes]] | None:
    with open_table(path) as table:
        if table is None:
            return None
        hashes = [table.hash_of(pgno) for pgno in range(1, table.commit + 1)]
        return table.page_size, table.commit, table.txid, table.file_checksum, hashes


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    data = write(path)
    hashes = [xxh3_64_digest(bytes([pgno])) for pgno in range(1, 6)]
    assert read(path) == (4096, 5, 7, CHECKSUM, hashes)
    assert len(data) == 32 + 6 * HASH_SIZE
    assert os.listdir(tmp_path) == ["pages"]


def test_a_table_damaged_at_any_byte_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    data = write(path)
    for place in range(len(data)):
        for bit in range(8):
            wrong = bytearray(data)
            wrong[place] ^= 1 << bit
            path.write_bytes(wrong)
            assert read(path) is None, (place, bit)


def test_a_table_of_any_other_length_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    data = write(path)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert read(path) is None, size
    for extra in (b"\0", bytes(8), data[-8:], data):
        path.write_bytes(data + extra)
        assert read(path) is None, extra


def test_a_table_that_claims_more_pages_than_it_has_bytes_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    data = write(path)[:-8]
    for commit in (0, 4, 6, 1 << 31, (1 << 32) - 1):
        forged = data[:12] + commit.to_bytes(4, "big") + data[16:]
        path.write_bytes(forged + xxh3_64_digest(forged))
        assert read(path) is None, commit


def test_no_table_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "pages") is None


@pytest.mark.parametrize("pgno", [6, 7, 1000, 1 << 31])
def test_a_page_beyond_the_end_has_no_hash(pgno: int, tmp_path: Path) -> None:
    write(tmp_path / "pages")
    with open_table(tmp_path / "pages") as table:
        assert table
        assert table.hash_of(pgno) == b""


def test_hashes_can_be_set_in_any_order_and_the_database_may_change_its_size(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    with closing(TableWriter(path, 512, 3)) as writer:
        writer.put(3, b"33333333")
        writer.put(1, b"11111111")
        writer.resize(1)
        writer.resize(4)
        writer.put(4, b"44444444")
        writer.install(2, CHECKSUM)
    # What was cut off is gone: pages 2 and 3 count as unknown.
    assert read(path) == (512, 4, 2, CHECKSUM, [b"11111111", bytes(8), bytes(8), b"44444444"])


def test_a_table_that_was_not_installed_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    write(path)
    before = read(path)
    with closing(TableWriter(path, 512, 1)) as writer:
        writer.append(b"12345678")
    writer.close()
    assert read(path) == before
    assert os.listdir(tmp_path) == ["pages"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    with closing(TableWriter(path, 512, 1)) as one, closing(TableWriter(path, 1024, 1)) as two:
        one.append(b"11111111")
        two.append(b"22222222")
        two.install(2, CHECKSUM)
        one.install(1, CHECKSUM)
    assert read(path) == (512, 1, 1, CHECKSUM, [b"11111111"])
    assert os.listdir(tmp_path) == ["pages"]


def test_an_open_table_survives_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    write(path, 5)
    with open_table(path) as table:
        assert table
        write(path, 2, txid=8)
        assert table.hash_of(5) == page_hash(b"\5")
    assert (read(path) or ())[1:3] == (2, 8)
