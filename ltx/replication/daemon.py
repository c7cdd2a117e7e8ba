"""Replication of any number of databases until it is told to stop: who does what when.

File events say that something was written; a slow look at every database finds what they miss. Databases are
captured on one small pool; uploads have one for each storage service, so that a dead one keeps nobody else waiting.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import apsw

from backends import BackendError
from ltx.errors import ConflictError, LTXError
from ltx.replication.database import Database
from ltx.replication.maintenance import Maintenance
from ltx.replication.schedule import Scheduler, Task
from ltx.replication.upload import Uploader

__all__ = ["Daemon"]

_CAPTURES, _UPLOADS = 4, 4
_SLOW_S = 10.0
"""Seconds after which a database is looked at without an event."""

_FIRST_S = 2.0
_AGAIN_S = 0.02
"""An event can come before the commit that it belongs to is complete."""

_LONGEST_PAUSE_S, _REFUSED_S = 10.0, 600.0
_WATCH_STEP_MS, _WATCH_DEBOUNCE_MS = 5, 20
_FLUSH_PAUSE_S = 0.5
_FAILURES = (LTXError, BackendError, OSError, apsw.Error)
log = logging.getLogger("ltx")


class Daemon:
    """Replicates databases from `start` to `stop`. It owns neither their replicas nor the databases.

    Args:
        databases: What to replicate.
        flush_s: For how long `stop` tries to upload what is left.
    """

    def __init__(self, databases: Sequence[Database], *, flush_s: float = 30.0) -> None:
        self.databases = list(databases)
        self._flush_s = flush_s
        self._scheduler = Scheduler()
        self._captures = ThreadPoolExecutor(_CAPTURES, thread_name_prefix="capture")
        self._uploads: dict[str, ThreadPoolExecutor] = {}
        self._stopping, self._aborted = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._syncs: dict[str, Task] = {}
        self._pushes: dict[int, Task] = {}
        self._upkeep: list[Task] = []
        self._last: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._rechecks: dict[str, int] = {}

    def start(self) -> None:
        """Begin. Returns at once; every database is looked at now."""
        for database in self.databases:
            for uploader in database.uploaders:
                place = "{0.scheme}://{0.netloc}".format(urlsplit(uploader.replica.url))
                pool = self._uploads.setdefault(
                    place, ThreadPoolExecutor(_UPLOADS, thread_name_prefix=f"upload {place}")
                )
                self._pushes[id(uploader)] = Task(partial(self._push, database, uploader), pool)
                if database.settings.upkeep.enabled:
                    upkeep = Maintenance(uploader, database.folder, database.settings.upkeep)
                    self._upkeep.append(Task(partial(self._maintain, upkeep), pool))
            # The first look asks the replicas: one that does not answer keeps only its own service's threads.
            first = self._pushes[id(database.uploaders[0])].pool
            self._syncs[str(database.path)] = Task(partial(self._sync, database), first)
        for task in self._syncs.values():
            self._scheduler.add(task)
        for task in (*self._pushes.values(), *self._upkeep):
            task.due = time.monotonic() + _FIRST_S  # a sync comes first, and pokes the uploads
            self._scheduler.add(task)
        self._spawn(self._scheduler.run, "schedule")
        self._spawn(self._watch, "watch")

    def stop(self) -> bool:
        """Capture and upload what is left, and let go of the databases.

        Returns:
            Whether every replica has everything.
        """
        self._stopping.set()
        self._scheduler.end()
        for thread in self._threads:
            thread.join()
        self._captures.shutdown(wait=True, cancel_futures=True)
        until = time.monotonic() + self._flush_s
        with ThreadPoolExecutor(16, thread_name_prefix="flush") as pool:
            done = list(pool.map(lambda database: self._flush(database, until), self.databases))
        for pool in self._uploads.values():
            pool.shutdown(wait=False, cancel_futures=True)
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
            for uploader in database.uploaders:
                self._scheduler.poke(self._pushes[id(uploader)])
            return True
        for uploader in database.uploaders:
            while not (uploader.push() or ((uploader.txid or 0) >= wanted and not uploader.error)):
                if time.monotonic() >= until or uploader.stopped or self._stopping.wait(0.05):
                    return False
                if uploader.wants_snapshot:
                    database.sync()
        return True

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _watch(self) -> None:
        """Turn file events into looks at databases, until we stop."""
        from watchfiles import watch

        owners: dict[str, Task] = {}
        folders: set[Path] = set()
        for database in self.databases:
            real = database.path.resolve()
            folders.add(real.parent)
            task = self._syncs[str(database.path)]
            owners |= {f"{real}{side}": task for side in ("", "-wal", "-journal")}
        while not self._stopping.is_set():
            present = [folder for folder in folders if folder.is_dir()]
            try:
                for changes in watch(
                    *present,
                    watch_filter=lambda _, path: path in owners,
                    step=_WATCH_STEP_MS,
                    debounce=_WATCH_DEBOUNCE_MS,
                    stop_event=self._stopping,
                    rust_timeout=500,
                    recursive=False,
                    raise_interrupt=False,
                ):
                    for task in {id(owners[path]): owners[path] for _, path in changes}.values():
                        self._event(task)
            except (OSError, RuntimeError) as error:
                log.warning(
                    "no file events; databases are looked at now and then", extra={"error": str(error)}
                )
                self._stopping.wait(60)

    def _event(self, task: Task) -> None:
        work = task.work
        assert isinstance(work, partial)
        database: Database = work.args[0]
        path = str(database.path)
        self._rechecks[path] = 2
        spacing = database.settings.sync_interval_s - (time.monotonic() - self._last.get(path, 0.0))
        self._scheduler.poke(task, max(0.0, spacing))

    def _sync(self, database: Database) -> float:
        """Look at a database; return when to do so again."""
        path = str(database.path)
        if all(uploader.stopped and not uploader.late for uploader in database.uploaders):
            return _SLOW_S  # somebody else writes there: what we would capture has nowhere to go
        try:
            changed = database.sync()
        except _FAILURES as error:
            return self._failed(database, error)
        if database.error is not None:
            log.info("goes on", extra={"db": path})
        database.error = None
        self._syncs[path].pool = self._captures
        self._pauses.pop(path, None)
        for uploader in database.uploaders:
            if changed or uploader.txid is None:
                self._scheduler.poke(self._pushes[id(uploader)])
        if changed:
            self._last[path] = time.monotonic()
            self._rechecks[path] = 0
        elif self._rechecks.get(path, 0):
            self._rechecks[path] -= 1
            return _AGAIN_S
        return _SLOW_S

    def _failed(self, database: Database, error: Exception) -> float:
        path = str(database.path)
        if str(error) != str(database.error):
            log.error("cannot be captured", extra={"db": path, "error": str(error)})
        database.error = error
        if isinstance(error, ConflictError):
            return _REFUSED_S  # somebody has to look at it
        self._pauses[path] = min(_LONGEST_PAUSE_S, max(0.25, self._pauses.get(path, 0.0) * 2))
        return self._pauses[path]

    def _push(self, database: Database, uploader: Uploader) -> float:
        before = uploader.error
        current = uploader.push()
        names = {"db": str(database.path), "replica": uploader.replica.url}
        if uploader.error is not None and str(uploader.error) != str(before):
            log.error("cannot be uploaded", extra={**names, "error": str(uploader.error)})
        elif before is not None and uploader.error is None:
            log.info("uploads again", extra=names)
        if uploader.wants_snapshot or (uploader.stopped and uploader.late):
            self._scheduler.poke(self._syncs[str(database.path)])
        if current:
            return 60.0
        return max(0.05, min(30.0, uploader.not_before - time.monotonic())) if uploader.error else 0.2

    def _maintain(self, upkeep: Maintenance) -> float:
        return 60.0 if self._stopping.is_set() else upkeep.run()

    def _flush(self, database: Database, until: float) -> bool:
        """Bring everything to the replicas, for as long as there is time; then let go of the database."""
        try:
            while True:
                try:
                    database.sync()
                    done = [uploader.push() for uploader in database.uploaders]
                    error = next((each.error for each in database.uploaders if each.error), None)
                except _FAILURES as failure:
                    done, error = [False], failure
                if all(done):
                    return True
                hopeless = all(each.stopped for each in database.uploaders)
                if hopeless or time.monotonic() >= until or self._aborted.wait(_FLUSH_PAUSE_S):
                    log.error(
                        "ended with transactions that are not on every replica; they stay on this machine",
                        extra={"db": str(database.path), "error": str(error)},
                    )
                    return False
        finally:
            database.close()
