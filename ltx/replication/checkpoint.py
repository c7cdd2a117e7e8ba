"""Checkpoints that hold the application up for moments only, and after which nothing is missing.

Most of the work is a PASSIVE checkpoint while everybody goes on. It begins at once when the pin has slid: else the
application's next commit would do that work, in the application's time. What was committed meanwhile is captured and
brought over likewise, until little is left. Then, behind a barrier that keeps writers out, the last frames are captured,
the pin slides, and a PASSIVE checkpoint brings the rest into the file. All frames are in it then, so that the
application's next commit lets the WAL begin anew instead of growing it.

Where the disk failed, the WAL may hold the only copy of what was brought over: SQLite takes for done what it once wrote,
and hears of a failed write only once. So nothing is checkpointed any more then, and the pin keeps the WAL as it is.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import apsw

from ltx.replication.capture import Capture, Captured
from ltx.replication.pins import PIN_BUSY_MS, DiskError
from ltx.replication.shrink import Shrinker

__all__ = ["Checkpointer", "Limits"]

_BARRIER_MS = 20
"""How long to wait for a moment without writers before another try."""

_TAIL_FRAMES = 400
"""So many frames may be left for the time behind the barrier; with more the writers go on, and so do we."""

_LONGEST_PAUSE_S = 30


@dataclass(frozen=True, slots=True)
class Limits:
    """When a checkpoint is due.

    Attributes:
        min_pages: Frames in the WAL from which on one is due.
        interval_s: Seconds after which one is due for fewer frames; 0 for never.
        truncate_pages: Frames for which the WAL's file is too large: it is cut, since it would stay that large.
    """

    min_pages: int = 1000
    interval_s: float = 60
    truncate_pages: int = 121_359


class Checkpointer:
    """The checkpoints of one followed database.

    Attributes:
        stuck_since: When, by the monotonic clock, checkpoints began not to get through; None where they do.
        is_blocked: Whether that is for somebody who reads an old state; else for writers that are too quick.
        is_full: Whether the last one found no space on the disk. That loses nothing, and is tried again.
        failure: What the disk said when it failed, after which nothing is checkpointed; None where it did not.
        count: How many checkpoints brought everything into the file.
        shrinker: What keeps the WAL's file small.

    Args:
        capture: What follows the database.
        limits: When a checkpoint is due.
    """

    def __init__(self, capture: Capture, limits: Limits) -> None:
        self.stuck_since: float | None = None
        self.is_blocked = self.is_full = False
        self.failure: str | None = None
        self.count = 0
        self.shrinker = Shrinker(capture, limits.truncate_pages)
        self._longest_s = 0.0
        self._capture, self._limits = capture, limits
        self._last = time.monotonic()
        self._pause_s, self._not_before = 0.0, 0.0

    @property
    def longest_barrier_s(self) -> float:
        """The longest time for which writers were kept out so far, for whatever."""
        return max(self._longest_s, self.shrinker.longest_barrier_s)

    def stuck(self, after_s: float) -> str | None:
        """Say why the WAL has not shrunk for some time, or never will; None where it has."""
        if self.failure is not None:
            return (
                f"its disk failed while the database was written, so that only the WAL is sure to be whole: "
                f"{self.failure}; once the disk is right, end the application, then the replicator, and start both"
            )
        until = time.monotonic() - after_s
        if self.stuck_since is not None and self.stuck_since < until:
            if self.is_full:
                return "its disk has been full for long"
            if self.is_blocked:
                return "somebody has been reading an old state for long"
            return "writers have been too quick for long"
        if self.shrinker.stuck_since is not None and self.shrinker.stuck_since < until:
            return "its file is cut as soon as nobody reads from it and something is committed"
        return None

    def due(self) -> bool:
        """Whether there is something to bring into the file, and enough of it, or for long enough."""
        now = time.monotonic()
        if self.failure is not None or now < self._not_before:
            return False
        frames, done = self._capture.pins.frame_counts()
        if frames == done:
            self.stuck_since, self._pause_s = None, 0.0
            return False
        if frames >= self._limits.min_pages:
            return True
        return self._limits.interval_s > 0 and now - self._last >= self._limits.interval_s

    def run(self, publish: Callable[[Captured], None]) -> bool:
        """Bring the WAL into the database file, as far as the application's readers let it.

        Call it after a look at all that was committed: the pin slides.

        Args:
            publish: Makes durable what was captured, which was accepted already, and closes it; where that fails, it
                retracts it. It is called when writers go on already.

        Returns:
            Whether all of it is there now.
        """
        pins, self.is_full = self._capture.pins, False
        with closing(pins.beside()) as beside:
            self.is_blocked = not self._approach(publish)
            frames, done = pins.frame_counts()
            quick = frames - done <= _TAIL_FRAMES and not self.is_full and self.failure is None
            through = quick and self._behind_barrier(beside, publish)
        now = time.monotonic()
        if through:
            self.stuck_since, self._pause_s, self._last = None, 0.0, now
            self.count += 1
            return True
        self.stuck_since = self.stuck_since or now
        waits = self.is_blocked or self.is_full
        self._pause_s = min(_LONGEST_PAUSE_S, max(0.1, self._pause_s * 2)) if waits else 0.0
        self._not_before = now + self._pause_s
        return False

    def shrink(self) -> None:
        """Keep the WAL's file small, as `Shrinker.run` does."""
        if self.failure is None:
            self._goes_well(self.shrinker.run)

    def give_up(self, why: str) -> None:
        """Checkpoint nothing any more, and keep in the WAL what is there.

        Args:
            why: What the disk said.
        """
        self.failure = why
        self._capture.pins.keep()

    def _goes_well(self, work: Callable[[], None]) -> bool:
        """Do something that writes to the disk; return whether it did not fail."""
        try:
            work()
        except DiskError as error:
            self.give_up(str(error))
        except apsw.FullError:  # said at once, of what SQLite does not take for done
            self.is_full = True
        else:
            return True
        return False

    def _approach(self, publish: Callable[[Captured], None]) -> bool:
        """Bring over what is captured, again and again until little is left; return whether nobody was in the way."""
        pins, longest = self._capture.pins, None
        while True:
            seen = pins.frame_counts()[0]
            self._capture.slide()
            if not self._goes_well(lambda: _checkpoint(pins.idle)):
                return True
            frames, done = pins.frame_counts()
            if done < seen <= frames:
                return False
            if done < frames <= done + _TAIL_FRAMES:
                # SQLite syncs the file only where all is in it. Behind the barrier it would have to sync what was
                # brought over so far: that takes the longer the more it is, and whoever waits can wait now.
                if not self._goes_well(pins.sync_database):
                    return True
                frames, done = pins.frame_counts()
            if frames - done <= _TAIL_FRAMES or (longest and frames - done > longest // 2):
                return True  # or they write faster than this gets on
            longest = frames - done
            slides, captured = self._capture.slides, self._capture.increment()
            if captured is None:
                return True
            self._capture.accept(captured)
            publish(captured)
            if self._capture.slides != slides:  # somebody else's checkpoint came between
                return True

    def _behind_barrier(self, barrier: apsw.Connection, publish: Callable[[Captured], None]) -> bool:
        pins, captured = self._capture.pins, None
        try:
            barrier.set_busy_timeout(_BARRIER_MS)
            try:
                barrier.execute("BEGIN IMMEDIATE")
            except (apsw.BusyError, apsw.LockedError):
                return False
            began = time.monotonic()
            try:
                frames, done = pins.frame_counts()
                if frames - done > _TAIL_FRAMES:  # a big transaction slipped in
                    return False
                captured = self._capture.increment()
                if captured:
                    self._capture.accept(captured)
                self._capture.slide()
                if self._goes_well(lambda: _checkpoint(pins.idle)):
                    self._capture.slide()
                frames, done = pins.frame_counts()
            finally:
                barrier.execute("ROLLBACK")
                self._longest_s = max(self._longest_s, time.monotonic() - began)
        except BaseException:
            self._capture.followed = None
            if captured:
                captured.close()
            raise
        if captured:
            publish(captured)
        return frames == done and self.failure is None


def _checkpoint(connection: apsw.Connection) -> None:
    """Run a PASSIVE checkpoint; that somebody else runs one, or reads what would have to go, is no error."""
    connection.set_busy_timeout(_BARRIER_MS)
    try:
        connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
    except (apsw.BusyError, apsw.LockedError):
        pass
    except apsw.IOError as error:
        name = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0), "no more is known")
        raise DiskError(f"{error} ({name})") from error
    finally:
        connection.set_busy_timeout(PIN_BUSY_MS)
