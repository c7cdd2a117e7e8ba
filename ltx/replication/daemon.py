"""Replication of any number of databases until it is told to stop: who does what when.

File events say that something was written; a slow look at every database finds what they miss. Databases are
captured on one small pool; uploads have one for each storage service, so that a dead one keeps nobody else waiting.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ltx.errors import ConflictError
from ltx.replication.database import Database
from ltx.replication.ending import flush
from ltx.replication.failures import describe, log_failure
from ltx.replication.looking import service_of
from ltx.replication.maintenance import Maintenance
from ltx.replication.missing import RestoreEndedError, restore_at_start
from ltx.replication.schedule import Scheduler, Task
from ltx.replication.upload import Uploader
from ltx.replication.waiters import Waiters
from ltx.replication.watch import Watch

__all__ = ["Daemon"]

_CAPTURES, _UPLOADS, _FLUSHES, _FIRST_LOOKS = 4, 4, 16, 16
_FIRST_S = 2.0
_AGAIN_S, _RECHECKS = 0.02, 8
"""An event can come before the commit that it belongs to is complete: seconds before it, where much is to be synced."""

_ASKED_S = 1.0
_LONGEST_PAUSE_S, _REFUSED_S = 10.0, 600.0
_STUCK_S = 1.0

log = logging.getLogger("ltx")


@dataclass(slots=True, eq=False)
class _Entry:
    """One database here, what is done for it, and when it was last done."""

    database: Database
    sync: Task
    pushes: dict[int, Task] = field(default_factory=dict)
    upkeep: list[Task] = field(default_factory=list)
    sides: tuple[str, ...] = ()
    began: float = 0.0
    last: float = 0.0
    pause_s: float = 0.0
    rechecks: int = 0
    sync_count: int = 0
    sync_error_count: int = 0
    sync_s: float = 0.0

    @property
    def tasks(self) -> list[Task]:
        return [self.sync, *self.pushes.values(), *self.upkeep]


class Daemon:
    """Replicates databases from `start` to `stop`; they come and go meanwhile. It owns neither them nor their replicas.

    Attributes:
        watch: Which files were written to, or come and go.

    Args:
        databases: What to begin with.
        flush_s: For how long `stop` tries to upload what is left.
        flush_pause_s: Seconds between two tries.
    """

    def __init__(
        self, databases: Sequence[Database] = (), *, flush_s: float = 30.0, flush_pause_s: float = 0.5
    ) -> None:
        self.watch = Watch(self._written, self._look_at_all)
        self._waiters = Waiters(self._awaited)
        self._flush_s, self._flush_pause_s = flush_s, flush_pause_s
        self._scheduler = Scheduler()
        self._captures = ThreadPoolExecutor(_CAPTURES, thread_name_prefix="capture")
        self._first_looks = ThreadPoolExecutor(_FIRST_LOOKS, thread_name_prefix="first look")
        self._uploads: dict[str, ThreadPoolExecutor] = {}
        self._stopping, self._aborted, self._over = (threading.Event() for _ in range(3))
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._entries: dict[Path, _Entry] = {}
        self._owners: dict[str, _Entry] = {}
        for database in databases:
            self.add(database)

    @property
    def databases(self) -> list[Database]:
        """What is replicated now."""
        with self._lock:
            return [entry.database for entry in self._entries.values()]

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped yet."""
        return bool(self._threads) and not self._stopping.is_set()

    def counts(self, database: Database) -> tuple[int, int, float]:
        """Return how often a database was looked at, how often that failed, and for how many seconds in all."""
        with self._lock:
            entry = self._entries.get(database.path)
        return (entry.sync_count, entry.sync_error_count, entry.sync_s) if entry else (0, 0, 0.0)

    def add(self, database: Database) -> None:
        """Begin with a database: at once, or when we start."""
        pools = [self._pool(uploader) for uploader in database.uploaders]
        # The first look asks the replicas: one that does not answer keeps only its own service's threads, or, where
        # there are others, one of many for a moment.
        first = pools[0] if len(set(pools)) == 1 else self._first_looks
        entry = _Entry(database, Task(lambda: 0.0, first))
        entry.sync.work = partial(self._sync, entry)
        for uploader, pool in zip(database.uploaders, pools, strict=True):
            entry.pushes[id(uploader)] = Task(partial(self._push, entry, uploader), pool)
            if database.settings.upkeep.enabled:
                upkeep = Maintenance(uploader, database.folder, database.settings.upkeep)
                entry.upkeep.append(Task(partial(self._maintain, entry, uploader, upkeep), pool))
        real = database.path.resolve()
        entry.sides = tuple(f"{real}{side}" for side in ("", "-wal", "-journal"))
        with self._lock:
            if database.path in self._entries:
                raise ValueError(f"{database.path} is replicated already")
            self._entries[database.path] = entry
            self._owners |= dict.fromkeys(entry.sides, entry)
        self.watch.add(entry.sides)
        self._scheduler.add(entry.sync)
        for task in (*entry.pushes.values(), *entry.upkeep):
            self._scheduler.add(task, _FIRST_S)  # a sync comes first, and pokes the uploads

    def remove(self, database: Database, *, flush_s: float) -> Callable[[], bool]:
        """Take a database out; nothing new is begun with it.

        Args:
            database: One of ours.
            flush_s: For how long to try to upload what is left; 0 is once. After that it stays on this machine.

        Returns:
            What uploads what is left and lets go of the database, while the others go on; it returns whether the
            replicas have everything.
        """
        with self._lock:
            entry = self._entries.pop(database.path)
            for side in entry.sides:
                self._owners.pop(side, None)
        self.watch.remove(entry.sides)
        self._waiters.discard(database)

        def let_go() -> bool:
            until = time.monotonic() + flush_s
            while not self._scheduler.remove(entry.tasks, timeout_s=_STUCK_S):
                if self._over.is_set() and time.monotonic() >= until:
                    log.error("is not let go of: work on it did not end", extra={"db": str(database.path)})
                    return False
            if database.compared or database.path.exists():  # else there is nothing of it
                return self._flush(database, time.monotonic() + flush_s)
            database.close()
            return True

        return let_go

    def schedule(self, work: Callable[[], float]) -> Task:
        """Do something else, too, in a thread of its own; return what to poke.

        Args:
            work: Does it, and returns in how many seconds to do it again.
        """
        pool = self._uploads[f"other {len(self._uploads)}"] = ThreadPoolExecutor(1)
        task = Task(work, pool)
        self._scheduler.add(task)
        return task

    def poke(self, task: Task, delay_s: float = 0.0) -> None:
        """Let what was scheduled be done soon."""
        self._scheduler.poke(task, delay_s)

    def start(self) -> None:
        """Begin. Returns at once; every database is looked at now."""
        self._spawn(self._scheduler.run, "schedule")
        self._spawn(self.watch.run, "watch")
        self._spawn(self._waiters.run, "waiters")

    def stop(self) -> bool:
        """Capture and upload what is left, and let go of the databases.

        Returns:
            Whether every replica has everything.
        """
        self._stopping.set()
        self.watch.end()
        self._waiters.end()
        self._scheduler.end()
        for thread in self._threads:
            thread.join()
        self._captures.shutdown(wait=True, cancel_futures=True)
        until = time.monotonic() + self._flush_s
        with ThreadPoolExecutor(_FLUSHES, thread_name_prefix="flush") as pool:
            done = list(pool.map(lambda database: self._flush(database, until), self.databases))
        for uploads in (self._first_looks, *self._uploads.values()):
            uploads.shutdown(wait=False, cancel_futures=True)
        self._over.set()
        return all(done)

    def abort(self) -> None:
        """Let `stop` end soon, whatever is not uploaded: it stays on this machine."""
        self._aborted.set()

    def sync(self, database: Database, *, wait: bool = True, timeout_s: float = 30.0) -> bool:
        """Capture what is committed now.

        Args:
            database: One of ours.
            wait: Whether to wait until all replicas have it.
            timeout_s: For how long to try.

        Returns:
            Whether all replicas have it; without `wait`, True.

        Raises:
            DatabaseError: The database cannot be read.
        """
        until = time.monotonic() + timeout_s
        database.sync()
        wanted = database.line.txid
        if not wait:
            with self._lock:
                entry = self._entries.get(database.path)
            for push in entry.pushes.values() if entry else ():
                self._scheduler.poke(push)
            return True
        for uploader in database.uploaders:
            while not (uploader.push() or ((uploader.txid or 0) >= wanted and not uploader.error)):
                if time.monotonic() >= until or uploader.stopped or self._stopping.wait(0.05):
                    return False
                if uploader.wants_snapshot:
                    database.sync()
        return True

    def _flush(self, database: Database, until: float) -> bool:
        pause = partial(self._aborted.wait, self._flush_pause_s)
        return flush(database, until=until, pause=pause)

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _pool(self, uploader: Uploader) -> ThreadPoolExecutor:
        place = service_of(uploader)
        return self._uploads.setdefault(
            place, ThreadPoolExecutor(_UPLOADS, thread_name_prefix=f"upload {place}")
        )

    def _written(self, path: str) -> None:
        """Look at the database of a file that was written to."""
        with self._lock:
            entry = self._owners.get(path)
        if entry is None:
            return
        entry.rechecks = _RECHECKS
        # What runs now may capture something itself: then the next transaction is counted from its beginning.
        since = entry.began if entry.sync.running else entry.last
        spacing = entry.database.settings.sync_interval_s - (time.monotonic() - since)
        self._scheduler.poke(entry.sync, max(0.0, spacing))
        if spacing > 0:  # until then the pin is of an old state, and somebody may wait for it to slide
            self._waiters.add(entry.database)

    def _awaited(self, database: Database) -> None:
        """Look at a database now, however short ago that was done: its application waits for us."""
        with self._lock:
            entry = self._entries.get(database.path)
        if entry is not None:
            self._scheduler.poke(entry.sync)

    def _look_at_all(self) -> None:
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            self._scheduler.poke(entry.sync)

    def _sync(self, entry: _Entry) -> float:
        """Look at a database; return when to do so again."""
        database = entry.database
        self._waiters.discard(database)
        if all(uploader.stopped and not uploader.late for uploader in database.uploaders):
            return (
                database.settings.look_s
            )  # somebody else writes there: what we would capture has nowhere to go
        entry.began = began = time.monotonic()
        try:
            restore_at_start(database, self._stopping)
            changed = database.sync()
        except RestoreEndedError:
            return database.settings.look_s
        except Exception as error:  # noqa: BLE001 - else nobody would hear that it is not replicated any more
            return self._failed(entry, error)
        finally:
            entry.sync_count += 1
            entry.sync_s += time.monotonic() - began
        if database.error is not None:
            log.info("goes on", extra={"db": str(database.path)})
        database.error = None
        entry.sync.pool = self._captures
        entry.pause_s = 0.0
        for uploader in database.uploaders:
            if changed or uploader.txid is None:
                self._scheduler.poke(entry.pushes[id(uploader)])
        if changed:
            entry.last = time.monotonic()
            entry.rechecks = 0
            # The pin holds frames now: a checkpoint that begins at this moment, and has nothing to write, waits for it,
            # and nothing tells of it but its locks.
            self._waiters.add(database)
            return min(_ASKED_S, database.settings.look_s)
        if entry.rechecks:
            entry.rechecks -= 1
            self._waiters.add(database)
            return _AGAIN_S * 2.0 ** (_RECHECKS - 1 - entry.rechecks)
        return database.settings.look_s

    def _failed(self, entry: _Entry, error: Exception) -> float:
        database = entry.database
        entry.sync_error_count += 1
        if describe(error) != describe(database.error):
            log_failure("cannot be captured", error, db=str(database.path))
        database.error = error
        if isinstance(error, ConflictError):
            return _REFUSED_S  # somebody has to look at it
        entry.pause_s = min(_LONGEST_PAUSE_S, max(0.25, entry.pause_s * 2))
        return entry.pause_s

    def _push(self, entry: _Entry, uploader: Uploader) -> float:
        if not entry.database.is_open:  # else what the replica has would look like somebody else's
            return entry.database.settings.look_s  # the first sync that gets through pokes us
        before = uploader.error
        current = uploader.push()
        names = {"db": str(entry.database.path), "replica": uploader.replica.url}
        if uploader.error is not None and describe(uploader.error) != describe(before):
            log_failure("cannot be uploaded", uploader.error, **names)
        elif before is not None and uploader.error is None:
            log.info("uploads again", extra=names)
        if uploader.wants_snapshot or (uploader.stopped and uploader.late):
            self._scheduler.poke(entry.sync)
        if current:
            return 60.0
        return max(0.05, min(30.0, uploader.not_before - time.monotonic())) if uploader.error else 0.2

    def _maintain(self, entry: _Entry, uploader: Uploader, upkeep: Maintenance) -> float:
        if self._stopping.is_set():
            return 60.0
        delay_s = upkeep.run()
        if uploader.error is None and not uploader.is_current:  # something is to be made up for
            self._scheduler.poke(entry.pushes[id(uploader)])
        return delay_s
