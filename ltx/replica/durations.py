"""Lengths of time as Go writes them, since that is how the real Litestream's users do: `24h`, `1h30m`, `250ms`."""

import re
from datetime import timedelta

__all__ = ["parse_duration", "parse_seconds"]

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LONGEST_S = 1 << 31

# Compiled at their first use: most queries name no length of time.
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_WHOLE = rf"([-+]?)((?:{_PART})+|0)"
_NUMBER = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(e-[0-9]+)?"


def parse_duration(text: str) -> timedelta:
    """Read a length of time: numbers with a unit each, of h, m, s, ms, us and ns; `0` needs none.

    Parts of a microsecond are rounded; what is not 0 stays so.

    Raises:
        ValueError: It is none, or too long.
    """
    from fractions import Fraction  # most queries do without

    match = re.fullmatch(_WHOLE, text)
    if match is None:
        raise ValueError(f"a time is written such as 24h, 5m, 90s, 250ms or 1h30m; not {text!r}")
    length_ns = sum(
        (Fraction(count) * _UNITS_NS[unit] for count, unit in re.findall(_PART, match[2])), Fraction(0)
    )
    microseconds = max(1, round(length_ns / 1000)) if length_ns else 0
    try:
        return timedelta(microseconds=-microseconds if match[1] == "-" else microseconds)
    except OverflowError:
        raise ValueError(f"that is too long a time: {text!r}") from None


def parse_seconds(text: str) -> float:
    """Read an interval: a number of seconds, or a length of time as `parse_duration` has it. It is not negative.

    Raises:
        ValueError: It is none.
    """
    try:
        seconds = float(text) if re.fullmatch(_NUMBER, text) else parse_duration(text).total_seconds()
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < _LONGEST_S:
        raise ValueError(f"an interval is a number of seconds, or such as 500ms, 5s or 1m30s; not {text!r}")
    return seconds
