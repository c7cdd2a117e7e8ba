"""Which frames of a WAL are committed: against a plain reading of the format, and against SQLite."""

import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx.replication import wal
from ltx.replication.wal import WALHeader, committed_frames, valid_frames
from tests.support.databases import connected, fill, image, make, scalar
from tests.support.ltxfiles import ALL_PAGE_SIZES
from tests.support.strategies import fewer
from tests.support.walfiles import BIG, LITTLE, Frame, WALSpec, committed, reader

Found = tuple[int, dict[int, int], int]


def found_by_ours(data: bytes, *, padded: bool = True) -> Found | None:
    """Read a WAL with the code under test, as the plain reading gives it."""
    header = WALHeader.unpack(data[:32])
    if header is None:
        return None
    frames = committed_frames(reader(data, padded=padded), header)
    pgnos = frames.pgnos.tolist()
    assert pgnos == sorted(set(pgnos))
    return frames.commit, dict(zip(pgnos, frames.offsets.tolist(), strict=True)), frames.end


def pages(seed: int, count: int, page_size: int = 512) -> list[bytes]:
    noise = Random(seed)
    return [noise.randbytes(page_size) for _ in range(count)]


ONE, TWO, THREE, FOUR, FIVE = pages(1, 5)
SPEC = WALSpec(
    frames=[
        Frame(1, ONE),
        Frame(2, TWO, 2),
        Frame(2, THREE),
        Frame(3, FOUR, 3),
        Frame(1, FIVE),
    ]  # the last one is open
)
SIZE = 512 + 24


def test_only_frames_up_to_the_last_commit_count_and_the_newest_of_each_page() -> None:
    assert found_by_ours(SPEC.encode()) == (3, {1: 56, 2: 56 + 2 * SIZE, 3: 56 + 3 * SIZE}, 32 + 4 * SIZE)


@pytest.mark.parametrize("magic", [LITTLE, BIG])
@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
def test_both_byte_orders_of_every_page_size(magic: int, page_size: int) -> None:
    a, b, c = pages(2, 3, page_size)
    frames = [Frame(7, a), Frame(9, b, 9), Frame(7, c, 9), Frame(8, a)]
    data = WALSpec(frames=frames, page_size=page_size, magic=magic).encode()
    expected = committed(data)
    assert expected
    assert expected[0] == 9
    assert found_by_ours(data) == expected == found_by_ours(data, padded=False)
    header = WALHeader.unpack(data)
    assert header
    assert (header.page_size, header.salts, header.big_endian) == (page_size, b"saltSALT", magic == BIG)


def test_sqlite_reads_the_big_endian_wal_that_we_read(tmp_path: Path) -> None:
    """The crafted byte order is SQLite's: a real WAL is written anew with big-endian checksums."""
    path = make(tmp_path / "a.db", page_size=1024)
    with connected(path) as db:
        fill(db, 30)
        data = Path(f"{path}-wal").read_bytes()
        shutil.copy(path, tmp_path / "b.db")
        expected = image(path)
        count = (len(data) - 32) // 1048
        frames = []
        for at in range(32, 32 + count * 1048, 1048):
            pgno, commit = struct.unpack_from(">II", data, at)
            frames.append(Frame(pgno, data[at + 24 : at + 1048], commit))
    big = WALSpec(frames=frames, page_size=1024, magic=BIG, salts=data[16:24]).encode()
    (tmp_path / "b.db-wal").write_bytes(big)
    assert found_by_ours(big) == found_by_ours(data) == committed(data)
    assert image(tmp_path / "b.db") == expected


@pytest.mark.parametrize(
    "damage",
    [
        replace(SPEC, magic=0x377F0684),
        replace(SPEC, magic=0),
        replace(SPEC, version=3007001),
        replace(SPEC, page_size=256),
        replace(SPEC, page_size=131072),
        replace(SPEC, page_size=1000),
        replace(SPEC, page_size=0),
    ],
)
def test_a_header_that_sqlite_would_not_take_is_no_wal(damage: WALSpec) -> None:
    assert WALHeader.unpack(damage.encode()) is None


