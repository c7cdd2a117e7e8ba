"""A replica is written, merged, made snapshots of and pruned as time goes by: the window can always be restored."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from backends.memory import MemoryBackend
from ltx import Replica
from ltx.format import to_timestamp_ms
from ltx.replica.compaction import compact, snapshot
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.levels import LevelPolicy, due_levels, window_start
from ltx.replica.retention import RetentionPolicy, Verified, retain
from tests.support.strategies import fewer
from tests.test_replica.histories import History, store
from tests.test_replica.upkeep import at, checked, txids

_names = count()
_HISTORIES = [History.random(40, seed=seed) for seed in range(3)]

seconds = st.integers(1, 60).map(lambda number: timedelta(seconds=number))


@dataclass
class Life:
    """A replica, and when each of its transactions was committed."""

    history: History
    levels: LevelPolicy
    policy: RetentionPolicy
    whole_windows: bool
    commits: list[datetime] = field(default_factory=list)
    last: dict[int, datetime] = field(default_factory=dict)
    verified: Verified = field(default_factory=Verified)

    def __post_init__(self) -> None:
        self.backend = MemoryBackend(f"life {next(_names)}")
        self.replica = Replica(self.backend)

    def commit(self, now: datetime) -> None:
        """Put the next transaction on level 0."""
        self.commits.append(now)
        spec = self.history.specs[len(self.commits) - 1]
        store(self.backend, 0, replace(spec, timestamp_ms=to_timestamp_ms(now)))

    def tick(self, now: datetime) -> None:
        """Do what a daemon does."""
        for level in due_levels(self.levels, self.last, now) if self.commits else ():
            self.last[level] = now
            if level == SNAPSHOT_LEVEL:
                snapshot(self.replica)
            else:
                start = window_start(now, self.levels.interval(level)) if self.whole_windows else None
                compact(self.replica, level, policy=self.levels, before=start, now=now)
        retain(self.replica, self.policy, now=now, verified=self.verified)

    def check_window(self, now: datetime) -> None:
        """Ask for every moment of the window at which something was committed, and for its beginning."""
        assert self.policy.window is not None
        assert self.policy.level0 is not None
        begin = now - self.policy.window
        reachable = set(txids(self.replica))
        assert len(self.commits) in reachable
        for moment in (max(begin, self.commits[0]), *(time for time in self.commits if time >= begin)):
            found = self.replica.plan(at=moment).txid
            committed = sum(time <= moment for time in self.commits)
            if moment > now - self.policy.level0:
                assert found == committed
            # Nothing older than the last transaction of the interval before.
            before = window_start(moment, self.levels.interval(1))
            assert sum(time < before for time in self.commits) <= found <= committed

    def close(self) -> None:
        self.backend.delete([info.key for info in self.backend.list()])


@st.composite
def lives(draw: st.DrawFn) -> tuple[Life, Sequence[timedelta]]:
    """Draw a life and the time between its ticks and commits: a tick each, and a commit at every second or so."""
    intervals = draw(st.lists(seconds, min_size=1, max_size=3).map(sorted))
    snapshot_interval = draw(seconds)
    window = draw(st.one_of(st.just(snapshot_interval), seconds))
    life = Life(
        draw(st.sampled_from(_HISTORIES)),
        LevelPolicy(tuple(intervals), snapshot_interval),
        RetentionPolicy(window, draw(seconds), draw(st.sampled_from((None, timedelta(0))))),
        draw(st.booleans()),
    )
    steps = draw(st.lists(st.integers(1, 30_000), min_size=5, max_size=40))
    return life, [timedelta(milliseconds=step) for step in steps]


@fewer(1)
@given(lives(), st.data())
def test_every_moment_of_the_window_can_be_restored_whatever_the_intervals(
    drawn: tuple[Life, Sequence[timedelta]], data: st.DataObject
) -> None:
    life, steps = drawn
    now = at(0)
    for step in steps:
        now += step
        if not life.commits or data.draw(st.booleans()):
            life.commit(now)
        life.tick(now)
        life.check_window(now)
    with tempfile.TemporaryDirectory() as folder:
        checked(life.replica, life.history, Path(folder))
    assert life.replica.verify().is_sound
    life.close()


@fewer(2)
@given(lives())
def test_nothing_grows_for_ever_and_nothing_lies_on_three_levels(
    drawn: tuple[Life, Sequence[timedelta]],
) -> None:
    life, steps = drawn
    now = at(0)
    for step in steps:
        now += step
        life.commit(now)
        life.tick(now)
        same: dict[tuple[int, int], int] = {}
        for file in life.replica.files():
            same[file.min_txid, file.max_txid] = same.get((file.min_txid, file.max_txid), 0) + 1
        assert max(same.values()) <= 2
    for _ in range(4):  # idle from here on
        now += timedelta(hours=1)
        life.tick(now)
    assert len(life.replica.files()) <= 2 * (len(life.levels.intervals) + 2)
    life.check_window(now)
    life.close()
