"""What people write for a time, and what it means."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ltx.replica import format_time, parse_time

NOW = datetime(2026, 11, 22, 14, 52, 10, tzinfo=UTC)
"""A Sunday."""


NO_TIMES = (
    *("", "   ", "\0", "garbage", "first", "earliest", "latest", "txid:5", "half a minute ago"),
    *(
        "2026-13-45",
        "25:61",
        "0x5",
        "5",
        "12",
        "31",
        "0",
        "-5",
        "@5",
        "5\n",
        "2026",
        "2026-11",
        "12.30",
        "5-6",
        "1 2",
    ),
    *("1e9", "inf", "nan", "a", "one", "may", "november", "ff", "dead", "bla", "x", "yesterdayish"),
    *("5 minutes ago ago", "--1h", "- -1h", "+-5m", "yesterday 25:00", "yesterday 12:60", "today 10:00:61"),
    *("12345678901", "99999999999999", "1795359130000000"),
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", 0),
        ("just now", 0),
        ("today", 0),
        ("-20s", 20),
        ("-20 seconds", 20),
        ("20 secs", 20),
        ("30s ago", 30),
        ("20 seconds ago", 20),
        ("1m", 60),
        ("a minute ago", 60),
        ("1.5 minutes ago", 90),
        ("5 min ago", 300),
        ("5 minutes ago", 300),
        ("5m ago", 300),
        ("  5 minutes ago ", 300),
        ("5 MINUTES AGO", 300),
        ("-1h", 3600),
        ("an hour", 3600),
        ("2 hours ago", 7200),
        ("yesterday", 86_400),
        ("1 day ago", 86_400),
        ("last week", 7 * 86_400),
        ("hace 1 minuto", 60),
        ("vor 1 Minute", 60),
        ("il y a 5 minutes", 300),
        ("5分前", 300),
    ],
)
def test_relative_times_count_from_now(text: str, seconds: int) -> None:
    assert parse_time(text, now=NOW) == NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T14:52:10Z", NOW),
        ("2026-11-22T14:52:10z", NOW),
        ("2026-11-22 14:52:10", NOW),
        ("2026-11-22T14:52:10", NOW),
        ("20261122T145210Z", NOW),
        ("2026-11-22T16:52:10+02:00", NOW),
        ("2026-11-22 14:52:10+0000", NOW),
        ("22 Nov 2026 14:52:10 UTC", NOW),
        ("2026-11-22T14:52:10.123Z", NOW + timedelta(milliseconds=123)),
        ("2026-11-22T14:52:10.123456789Z", NOW + timedelta(microseconds=123_456)),
        ("1795359130", NOW),
        ("1795359130.5", NOW + timedelta(milliseconds=500)),
        ("1795359130123", NOW + timedelta(milliseconds=123)),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("20261122", datetime(2026, 11, 22, tzinfo=UTC)),
        ("22 November 2026", datetime(2026, 11, 22, tzinfo=UTC)),
        ("13/12/2026", datetime(2026, 12, 13, tzinfo=UTC)),
        ("12/13/2026", datetime(2026, 12, 13, tzinfo=UTC)),
        ("11/11/2026", datetime(2026, 11, 11, tzinfo=UTC)),
        ("15:00", datetime(2026, 11, 22, 15, tzinfo=UTC)),
        ("22 Nov", datetime(2026, 11, 22, tzinfo=UTC)),
        ("14:52:10", NOW),
        ("noon", NOW.replace(hour=12, minute=0, second=0)),
        ("midnight", NOW.replace(hour=0, minute=0, second=0)),
        ("monday", datetime(2026, 11, 16, tzinfo=UTC)),
        ("yesterday 14:00", datetime(2026, 11, 21, 14, tzinfo=UTC)),
    ],
)
def test_absolute_times_are_utc_unless_they_say_otherwise(text: str, expected: datetime) -> None:
    found = parse_time(text, now=NOW)
    assert found == expected
    assert found.tzinfo


@pytest.mark.parametrize(
    "text",
    [
        "0000000000000001",
        "00000000000000ff",
        "00000000000000FF",
        " 0000000000000005 ",
        "1234567890123456",
        "0000000000000001-0000000000000002",
        "00000000000000010000000000000002",
    ],
)
def test_a_txid_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        parse_time(text, now=NOW)


@pytest.mark.parametrize(
    "text",
    NO_TIMES,
)
@pytest.mark.parametrize("now", [NOW, NOW.replace(month=1), NOW.replace(month=5)], ids=["Nov", "Jan", "May"])
def test_what_names_no_day_and_no_time_of_day_is_refused_with_an_example(text: str, now: datetime) -> None:
    with pytest.raises(ValueError, match="2026-11-22T14:52:10Z, Unix seconds") as caught:
        parse_time(text, now=now)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "in 5 minutes",
            "in 30 seconds",
            "5 minutes later",
            "5 minutes from now",
            "+1h",
            "tomorrow",
            "next week",
        ),
        *("dans 5 minutes", "in 5 Minuten", "morgen", "через 5 минут", "5分後", "5 dakika sonra"),
    ],
)
def test_words_that_count_from_now_never_mean_the_future(text: str) -> None:
    with pytest.raises(ValueError, match="no state is in the future: ") as caught:
        parse_time(text, now=NOW)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("01/12/2026", "2026-12-01 or 2026-01-12"),
        ("11/12/2026 10:00", "2026-12-11 or 2026-11-12"),
        ("1.12.2026", "2026-12-01 or 2026-01-12"),
        ("01-12-26", "2026-12-01 or 2026-01-12"),
    ],
)
def test_a_date_that_can_be_read_in_two_ways_is_refused(text: str, ways: str) -> None:
    with pytest.raises(ValueError, match=f"; write {ways}$") as caught:
        parse_time(text, now=NOW)
    assert repr(text) in str(caught.value)


def test_a_datetime_is_taken_as_it_is_and_is_utc_without_a_zone() -> None:
    zoned = NOW.astimezone(timezone(timedelta(hours=2)))
    assert parse_time(zoned) is zoned
    assert parse_time(NOW.replace(tzinfo=None)) == NOW


def test_relative_times_count_from_the_clock_where_nothing_else_is_said() -> None:
    before = datetime.now(UTC)
    found = parse_time("5 minutes ago")
    assert before <= found + timedelta(minutes=5) <= datetime.now(UTC)


def test_a_time_is_written_to_the_millisecond_and_read_back() -> None:
    time = NOW + timedelta(microseconds=7_999)
    assert format_time(time) == "2026-11-22T14:52:10.007Z"
    assert parse_time(format_time(time)) == time.replace(microsecond=7_000)
    assert format_time(NOW.astimezone(timezone(timedelta(hours=-5)))) == "2026-11-22T14:52:10.000Z"
