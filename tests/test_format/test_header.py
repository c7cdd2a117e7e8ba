"""A header that exists is valid, packs to 100 bytes, and reads back as it was."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx.errors import CorruptError, TruncatedError, UnsupportedVersionError
from ltx.format import HEADER_SIZE, NO_CHECKSUM, TXID, Header, lock_page, to_datetime, to_timestamp_ms
from tests.support.ltxfiles import ALL_PAGE_SIZES, FLAG, FileSpec
from tests.support.strategies import fewer, file_specs

BASE = FileSpec(page_size=4096, commit=7, min_txid=2, max_txid=5, timestamp_ms=1_700_000_000_123)

REJECTED = {
    "flag 1": ({"flags": 1}, 4),
    "flag 4": ({"flags": 4}, 4),
    "a known flag beside an unknown one": ({"flags": 0x80000002}, 4),
    "page size 0": ({"page_size": 0}, 8),
    "page size 256": ({"page_size": 256}, 8),
    "page size 513": ({"page_size": 513}, 8),
    "page size 3 x 512": ({"page_size": 1536}, 8),
    "page size 131072": ({"page_size": 131072}, 8),
    "page size 2^31": ({"page_size": 1 << 31}, 8),
    "min TXID 0": ({"min_txid": 0, "max_txid": 3}, 16),
    "both TXIDs 0": ({"min_txid": 0, "max_txid": 0}, 16),
    "min TXID over max TXID": ({"min_txid": 6}, 16),
    "negative WAL offset": ({"wal_offset": -1}, 48),
    "negative WAL size": ({"wal_offset": 32, "wal_size": -1}, 56),
    "WAL size without WAL offset": ({"wal_size": 1}, 48),
    "first salt without WAL offset": ({"wal_salt1": 1}, 48),
    "second salt without WAL offset": ({"wal_salt2": 1}, 48),
    "pre-apply checksum without checksums": ({"pre_checksum": FLAG | 1}, 40),
    "pre-apply checksum in a snapshot": ({"min_txid": 1, "flags": 0, "pre_checksum": FLAG | 1}, 40),
    "no pre-apply checksum in an increment with checksums": ({"flags": 0}, 40),
    "pre-apply checksum without bit 63": ({"flags": 0, "pre_checksum": FLAG - 1}, 40),
}

ACCEPTED = {
    "as it is": {},
    "flags 0 and a pre-apply checksum": {"flags": 0, "pre_checksum": FLAG},
    "flags 0 in a snapshot": {"flags": 0, "min_txid": 1},
    "commit 0": {"commit": 0},
    "the largest commit": {"commit": (1 << 32) - 1},
    "time 0": {"timestamp_ms": 0},
    "a time before 1970": {"timestamp_ms": -5},
    "the largest TXID": {"max_txid": (1 << 64) - 1},
    "WAL offset alone": {"wal_offset": 32},
    "all WAL fields": {"wal_offset": 32, "wal_size": 4120, "wal_salt1": 1, "wal_salt2": (1 << 32) - 1},
    "a node id": {"node_id": (1 << 64) - 1},
    "reserved bytes": {"reserved": b"\xff" * 20},
}

TOO_BIG = {
    "commit": (1 << 32, 12),
    "max_txid": (1 << 64, 16),
    "timestamp_ms": (1 << 63, 32),
    "pre_checksum": (1 << 64 | FLAG, 40),
    "wal_offset": (1 << 63, 48),
    "wal_size": (1 << 63, 56),
    "wal_salt1": (1 << 32, 64),
    "wal_salt2": (1 << 32, 64),
    "node_id": (1 << 64, 72),
}


@pytest.mark.parametrize("name", REJECTED)
def test_each_wrong_field_is_refused_with_its_offset(name: str) -> None:
    changes, offset = REJECTED[name]
    data = replace(BASE, **changes).header  # type: ignore[arg-type]
    with pytest.raises(CorruptError) as caught:
        Header.unpack(data)
    assert caught.value.offset == offset


@pytest.mark.parametrize("name", ACCEPTED)
def test_each_legal_header_is_read_field_by_field(name: str) -> None:
    spec = replace(BASE, **ACCEPTED[name])  # type: ignore[arg-type]
    header = Header.unpack(spec.header)
    assert (
        header.page_size,
        header.commit,
        header.min_txid,
        header.max_txid,
        header.timestamp_ms,
        header.flags,
        header.pre_checksum,
        header.wal_offset,
        header.wal_size,
        header.wal_salt1,
        header.wal_salt2,
        header.node_id,
    ) == (
        spec.page_size,
        spec.page_count,
        spec.min_txid,
        spec.last_txid,
        spec.timestamp_ms,
        spec.flags,
        spec.pre_checksum,
        spec.wal_offset,
        spec.wal_size,
        spec.wal_salt1,
        spec.wal_salt2,
        spec.node_id,
    )


@pytest.mark.parametrize("field", TOO_BIG)
@pytest.mark.parametrize("negative", [False, True])
def test_a_field_that_does_not_fit_is_refused_when_the_header_is_made(field: str, negative: bool) -> None:
    value, offset = TOO_BIG[field]
    good = Header(
        page_size=512,
        commit=1,
        min_txid=TXID(2),
        max_txid=TXID(2),
        timestamp_ms=0,
        flags=0 if field == "pre_checksum" else NO_CHECKSUM,
        pre_checksum=FLAG if field == "pre_checksum" else 0,
        wal_offset=32,
    )
    wrong = -value - 1 if negative else value
    with pytest.raises(CorruptError) as caught:
        replace(good, **{field: wrong})  # type: ignore[arg-type]
    assert caught.value.offset == offset


@fewer(3)
@given(file_specs())
def test_every_valid_header_packs_to_the_bytes_it_was_read_from(spec: FileSpec) -> None:
    header = Header.unpack(spec.header)
    assert header.pack() == spec.header[:80] + bytes(20)
    assert Header.unpack(header.pack()) == header
    assert header.is_snapshot == (spec.min_txid == 1)
    assert header.has_checksums == (spec.flags == 0)


@given(st.binary(max_size=130))
def test_random_bytes_are_no_header(data: bytes) -> None:
    with pytest.raises((CorruptError, UnsupportedVersionError)):
        Header.unpack(data)


def test_a_header_that_is_cut_short_says_where() -> None:
    for size in range(HEADER_SIZE):
        with pytest.raises(TruncatedError) as caught:
            Header.unpack(BASE.header[:size])
        assert caught.value.offset == size


def test_another_version_is_told_from_another_format() -> None:
    for magic in (b"LTX0", b"LTX2", b"LTXa"):
        with pytest.raises(UnsupportedVersionError, match="version"):
            Header.unpack(replace(BASE, magic=magic).header)
    for magic in (b"SQLi", b"LTx1", b"\0\0\0\0"):
        with pytest.raises(CorruptError, match="not an LTX file") as caught:
            Header.unpack(replace(BASE, magic=magic).header)
        assert caught.value.offset == 0


def test_the_lock_page_of_each_page_size() -> None:
    assert {size: lock_page(size) for size in ALL_PAGE_SIZES} == {
        512: 2097153,
        1024: 1048577,
        2048: 524289,
        4096: 262145,
        8192: 131073,
        16384: 65537,
        32768: 32769,
        65536: 16385,
    }


def test_times_are_cut_to_milliseconds_and_clamped_to_the_calendar() -> None:
    assert to_datetime(1_700_000_000_123) == datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)
    assert to_timestamp_ms(datetime(2023, 11, 14, 22, 13, 20, 123999, tzinfo=UTC)) == 1_700_000_000_123
    assert to_datetime((1 << 63) - 1).year == 9999
    assert to_datetime(-(1 << 63)).year == 1
    with pytest.raises(TypeError):
        to_timestamp_ms(datetime(2023, 11, 14))


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_every_time_comes_back_to_the_millisecond(time: datetime) -> None:
    found = to_datetime(to_timestamp_ms(time))
    assert found == time.replace(microsecond=time.microsecond // 1000 * 1000)
