"""Times: what people write, what files say, and which transaction was the last one at a time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from ltx.errors import NotReachableError
from ltx.format import TXID, format_txid

__all__ = ["format_time", "last_at", "parse_time"]

# Compiled at their first use: most queries name no time.
_UNIX = r"(?a)\d{9,10}(\.\d+)?"
_UNIX_MS = r"(?a)\d{12,13}"
_NO_TIME = r"[0-9a-fA-F]{16,}"
"""Reads as a TXID; dateparser would find a date in it."""

_LETTER_OR_PARTS = r"[^\W\d_]|:|\d\D+\d+\D+\d"
"""A word, a time of day, or a date of three numbers: dateparser makes a date of nearly any number."""

_TWO_WAYS = r"(?a)(?<!\d)(\d{1,2})([/. -])(\d{1,2})\2(\d{4}|\d\d)(?!\d)"
_TIME_OF_DAY = r"(?a)(\d+):(\d+)(?::(\d+))?"
_TWICE = r"(?i)[-+]\s*[-+]|\b([^\W\d_]+)\s+\1\b"
"""Two signs, or a word two times in a row: dateparser would pass over one."""

_LANGUAGES = [
    "en",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "nl",
    "da",
    "sv",
    "nb",
    "fi",
    "pl",
    "cs",
    "uk",
    "ru",
    "tr",
    "zh",
    "ja",
    "ko",
]
"""Of words. In all 200 that dateparser knows, `bla` is a Tuesday and `x` a month, and nonsense takes it seconds to refuse."""

_OTHER_MONTH = timedelta(days=40)

_MOVED = timedelta(seconds=1)
"""What counts from now moves with it."""

_PROBES = 7
"""Times asked for in parallel at each step of a search: 3,000 TXIDs take 4 steps."""


def parse_time(text: str | datetime, *, now: datetime | None = None) -> datetime:
    """Return the time that a text means.

    Args:
        text: RFC 3339, a date with or without a time (UTC unless it says otherwise), Unix seconds or
            milliseconds, or words such as `5 minutes ago`, `-1h`, `yesterday`, in English and 18 more languages. A datetime
            is returned as it is; without a zone it is UTC.
        now: What relative times count from; None for the clock.

    Raises:
        ValueError: The text means no time, two different ones, or words for one in the future.
    """
    if isinstance(text, datetime):
        return text if text.tzinfo else text.replace(tzinfo=UTC)
    words = text.strip()
    time = None
    if re.fullmatch(_UNIX, words):
        time = datetime.fromtimestamp(float(words), UTC)
    elif re.fullmatch(_UNIX_MS, words):
        time = datetime.fromtimestamp(int(words) / 1000, UTC)
    elif words and not re.fullmatch(_NO_TIME, words):
        time = _parse_iso(words) or _parse_words(words, now or datetime.now(UTC))
    if time is None:
        raise ValueError(
            f"not a time: {text!r}; write 2026-11-22T14:52:10Z, Unix seconds, or words such as '5 minutes ago'"
        )
    return time


def format_time(time: datetime) -> str:
    """Return a time in RFC 3339, UTC, to the millisecond: what `parse_time` reads back."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parse_iso(words: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(words)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _parse_words(words: str, now: datetime) -> datetime | None:
    """Read a time in words; what names neither a day nor a time of day, such as `may` or `5`, is none."""
    if _is_number(words) or not re.search(_LETTER_OR_PARTS, words) or _is_odd(words):
        return None
    _check_order(words)
    base = now.astimezone(UTC)
    found = _dateparser(words, base, REQUIRE_PARTS=["day"])
    if found is None and not any(_names_a_month(words, each) for each in (base, base - _OTHER_MONTH)):
        found = _dateparser(words, base)
    if found and found > base and _dateparser(words, base + _MOVED) == found + _MOVED:
        raise ValueError(f"no state is in the future: {words!r}; write 'now' for the newest one")
    return found


def _is_odd(words: str) -> bool:
    """Whether there is something in the text that dateparser would pass over: `yesterday 25:00` would be yesterday."""
    times = re.findall(_TIME_OF_DAY, words)
    wrong = any(int(hour) > 23 or int(minute) > 59 or int(second or 0) > 59 for hour, minute, second in times)
    return wrong or re.search(_TWICE, words) is not None


def _check_order(words: str) -> None:
    """Refuse a date that is one day in Europe and another in America."""
    found = re.search(_TWO_WAYS, words)
    if found is None:
        return
    one, other, year = int(found[1]), int(found[3]), int(found[4]) + (2000 if len(found[4]) == 2 else 0)
    if one != other and 0 < one <= 12 and 0 < other <= 12:
        raise ValueError(
            f"a date that can be read in two ways: {words!r}; write {year}-{other:02}-{one:02} or {year}-{one:02}-{other:02}"
        )


def _is_number(words: str) -> bool:
    try:
        float(words)
    except ValueError:
        return False
    return True


def _names_a_month(words: str, base: datetime) -> bool:
    """Whether a text means a whole month or year, to which dateparser adds the day of its base."""
    found = _dateparser(words, base)
    if found is None:
        return False
    midnight = (found.hour, found.minute, found.second, found.microsecond) == (0, 0, 0, 0)
    return midnight and found.day == base.day and found.date() != base.date()


def _dateparser(words: str, base: datetime, **settings: object) -> datetime | None:
    import dateparser  # takes 0.2 s at its first use

    settings |= {
        "TIMEZONE": "UTC",
        "TO_TIMEZONE": "UTC",
        "RETURN_AS_TIMEZONE_AWARE": True,
        "RELATIVE_BASE": base.replace(tzinfo=None),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dateparser's own, about its own use of datetime
        found: datetime | None = dateparser.parse(words, languages=_LANGUAGES, settings=settings)
    return found


def last_at(
    txids: Sequence[TXID], at: datetime, times_of: Callable[[Sequence[TXID]], Sequence[datetime]]
) -> TXID:
    """Return the last of the TXIDs whose time is not after `at`, by a search that asks for few times.

    Where the writer's clock never went back the answer is exact. Where it did, times are not in order; the
    answer is then a TXID with time <= `at` whose successor has a later one.

    Args:
        txids: Ascending, at least one.
        at: An aware time.
        times_of: Gives the times of some of the TXIDs; called with up to 7 at once.

    Raises:
        NotReachableError: Even the oldest is later.
    """
    low, high = -1, len(txids)  # txids[low] is early enough, txids[high] is not
    while high - low > 1:
        step = (high - low) / (_PROBES + 1)
        probes = sorted(
            {min(high - 1, max(low + 1, round(low + step * place))) for place in range(1, _PROBES + 1)}
        )
        for place, time in zip(probes, times_of([txids[place] for place in probes]), strict=True):
            if time <= at:
                low = place
            else:
                high = place
                break
    if low < 0:
        oldest = times_of([txids[0]])[0]
        raise NotReachableError(
            f"{format_time(at)} is before all that is kept; the oldest that can be restored is TXID "
            f"{format_txid(txids[0])} of {format_time(oldest)}",
            after=txids[0],
        )
    return txids[low]
