"""Timestamps as object metadata: RFC 3339 in UTC, as Litestream writes them."""

import re
from datetime import UTC, datetime

__all__ = ["format_ms", "parse_ms"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")


def format_ms(timestamp_ms: int) -> str:
    """Write milliseconds since 1970 like Go's RFC3339Nano, without zeros at the end of the fraction."""
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    fraction = f".{milliseconds:03}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def parse_ms(text: str) -> int | None:
    """Read a time of up to nanoseconds and any offset, rounded down to milliseconds; None where it is none."""
    if not (match := _TIME.fullmatch(text.strip())):
        return None
    day, time, fraction, offset = match.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{time}{offset.upper().replace('Z', '+00:00')}")
    except ValueError:
        return None
    return int(whole.timestamp()) * 1000 + int((fraction or "0").ljust(9, "0")) // 1_000_000
