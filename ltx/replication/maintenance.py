"""Keeping a replica small while it grows: levels merged, snapshots made, and what is not needed deleted, in time.

A replica on which nothing is committed costs no request: each level is made only after something new was uploaded.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backends import BackendError
from ltx.errors import LTXError
from ltx.replica.compaction import LocalFiles, compact, snapshot
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.levels import LevelPolicy, due_levels, newest_times, next_due, window_start
from ltx.replica.retention import RetentionPolicy, Verified, retain
from ltx.replication.failures import log_failure
from ltx.replication.soundness import Soundness
from ltx.replication.upload import Uploader

__all__ = ["Maintenance", "Upkeep"]

_LONGEST_S = 60.0
log = logging.getLogger("ltx")


@dataclass(frozen=True, slots=True)
class Upkeep:
    """When levels are made, and what is kept.

    Attributes:
        levels: The intervals.
        retention: What is kept.
        check_s: Seconds from one look for files to delete to the next, while there may be some.
        deletes: Whether files that are not needed are deleted; else a rule of the storage is to do it.
        enabled: Whether anything of this is done; else `ltx compact` and `ltx retain` are for somebody else to run.
    """

    levels: LevelPolicy = field(default_factory=LevelPolicy)
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    check_s: float = 60.0
    deletes: bool = True
    enabled: bool = True


class Maintenance:
    """The upkeep of one replica; its uploader is told how it goes. One thread at a time.

    Args:
        uploader: The replica, and how far it is.
        folder: Where the files of level 0 lie here, and temporary files may.
        upkeep: What to do when.
    """

    def __init__(self, uploader: Uploader, folder: Path, upkeep: Upkeep) -> None:
        self._uploader, self._folder, self._upkeep = uploader, folder, upkeep
        self._last: dict[int, datetime] | None = None
        self._made: dict[int, int] = {}
        self._verified = Verified()
        self._soundness = Soundness(uploader, self._verified)
        self._began_ms = time.time_ns() // 1_000_000
        self._retain_until = self._next_retain = 0.0

    def run(self) -> float:
        """Do what is due; return in how many seconds to come again."""
        uploader = self._uploader
        if not uploader.txid or uploader.error is not None:
            return min(_LONGEST_S / 4, self._upkeep.check_s)
        now = datetime.now(UTC)
        try:
            if self._soundness.is_made_up_for:
                self._soundness.files()
            self._merge(now, uploader.txid)
            if self._upkeep.deletes:
                self._retain()
        except Exception as error:  # noqa: BLE001 - else nobody would hear that the replica only grows
            if not self._is_damage(error):
                if str(error) not in (str(uploader.upkeep_error), str(self._soundness.problem)):
                    log_failure("upkeep failed", error, replica=uploader.replica.url)
                error.__cause__ = error.__context__ = None  # their tracebacks hold files that are open
                uploader.upkeep_error = error.with_traceback(None)
                return min(_LONGEST_S, self._upkeep.check_s)
        uploader.upkeep_error = self._soundness.problem
        due_s = (next_due(self._upkeep.levels, now) - now).total_seconds()
        return min(_LONGEST_S, self._upkeep.check_s, max(0.05, due_s))

    def _is_damage(self, error: Exception) -> bool:
        try:
            return self._soundness.note(error)
        except BackendError:  # it cannot be told now
            return False

    def _merge(self, now: datetime, txid: int) -> None:
        policy, soundness = self._upkeep.levels, self._soundness
        if self._last is None:
            files = soundness.readable(soundness.files())
            known: Mapping[int, datetime] = newest_times(self._uploader.replica, files)
            self._last = dict(known)
        failed: LTXError | None = None
        for level in due_levels(policy, self._last, now):
            self._last[level] = now
            if self._made.get(level) != txid:
                try:
                    self._make(level, now, txid)
                except LTXError as error:  # the other levels may well do without what is damaged
                    failed = failed or error
        try:
            if failed:
                raise failed
        finally:
            del failed  # its traceback holds this frame, and files that are open

    def _make(self, level: int, now: datetime, txid: int) -> None:
        replica, policy, soundness = self._uploader.replica, self._upkeep.levels, self._soundness
        listed = soundness.files()
        if level == SNAPSHOT_LEVEL:
            made = snapshot(replica, files=soundness.readable(listed), folder=self._folder)
            soundness.note_passed_over(made.passed_over if made else (), listed)
            self._made[level] = txid
        else:
            start = window_start(now, policy.interval(level))
            compact(
                replica,
                level,
                policy=policy,
                before=start,
                files=soundness.readable(listed, but=level),
                local=LocalFiles(self._folder / "ltx" / "0"),
                folder=self._folder,
                now=now,
            )
            newest_ms = max(self._began_ms, self._uploader.newest_ms)
            if newest_ms < start.timestamp() * 1000:  # else some of it is for the next time
                self._made[level] = txid
        kept_for = self._upkeep.retention.level0 or timedelta(0)
        self._retain_until = time.monotonic() + kept_for.total_seconds() + 3 * self._upkeep.check_s

    def _retain(self) -> None:
        now = time.monotonic()
        if now >= self._next_retain and now < self._retain_until:
            found = retain(self._uploader.replica, self._upkeep.retention, verified=self._verified)
            self._soundness.note_faults(found.faults)
            if found.deleted:
                log.info("pruned", extra={"replica": self._uploader.replica.url, "files": len(found.deleted)})
            self._next_retain = now + self._upkeep.check_s
