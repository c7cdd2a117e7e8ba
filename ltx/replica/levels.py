"""When each level is due: windows of time counted from 1970, as the real Litestream counts them.

Everything here is a function of the time it is given; whoever calls has the clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.replica import Replica

__all__ = ["LevelPolicy", "due_levels", "is_due", "newest_times", "next_due", "window", "window_start"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_LEVELS = SNAPSHOT_LEVEL - 1


@dataclass(frozen=True, slots=True)
class LevelPolicy:
    """How often levels are merged. The defaults are the real Litestream's.

    Attributes:
        intervals: Of level 1, of level 2, and so on: at most 8.
        snapshot_interval: From snapshot to snapshot.

    Raises:
        ValueError: An interval is not positive, or there are more than 8 or none.
    """

    intervals: tuple[timedelta, ...] = (timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=1))
    snapshot_interval: timedelta = timedelta(hours=24)

    def __post_init__(self) -> None:
        if not 1 <= len(self.intervals) <= _MOST_LEVELS:
            raise ValueError(f"there are 1 to {_MOST_LEVELS} levels, not {len(self.intervals)}")
        for interval in (*self.intervals, self.snapshot_interval):
            if interval < timedelta(milliseconds=1):
                raise ValueError(f"an interval is at least a millisecond, not {interval}")

    @property
    def levels(self) -> Sequence[int]:
        """The levels that are merged, from the lowest."""
        return range(1, len(self.intervals) + 1)

    def interval(self, level: int) -> timedelta:
        """Return the interval of one of the levels, or of level 9, the snapshots.

        Raises:
            ValueError: There is no such level.
        """
        if level == SNAPSHOT_LEVEL:
            return self.snapshot_interval
        if level not in self.levels:
            raise ValueError(f"levels 1 to {len(self.intervals)} and {SNAPSHOT_LEVEL} are made, not {level}")
        return self.intervals[level - 1]


def window(time: datetime, interval: timedelta) -> int:
    """Return the number of the window that a time lies in: whole intervals since 1970."""
    return (time - _EPOCH) // interval


def window_start(time: datetime, interval: timedelta) -> datetime:
    """Return when the window began that a time lies in."""
    return _EPOCH + window(time, interval) * interval


def is_due(interval: timedelta, last: datetime | None, now: datetime) -> bool:
    """Say whether a window began since the last time, or now lies before it: a clock was set.

    Args:
        interval: Of the level.
        last: When the level was last looked after; None for never.
        now: The time.
    """
    return last is None or window(last, interval) != window(now, interval)


def due_levels(policy: LevelPolicy, last: Mapping[int, datetime], now: datetime) -> Sequence[int]:
    """Return the levels that are due, in the order to make them: 1 upwards, then 9.

    Args:
        policy: The intervals.
        last: When each level was last looked after; for levels that are not in it they are due.
        now: The time.
    """
    return [
        level
        for level in (*policy.levels, SNAPSHOT_LEVEL)
        if is_due(policy.interval(level), last.get(level), now)
    ]


def next_due(policy: LevelPolicy, now: datetime) -> datetime:
    """Return when the next window of any level begins: always later than now."""
    intervals = (policy.interval(level) for level in (*policy.levels, SNAPSHOT_LEVEL))
    return min(window_start(now, interval) + interval for interval in intervals)


def newest_times(replica: Replica, files: Sequence[LTXFile]) -> Mapping[int, datetime]:
    """Return the time of each level's newest file: where a process that starts takes up `last` from.

    One small request a level, for what is not cached.

    Args:
        replica: The replica.
        files: Its files.

    Raises:
        CorruptError: The header of one is damaged.
        NotFoundError: One is gone.
    """
    newest: dict[int, LTXFile] = {}
    for file in files:
        if file.level not in newest or file.max_txid > newest[file.level].max_txid:
            newest[file.level] = file
    headers = replica.headers(list(newest.values()))
    return {level: header.timestamp for level, header in zip(newest, headers, strict=True)}
