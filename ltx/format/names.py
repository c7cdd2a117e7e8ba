"""TXIDs and the names of LTX files: `0000000000000001-00000000000000ff.ltx`."""

import re
from typing import NewType

__all__ = ["MAX_TXID", "SUFFIX", "TXID", "file_name", "format_txid", "parse_file_name", "parse_txid"]

TXID = NewType("TXID", int)
"""The number of a committed transaction, from 1; in text always 16 lower-case hex digits."""

MAX_TXID = TXID((1 << 64) - 1)
SUFFIX = ".ltx"

_TXID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]+", re.ASCII)
_HEX = re.compile(r"(0x)?[0-9a-fA-F]+", re.ASCII)
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx", re.ASCII)


def format_txid(txid: int) -> str:
    """Return the text form: 16 lower-case hex digits."""
    return f"{txid:016x}"


def parse_txid(text: str) -> TXID:
    """Return the TXID that 16 lower-case hex digits mean.

    Nothing shorter is guessed at: `42` may be a decimal number, or a hex one without its zeros.

    Raises:
        ValueError: The text is anything else, or zero; the message says how what it may mean is written.
    """
    if not _TXID.fullmatch(text) or int(text, 16) == 0:
        raise ValueError(
            f"a TXID is 16 lower-case hex digits and not zero, such as {1:016x}: {text!r}{_meant(text)}"
        )
    return TXID(int(text, 16))


def _meant(text: str) -> str:
    """Say how numbers that a text may mean are written."""
    found = {
        f"{number:016x}": f" as a {name} number"
        for name, pattern, base in (("decimal", _DECIMAL, 10), ("hex", _HEX, 16))
        if pattern.fullmatch(text) and 0 < (number := int(text, base)) <= MAX_TXID
    }
    if len(found) == 1:
        return f" is written {next(iter(found))}"
    return " is written " + " and ".join(f"{txid}{what}" for txid, what in found.items()) if found else ""


def file_name(min_txid: int, max_txid: int) -> str:
    """Return the name of the file that holds the TXIDs `min_txid` to `max_txid`, both included."""
    return f"{min_txid:016x}-{max_txid:016x}{SUFFIX}"


def parse_file_name(name: str) -> tuple[TXID, TXID] | None:
    """Return the first and last TXID that a file's name states, or None where it is no LTX file's name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    low, high = int(match[1], 16), int(match[2], 16)
    return (TXID(low), TXID(high)) if 1 <= low <= high else None