def test_no_flipped_bit_of_the_header_is_overlooked() -> None:
    head = SPEC.encode()[:32]
    for place in range(32 * 8):
        wrong = bytearray(head)
        wrong[place // 8] ^= 1 << place % 8
        assert WALHeader.unpack(bytes(wrong)) is None, place
    for size in range(32):
        assert WALHeader.unpack(head[:size]) is None


def test_no_flipped_bit_of_a_frame_is_overlooked() -> None:
    data = SPEC.encode()
    for place in range(32, len(data)):
        wrong = bytearray(data)
        wrong[place] ^= 1 << place % 8
        found = found_by_ours(bytes(wrong), padded=False)
        assert found == committed(bytes(wrong)), place
        assert found
        assert found[2] <= 32 + (place - 32) // SIZE * SIZE or place >= 32 + 4 * SIZE


def test_a_tail_torn_at_any_byte_loses_its_transaction_only() -> None:
    data = SPEC.encode()
    for size in range(32, len(data)):
        expected = 0 if size < 32 + 2 * SIZE else 2 if size < 32 + 4 * SIZE else 3
        found = found_by_ours(data[:size], padded=size % 50 == 0)
        assert found == committed(data[:size])
        assert found
        assert found[0] == expected


@pytest.mark.parametrize("where", range(5))
def test_frames_of_other_salts_end_the_wal(where: int) -> None:
    data = bytearray(SPEC.encode())
    data[32 + where * SIZE + 8] ^= 0x40
    found = found_by_ours(bytes(data))
    assert found == committed(bytes(data))
    assert found
    assert found[0] == (0, 0, 2, 2, 3)[where]


def test_an_old_run_behind_a_new_one_is_not_read() -> None:
    old = replace(SPEC, frames=[*SPEC.frames[:4], Frame(4, FIVE, 4)], salts=b"AAAABBBB").encode()
    new = replace(SPEC, frames=SPEC.frames[:2], salts=b"AAABCCCC").encode()
    both = new + old[len(new) :]
    assert found_by_ours(both) == committed(both) == found_by_ours(new)


def test_a_frame_of_page_0_ends_the_wal_though_its_checksum_is_right() -> None:
    data = replace(SPEC, frames=[Frame(1, ONE, 1), Frame(0, TWO), Frame(2, THREE, 2)]).encode()
    assert found_by_ours(data) == committed(data) == (1, {1: 56}, 32 + SIZE)


@pytest.mark.parametrize(
    "data", [b"", SPEC.encode()[:32], replace(SPEC, frames=[Frame(1, ONE)] * 3).encode()]
)
def test_a_wal_without_a_commit_holds_nothing(data: bytes) -> None:
    assert found_by_ours(data) in (None, (0, {}, 32))


def test_batches_end_anywhere_without_losing_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = pages(3, 4)
    frames = [Frame(1 + place % 5, noise[place % 4], 5 if place % 3 == 2 else 0) for place in range(23)]
    data = replace(SPEC, frames=frames).encode()
    for count in range(1, 26):
        monkeypatch.setattr(wal, "_BATCH_SIZE", count * SIZE)
        assert found_by_ours(data) == committed(data), count
        assert found_by_ours(data, padded=False) == committed(data), count


def test_a_long_wal_is_read_in_pieces_of_4_mib() -> None:
    frames = [Frame(1, bytes(65536), 1)] * 100
    data = WALSpec(frames=frames, page_size=65536).encode()
    read = reader(data)
    header = WALHeader.unpack(data)
    assert header
    assert committed_frames(read, header).end == len(data)
    assert read.most <= 4 << 20


def test_a_limit_hides_what_lies_beyond_it() -> None:
    """Frames that were written after a pin began are there, and do not count."""
    data = SPEC.encode()
    header = WALHeader.unpack(data)
    assert header
    for limit in range(len(data) + SIZE):
        frames = committed_frames(reader(data, padded=False), header, limit=limit)
        whole = data[: max(32, min(limit, len(data)))]
        assert (frames.commit, frames.end) == (committed(whole) or ())[::2], limit


def test_reading_goes_on_at_any_commit_with_the_checksum_that_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = pages(5, 3)
    frames = [Frame(1 + place % 4, noise[place % 3], 4 if place % 4 == 1 else 0) for place in range(18)]
    data = replace(SPEC, frames=frames, magic=BIG).encode()
    header = WALHeader.unpack(data)
    assert header
    monkeypatch.setattr(wal, "_BATCH_SIZE", 3 * SIZE)
    read = reader(data)
    for limit in range(32 + 2 * SIZE, len(data) + 1, SIZE):
        before = committed_frames(read, header, limit=limit)
        assert before.checksum
        heads, pieces = [], b""
        for some, piece in valid_frames(read, header, before.end, before.checksum):
            heads += some[:, 0].tolist()
            pieces += piece[: len(some) * SIZE]
        assert pieces == data[before.end :]
        assert heads == [frame.pgno for frame in frames[(before.end - 32) // SIZE :]]
        one, two = before.checksum
        assert not list(valid_frames(read, header, before.end, (one ^ 1, two)))


@st.composite
def wals(draw: st.DrawFn) -> bytes:
    """Draw a WAL of 512-byte pages, perhaps with the rest of an older one behind it, and damage."""
    noise = pages(4, 3)

    def run() -> bytes:
        frames = draw(
            st.lists(
                st.builds(Frame, st.integers(1, 6), st.sampled_from(noise), st.sampled_from([0, 0, 1, 6])),
                max_size=8,
            )
        )
        magic, salts = draw(st.sampled_from([LITTLE, BIG])), draw(st.binary(min_size=8, max_size=8))
        return WALSpec(frames=frames, magic=magic, salts=salts).encode()

    old, new = run(), run()
    data = bytearray(new + old[len(new) :])
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@fewer(1)
@given(wals(), st.booleans())
def test_any_wal_is_read_as_the_plain_rules_say(data: bytes, padded: bool) -> None:
    assert found_by_ours(data, padded=padded) == committed(data)


def overlaid(path: Path) -> bytes:
    """Put a real database together from its file and what we find in its WAL."""
    data = Path(f"{path}-wal").read_bytes()
    found = found_by_ours(data)
    assert found == committed(data)
    assert found
    commit, offsets, _ = found
    file = path.read_bytes()
    page_size = int.from_bytes(data[8:12], "big")
    whole = bytearray(file.ljust(commit * page_size, b"\0")[: commit * page_size])
    for pgno, offset in offsets.items():
        if pgno <= commit:
            whole[(pgno - 1) * page_size : pgno * page_size] = data[offset : offset + page_size]
    return bytes(whole)


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
def test_sqlites_own_wals_give_the_database_that_sqlite_reads(page_size: int, tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=page_size)
    with connected(path) as db:
        fill(db, 20, size=page_size)
        db.execute("UPDATE t SET a = a + 1 WHERE id % 3 = 0")
        assert overlaid(path) == image(path)
        db.execute("DELETE FROM t WHERE id > 4; VACUUM")
        assert overlaid(path) == image(path)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        fill(db, 2)  # begins the WAL anew: older frames lie behind
        assert os.path.getsize(f"{path}-wal") > 32 + 3 * (24 + page_size)
        assert overlaid(path) == image(path)


def test_what_an_open_transaction_spilled_does_not_count(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", page_size=512)
    with connected(path) as db:
        fill(db, 30)
        before, size = image(path), os.path.getsize(f"{path}-wal")
        db.execute("PRAGMA cache_size = 3; PRAGMA cache_spill = 3; BEGIN; UPDATE t SET b = randomblob(400)")
        assert os.path.getsize(f"{path}-wal") > size + 10 * SIZE
        assert overlaid(path) == image(path) == before
        db.execute("ROLLBACK; UPDATE t SET a = 77 WHERE id = 1")
        assert overlaid(path) == image(path) != before
        assert scalar(db, "SELECT a FROM t WHERE id = 1") == 77
