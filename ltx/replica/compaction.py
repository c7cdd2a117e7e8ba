"""Merging: the files of one level into fewer of the next, and all of them into a snapshot (docs/formats/compaction.md)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from backends import NotFoundError
from ltx.format import TXID, to_timestamp_ms
from ltx.replica.apply import FileError
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.levels import LevelPolicy
from ltx.replica.merging import Input, LocalFiles, Pile, Staged, opened
from ltx.replica.plan import extend, gap_error, reach_of
from ltx.replica.publish import publish
from ltx.replica.replica import Replica

__all__ = ["Compacted", "LocalFiles", "compact", "inputs_of", "snapshot"]

_T = TypeVar("_T")

_TRIES = 5
"""How often a merge begins anew when inputs vanish: others merge and prune at the same time."""

_CLOCKS_DIFFER_MS = 300_000


@dataclass(frozen=True, slots=True)
class Compacted:
    """One file that a merge made.

    Attributes:
        file: The file.
        time: When the last transaction in it was committed.
        page_count: Pages in it.
        inputs: What it was made of.
        is_new: False where an equal file was there already.
        passed_over: Keys of files that were damaged or gone, and that it did without.
    """

    file: LTXFile
    time: datetime
    page_count: int
    inputs: tuple[LTXFile, ...]
    is_new: bool
    passed_over: tuple[str, ...] = ()


def compact(
    replica: Replica,
    level: int,
    *,
    policy: LevelPolicy | None = None,
    before: datetime | None = None,
    files: Sequence[LTXFile] | None = None,
    local: LocalFiles | None = None,
    folder: Path | None = None,
    now: datetime | None = None,
) -> Sequence[Compacted]:
    """Merge what the level below has beyond this level's newest file. Nothing is deleted.

    Level 0 is pruned after minutes, so what level 1 keeps of it is what can be restored later: one file for each
    interval in which something was committed, also after hours without a merge. From level 2 on one file is made
    of all there is, and none of a single file: its copy would give nothing.

    Every input is verified whole before a file that it went into is published. It is safe to run this in several
    places at once, and to stop it anywhere: what is published stays true, and the next run goes on behind it.

    Args:
        replica: The replica.
        level: Where to, 1 to 8.
        policy: The intervals; None for the defaults. That of level 1 is what counts here.
        before: Leave files of transactions committed at this time or later for another run. With the start of the
            current window, runs in several places make the same files.
        files: The replica's files, where they were just listed; None lists them.
        local: A folder that still has the files of level 0, which are then not downloaded.
        folder: Where temporary files go; None for the system's place.
        now: The time; None for the clock.

    Returns:
        The files made, in order; none where there is nothing to do.

    Raises:
        CorruptError: An input is damaged. Nothing was made of it.
        GapError, NoSnapshotError: Files of the level below are missing, and nothing else has what they held.
        ConflictError: Somebody else wrote a different file under the same name.
        BackendError: The storage failed.
    """
    policy = policy or LevelPolicy()
    if not 1 <= level < SNAPSHOT_LEVEL:
        raise ValueError(f"levels 1 to {SNAPSHOT_LEVEL - 1} are merged from the one below, not level {level}")
    cut = _Cut.of(policy.interval(1) if level == 1 else None, before, now)
    made: list[Compacted] = []
    listed = files

    def attempt() -> None:
        nonlocal listed
        known, listed = replica.files() if listed is None else listed, None
        inputs, after = inputs_of(known, level)
        if len(inputs) >= _fewest(level):
            for each in _merge_runs(replica, level, inputs, after, cut, local, folder):
                made.append(each)  # noqa: PERF402 - what was made before an error counts

    _again(attempt, local)
    return made


def snapshot(
    replica: Replica, *, files: Sequence[LTXFile] | None = None, folder: Path | None = None
) -> Compacted | None:
    """Make a snapshot of the newest state from the replica's own files: a file of level 9 with every page.

    Every input is verified whole; one that is damaged or gone is planned around where others have its content.

    Args:
        replica: The replica.
        files: The replica's files, where they were just listed; None lists them.
        folder: Where temporary files go, at least as big as the snapshot; None for the system's place.

    Returns:
        The snapshot; None where there is one of the newest state, or two other files that hold the same.

    Raises:
        NoSnapshotError, GapError: The newest state cannot be restored.
        CorruptError: A file is damaged, and no others have its content. Nothing was made.
        ConflictError: A different snapshot of the same TXID is there.
        BackendError: The storage failed.
    """

    def attempt() -> Compacted | None:
        nonlocal files
        known, files = replica.files() if files is None else files, None
        plan = replica.plan(files=known)
        whole = [file for file in known if file.min_txid == 1 and file.max_txid == plan.txid]
        if len(whole) > 1 or any(file.level == SNAPSHOT_LEVEL for file in whole):
            return None
        with ExitStack() as stack:

            def stage(wanted: Sequence[LTXFile]) -> Staged:
                pile = stack.enter_context(Pile(folder))
                for item in opened(replica.backend, wanted):
                    pile.add(item)
                return pile.stage()

            staged, _, passed_over = replica.use(plan, stage, or_newer=True)
            return replace(_publish(replica, SNAPSHOT_LEVEL, staged), passed_over=passed_over)

    return _again(attempt, None)


def inputs_of(files: Sequence[LTXFile], level: int) -> tuple[Sequence[LTXFile], TXID]:
    """Return what there is to merge into a level, each file following the one before, and the TXID they go on from.

    A file that begins within the level's newest one and reaches beyond it is among them. A whole database that is
    a snapshot, too, is not: a new replica's first file would lie in every level. Files before a gap are
    taken, unless it is a single one that stays where it is; behind a gap it goes on only where other files of the
    replica lead across it. Otherwise a file that a listing does not show yet would be left out for ever.

    Args:
        files: All files of the replica.
        level: Where to, 1 to 8.

    Raises:
        GapError, NoSnapshotError: The level below goes on behind a gap that nothing leads across.
    """
    source = [file for file in files if file.level == level - 1]
    snapshots = {file.max_txid for file in files if file.level == SNAPSHOT_LEVEL}
    after = TXID(max((file.max_txid for file in files if file.level == level), default=0))
    while True:
        run = extend(source, after)
        if run and run[0].min_txid == 1 and run[0].max_txid in snapshots:
            after, run = run[0].max_txid, run[1:]
        reached = run[-1].max_txid if run else after
        beyond = [file.min_txid for file in source if file.max_txid > reached]
        if len(run) >= _fewest(level) or not beyond:
            return run, after
        reach = reach_of(files)
        if reach.gap and reach.gap[0] < min(beyond) - 1:
            raise gap_error(reach)
        after = TXID(min(beyond) - 1)


def _fewest(level: int) -> int:
    """How many files a merge takes at least: above level 1 a single one would only be copied."""
    return 1 if level == 1 else 2


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where one merged file ends and the next begins.

    Attributes:
        interval: Transactions of two windows of this length do not share a file; None to cut nowhere.
        before_ms: Nothing from this time on is taken.
        now_ms: What is later than this, and not by a little, is a clock gone wrong, and says nothing.
    """

    interval: timedelta | None
    before_ms: int | None
    now_ms: int

    @classmethod
    def of(cls, interval: timedelta | None, before: datetime | None, now: datetime | None) -> "_Cut":
        """Make one of times, `now` being the clock's if it is None."""
        before_ms = None if before is None else to_timestamp_ms(before)
        return cls(interval, before_ms, to_timestamp_ms(now or datetime.now(UTC)))

    def stops(self, time_ms: int) -> bool:
        return self.before_ms is not None and time_ms >= self.before_ms

    def later(self, time_ms: int, item: Input) -> int:
        """Return the time of a file, given that of the one before: it never goes back."""
        found = item.header.timestamp_ms
        return time_ms if found > self.now_ms + _CLOCKS_DIFFER_MS else max(time_ms, found)

    def parts(self, before_ms: int, after_ms: int) -> bool:
        if self.interval is None:
            return False
        interval_ms = self.interval // timedelta(milliseconds=1)
        return before_ms // interval_ms != after_ms // interval_ms


