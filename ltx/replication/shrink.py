"""Making the file of a WAL small again, however large it is, without holding the application up for long.

The time that a file system needs to free space grows with the space: TRUNCATE of 500 MB keeps writers out for 100 ms
or more. So only a small file is cut by TRUNCATE. A large one is waited for until the application's next commit has let
the WAL begin anew, at the front of the file; what lies behind its frames is then cut off in steps, each behind a
barrier of its own. Not before: a machine that fails while the old frames are only in part there would take what is
left of them for the newest state.
"""

import os
import sys
import time
from contextlib import closing

import apsw

from ltx.replication.capture import Capture, Followed
from ltx.replication.pins import PIN_BUSY_MS, DiskError
from ltx.replication.wal import WAL_HEADER_SIZE

__all__ = ["Shrinker"]

_AT_ONCE = 128 << 20
"""Bytes that TRUNCATE may free at once; 20 ms on ext4."""

_STEP, _SMALLEST_STEP = 16 << 20, 1 << 20
_QUICK_S = 0.02
"""The steps get smaller while one takes longer."""

_ROUND_S = 0.5
"""For how long to go on with steps before the database is looked at again."""

_BARRIER_MS = 20
_TRIES, _TRY_AGAIN_S = 5, 0.004
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Shrinker:
    """What keeps the file of one followed database's WAL below a size.

    Attributes:
        stuck_since: When, by the monotonic clock, the file began to be too large; None where it is not.
        longest_barrier_s: The longest time for which writers were kept out so far.

    Args:
        capture: What follows the database.
        limit_pages: Frames, from which on the file is too large for them.
    """

    def __init__(self, capture: Capture, limit_pages: int) -> None:
        self.stuck_since: float | None = None
        self.longest_barrier_s = 0.0
        self._capture, self._limit_pages = capture, limit_pages
        self._step = _STEP
        self._pause_s, self._not_before = 0.0, 0.0

    def run(self) -> None:
        """Cut the file as far as that can be done now, after a look at all that was committed; else a later call will.

        Raises:
            DiskError: The disk failed.
        """
        followed = self._capture.followed
        if followed is None or followed.header is None or not self._is_large(followed):
            self.stuck_since, self._pause_s, self._not_before = None, 0.0, 0.0
            return
        now = time.monotonic()
        self.stuck_since = self.stuck_since or now
        if now < self._not_before:
            return
        if not self._cut(followed) and self.size() <= _AT_ONCE:
            self._truncate()
        if not self._is_large(followed):
            self.stuck_since, self._pause_s = None, 0.0

    def size(self) -> int:
        """Return how many bytes the file has."""
        try:
            return os.stat(self._capture.pins.wal).st_size
        except FileNotFoundError:  # the next look finds out
            return 0

    def _is_large(self, followed: Followed) -> bool:
        frame_size = followed.header.frame_size if followed.header else followed.page_size
        size = self.size()
        return size > WAL_HEADER_SIZE and size >= self._limit_pages * frame_size

    def _truncate(self) -> None:
        """Let SQLite do it, where all is in the database file and nobody reads from the WAL.

        It would wait for readers while it keeps writers out: so we wait, between tries that do not.
        """
        idle = self._capture.pins.idle
        for _ in range(_TRIES):
            frames, done = self._capture.pins.frame_counts()
            if frames != done:
                return  # a checkpoint comes first
            began = time.monotonic()
            try:
                idle.set_busy_timeout(0)
                idle.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except (apsw.BusyError, apsw.LockedError):
                pass
            except apsw.IOError as error:
                raise DiskError(str(error)) from error
            else:
                return
            finally:
                idle.set_busy_timeout(PIN_BUSY_MS)
                self._held(began)
            time.sleep(_TRY_AGAIN_S)
        self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, self._pause_s * 2))
        self._not_before = time.monotonic() + self._pause_s

    def _cut(self, followed: Followed) -> bool:
        """Cut off what lies behind the frames, a step at a time; return whether there is something to cut."""
        raw, pins = self._header(followed), self._capture.pins
        if raw is None or self._end(followed) >= self.size():
            return False
        descriptor = os.open(
            pins.wal, os.O_RDWR | os.O_CLOEXEC
        )  # a WAL has no locks that could vanish with it
        try:
            with closing(pins.beside()) as barrier:
                barrier.set_busy_timeout(_BARRIER_MS)
                os.fsync(descriptor)  # from here on the old frames count for nothing, whatever happens
                found, until = False, time.monotonic() + _ROUND_S
                while self._cut_step(barrier, descriptor, followed, raw):
                    found = True
                    if time.monotonic() >= until:
                        break
                    time.sleep(_TRY_AGAIN_S)  # for those who wait
                return found
        except OSError as error:
            raise DiskError(error.strerror or str(error)) from error
        finally:
            os.close(descriptor)

    def _header(self, followed: Followed) -> bytes | None:
        """Return the WAL's header, where a transaction that was captured follows it."""
        raw = self._capture.pins.read_wal(0, WAL_HEADER_SIZE)
        return raw if raw == followed.raw_header and followed.end > WAL_HEADER_SIZE else None

    def _end(self, followed: Followed) -> int:
        """Return where the frames of the WAL end; beyond any file where it has none, and old ones may count."""
        frames = self._capture.pins.frame_counts()[0]
        frame_size = followed.header.frame_size if followed.header else 0
        return WAL_HEADER_SIZE + frames * frame_size if frames and frame_size else sys.maxsize

    def _cut_step(self, barrier: apsw.Connection, descriptor: int, followed: Followed, raw: bytes) -> bool:
        """Cut off some of it; return whether there was something to cut, and nobody was in the way."""
        pins = self._capture.pins
        try:
            barrier.execute("BEGIN IMMEDIATE")
        except (apsw.BusyError, apsw.LockedError):
            return False
        began = time.monotonic()
        try:
            pins.prove()
            size, end = os.fstat(descriptor).st_size, self._end(followed)
            if not pins.is_wal(descriptor) or self._header(followed) != raw or end >= size:
                return False
            os.ftruncate(descriptor, max(end, size - self._step))
        finally:
            barrier.execute("ROLLBACK")
            self._held(began)
        if time.monotonic() - began > _QUICK_S:
            self._step = max(_SMALLEST_STEP, self._step // 2)
        return True

    def _held(self, began: float) -> None:
        self.longest_barrier_s = max(self.longest_barrier_s, time.monotonic() - began)
