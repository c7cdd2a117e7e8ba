"""TXIDs and file names as text, both ways, and nothing else taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx.format import MAX_TXID, file_name, format_txid, parse_file_name, parse_txid

txids = st.integers(1, MAX_TXID)


@given(txids)
def test_a_txid_comes_back_from_its_text(txid: int) -> None:
    text = format_txid(txid)
    assert len(text) == 16
    assert text == text.lower()
    assert parse_txid(text) == txid


@given(txids, txids)
def test_a_file_name_comes_back_as_its_txids(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert parse_file_name(file_name(low, high)) == (low, high)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "0000000000000000",
        "000000000000001",
        "00000000000000001",
        "000000000000000A",
        "0x00000000000001",
        "+000000000000001",
        "-000000000000001",
        " 000000000000001",
        "0000000000000001\n",
        "0000_00000000001",
        "\u0660" * 15 + "\u0661",
    ],
)
def test_a_txid_is_exactly_16_lower_case_hex_digits_and_not_zero(text: str) -> None:
    with pytest.raises(ValueError, match="16 lower-case hex digits"):
        parse_txid(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("42", "is written 000000000000002a as a decimal number and 0000000000000042 as a hex number"),
        ("7", "is written 0000000000000007"),
        ("2a", "is written 000000000000002a"),
        ("0x2A", "is written 000000000000002a"),
        ("000000000000002A", "is written 000000000000002a"),
        ("9" * 30, f"'{'9' * 30}'"),
        ("0", "'0'"),
    ],
)
def test_what_a_short_number_may_mean_is_said_and_not_guessed(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"{meant}$"):
        parse_txid(text)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0000000000000001-0000000000000001",
        "0000000000000001-0000000000000001.LTX",
        "0000000000000001-0000000000000001.ltx.tmp",
        "0000000000000001-0000000000000001.ltx\n",
        "x0000000000000001-0000000000000001.ltx",
        "000000000000000A-000000000000000A.ltx",
        "0000000000000002-0000000000000001.ltx",
        "0000000000000000-0000000000000001.ltx",
        "0000000000000001_0000000000000001.ltx",
        "00000000000000001-00000000000000001.ltx",
        "1-1.ltx",
        "ltx/0/0000000000000001-0000000000000001.ltx",
    ],
)
def test_other_names_are_no_ltx_files(name: str) -> None:
    assert parse_file_name(name) is None


@given(st.from_regex(r"\A[0-9a-f]{15,17}-[0-9a-f]{15,17}\.ltx?\Z") | st.text("01f-.ltx", max_size=40))
def test_any_text_is_a_name_or_none(text: str) -> None:
    found = parse_file_name(text)
    assert found is None or file_name(*found) == text