def _merge_runs(
    replica: Replica,
    level: int,
    files: Sequence[LTXFile],
    after: TXID,
    cut: _Cut,
    local: LocalFiles | None,
    folder: Path | None,
) -> Iterator[Compacted]:
    """Merge the files of a run into one file for each part of it."""
    time_ms, page_size = -(1 << 63), 0
    with ExitStack() as stack:
        pile = stack.enter_context(Pile(folder))
        for item in opened(replica.backend, files, local):
            found_ms = cut.later(time_ms, item)
            if cut.stops(found_ms):
                break
            ends = cut.parts(time_ms, found_ms) or item.header.page_size != page_size
            if pile.inputs and ends:
                made = _publish(replica, level, pile.stage(TXID(after + 1)))
                after = made.file.max_txid
                yield made
                stack.close()
                pile = stack.enter_context(Pile(folder))
            pile.add(item)
            time_ms, page_size = found_ms, item.header.page_size
        if len(pile.inputs) >= _fewest(level):
            yield _publish(replica, level, pile.stage(TXID(after + 1)))


def _publish(replica: Replica, level: int, staged: Staged) -> Compacted:
    file, is_new = publish(replica, level, staged)
    return Compacted(file, staged.header.timestamp, staged.page_count, staged.inputs, is_new)


def _again(attempt: Callable[[], _T], local: LocalFiles | None) -> _T:
    """Try anew, from a new listing, when a file vanished or a local copy is damaged."""
    for _ in range(_TRIES - 1):
        try:
            return attempt()
        except FileError as error:
            if not (local and local.avoid(error.file)) and not isinstance(error.reason, NotFoundError):
                raise error.public() from error
        except NotFoundError:  # pruned since the listing
            continue
    try:
        return attempt()
    except FileError as error:
        raise error.public() from error
