"""When levels are due."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.memory import MemoryBackend
from ltx import Replica
from ltx.replica.levels import LevelPolicy, due_levels, is_due, newest_times, next_due, window_start
from tests.test_replica.histories import History, time_of

POLICY = LevelPolicy()
NOON = datetime(2026, 9, 21, 12, tzinfo=UTC)

moments = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
intervals = st.timedeltas(timedelta(milliseconds=1), timedelta(days=40))


def test_the_defaults_are_those_of_the_real_litestream() -> None:
    minutes = [POLICY.interval(level) / timedelta(minutes=1) for level in (1, 2, 3, 9)]
    assert minutes == [0.5, 5, 60, 1440]
    assert list(POLICY.levels) == [1, 2, 3]


def test_intervals_count_from_1970() -> None:
    later = NOON + timedelta(minutes=7, seconds=44)
    assert window_start(later, timedelta(seconds=30)) == NOON + timedelta(minutes=7, seconds=30)
    assert window_start(later, timedelta(minutes=5)) == NOON + timedelta(minutes=5)
    assert window_start(later, timedelta(hours=24)) == NOON - timedelta(hours=12)


def test_each_level_is_due_once_in_each_of_its_windows() -> None:
    last: dict[int, datetime] = {}
    made = []
    now = NOON
    while now < NOON + timedelta(minutes=10, seconds=1):
        for level in due_levels(POLICY, last, now):
            last[level] = now
            made.append((level, (now - NOON).total_seconds()))
        assert next_due(POLICY, now) - now <= timedelta(seconds=30)
        now = next_due(POLICY, now)
    assert [time for level, time in made if level == 1] == [30.0 * place for place in range(21)]
    assert [time for level, time in made if level == 2] == [0, 300, 600]
    assert [time for level, time in made if level == 3] == [0]
    assert [time for level, time in made if level == 9] == [0]
    assert made[:4] == [(1, 0), (2, 0), (3, 0), (9, 0)]


@given(moments, moments, intervals)
def test_a_level_is_due_in_every_other_window_even_when_the_clock_was_set_back(
    last: datetime, now: datetime, interval: timedelta
) -> None:
    assert is_due(interval, None, now)
    start = window_start(now, interval)
    assert start <= now < start + interval
    assert is_due(interval, last, now) == (not start <= last < start + interval)


@given(moments)
def test_the_next_window_begins_later_than_now(now: datetime) -> None:
    following = next_due(POLICY, now)
    assert now < following <= now + timedelta(seconds=30)


@pytest.mark.parametrize("intervals", [(), (timedelta(0),), (timedelta(-1),), (timedelta(1),) * 9])
def test_intervals_that_make_no_sense_are_refused(intervals: tuple[timedelta, ...]) -> None:
    with pytest.raises(ValueError, match=r"interval|levels"):
        LevelPolicy(intervals)
    with pytest.raises(ValueError, match="interval"):
        LevelPolicy(snapshot_interval=timedelta(0))
    with pytest.raises(ValueError, match="not 4"):
        POLICY.interval(4)


def test_a_process_that_starts_takes_the_times_from_the_newest_files(
    backend: MemoryBackend, replica: Replica
) -> None:
    History.random(9).put(backend, "0:8", "0:9", "1:1-3", "1:4-8", "2:1-3", "9:1-2")
    files = replica.files()
    assert newest_times(replica, files) == {0: time_of(9), 1: time_of(8), 2: time_of(3), 9: time_of(2)}
    assert newest_times(replica, files)
    assert backend.stats.requests["get"] == 4
