"""The databases that a configuration names or that are found in its folders, begun and let go of as both change."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from backends import ConfigError
from backends.retrying import Retry, RetryingBackend
from ltx.errors import ConfigFileError
from ltx.replica.replica import Replica
from ltx.replication.apart import Apart
from ltx.replication.config.values import Configuration, Place, Replicated
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database
from ltx.replication.failures import FAILURES
from ltx.replication.folders import Found, Identity, find, identity
from ltx.replication.missing import restore_at_start
from ltx.replication.schedule import Task

__all__ = ["Fleet", "uploading"]

_RESCAN_S, _SETTLE_S = 60.0, 0.25
_AT_ONCE = 16
log = logging.getLogger("ltx")


@dataclass(frozen=True, slots=True)
class _Member:
    what: Replicated
    database: Database
    replicas: tuple[Replica, ...]


class Fleet:
    """What is replicated, as a configuration has it. All but the first `take` may be called while the daemon runs.

    Attributes:
        configuration: What was taken last.

    Args:
        daemon: Does the work.
        opened: Is told of every replica that was opened.
    """

    def __init__(self, daemon: Daemon, opened: Callable[[Replica], None] | None = None) -> None:
        self.configuration = Configuration()
        self._daemon, self._opened = daemon, opened
        self._members: dict[Path, _Member] = {}
        self._lock = threading.Lock()
        self._rescan: Task | None = None
        self._told: set[Path] = set()
        self._held: dict[Database, set[Identity]] = {}
        """Which files each database was while we had it: closing one of them would drop our locks."""
        self._ending = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="end")
        daemon.watch.noticed = self._notice

    def take(self, configuration: Configuration) -> None:
        """Replicate what a configuration names, and nothing else: what it has as it was is not touched.

        Nothing is changed before all of it is found to be right.

        Raises:
            ConfigFileError: A URL or an option is wrong, two databases have one replica, or a folder cannot be read.
            backends.ConfigError: The same, where no file said it.
        """
        with self._lock:
            named = {each.path: each for each in configuration.databases}
            found = self._look(configuration, named)
            wanted = named | found
            begun = {
                path: what
                for path, what in wanted.items()
                if path not in self._members or self._members[path].what != what
            }
            kept = [path for path in self._members if path in wanted and path not in begun]
            opened = self._open(begun, self._apart(kept))
            self.configuration = configuration
            wait(
                self._end([path for path in begun if path in self._members], 0)
            )  # a new one goes on with the rest
            self._end([path for path in self._members if path not in wanted], configuration.flush_s)
            for path, what in begun.items():
                self._begin(what, opened[path])
        if self._rescan is None and any(folder.watch for folder in configuration.folders):
            self._rescan = self._daemon.schedule(self._look_again)

    def restore_missing(self, ending: threading.Event) -> None:
        """Restore the databases that are missing and are to be restored.

        Args:
            ending: Ends it soon once it is set.

        Raises:
            RestoreEndedError: It was set.
            LTXError, backends.BackendError, OSError: One cannot be restored.
        """
        databases = [member.database for member in self._members.values()]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(partial(restore_at_start, ending=ending), databases))

    def close(self) -> None:
        """Release the replicas, after the daemon has stopped; databases that are being let go of are waited for."""
        self._ending.shutdown()
        for member in self._members.values():
            for replica in member.replicas:
                replica.close()

    def _look(self, configuration: Configuration, named: Mapping[Path, Replicated]) -> dict[Path, Replicated]:
        known = {path: one for path in (*self._members, *named) if (one := identity(path))}
        for path, member in self._members.items():
            self._held[member.database].update({known[path]} if path in known else ())
        held = {one for each in list(self._held.values()) for one in each}
        wanted: dict[Path, Replicated] = {}
        watched: set[Path] = set()
        for folder in configuration.folders:
            found = find(folder, known, held)
            self._tell(found)
            wanted |= {
                path: folder.replicated(path)
                for path in found.databases
                if path not in named and path not in wanted
            }
            known |= {path: one for path in found.databases if (one := identity(path))}
            if folder.watch:
                watched.update(found.folders)
        self._daemon.watch.look_into(watched)
        return wanted

    def _tell(self, found: Found) -> None:
        for path in found.others:
            if path not in self._told:
                self._told.add(path)
                log.warning("is another name of a database that is replicated", extra={"db": str(path)})

    def _notice(self, path: str) -> None:
        """Look again soon where a file may be a new database, or a folder has some."""
        name = Path(path).name
        here = [folder for folder in self.configuration.folders if folder.watch]
        if self._rescan and any(
            folder.matches(name) or folder.recursive or str(folder.path) == path for folder in here
        ):
            self._daemon.poke(self._rescan, _SETTLE_S)

    def _look_again(self) -> float:
        """Take up databases that appeared in watched folders, and let go of those that vanished."""
        with self._lock:
            named = {each.path: each for each in self.configuration.databases}
            watched = tuple(folder for folder in self.configuration.folders if folder.watch)
            if not watched:
                return _RESCAN_S
            try:
                found = self._look(replace(self.configuration, folders=watched), named)
            except ConfigFileError as error:
                log.error("does not look for new databases", extra={"error": str(error)})  # noqa: TRY400
                return _RESCAN_S
            theirs = {
                path
                for path, member in self._members.items()
                if path not in named
                for folder in watched
                if path.is_relative_to(folder.path) and folder.replicated(path) == member.what
            }
            gone = [path for path in theirs if path not in found]
            self._end(gone, self.configuration.flush_s)
            apart = self._apart(self._members)
            for path, what in found.items():
                if path in self._members:
                    continue
                try:
                    self._begin(what, self._open({path: what}, apart)[path])
                except FAILURES as error:
                    log.error("cannot be replicated", extra={"db": str(path), "error": str(error)})  # noqa: TRY400
        return _SETTLE_S if gone else _RESCAN_S  # one that was moved is let go of first

    def _apart(self, paths: Iterable[Path]) -> Apart:
        """Return who has which replica, of databases of ours."""
        apart = Apart()
        for path in paths:
            apart.take(path, [replica.url for replica in self._members[path].replicas])
        return apart

    def _open(self, wanted: Mapping[Path, Replicated], apart: Apart) -> dict[Path, tuple[Replica, ...]]:
        """Open the replicas of databases, all or none; nothing is sent."""
        opened: dict[Path, tuple[Replica, ...]] = {}
        done: list[Replica] = []
        try:
            for path, what in wanted.items():
                start = len(done)
                done += (self._opened_at(place) for place in what.places)
                opened[path] = tuple(done[start:])
                _take(apart, what, opened[path])
        except BaseException:
            for replica in done:
                replica.close()
            raise
        return opened

    def _opened_at(self, place: Place) -> Replica:
        replica = uploading(place.open())
        if self._opened is not None:
            self._opened(replica)
        return replica

    def _begin(self, what: Replicated, replicas: tuple[Replica, ...]) -> None:
        database = Database(what.path, replicas, what.settings)
        found = identity(what.path)
        self._held[database] = {found} if found else set()
        self._members[what.path] = _Member(what, database, replicas)
        self._daemon.add(database)
        if self._daemon.is_running:
            log.info("takes up", extra={"db": str(what.path)})

    def _end(self, paths: Iterable[Path], flush_s: float) -> Sequence[Future[None]]:
        """Let go of databases, each as long as its storages take for it."""
        members = [self._members.pop(path) for path in paths]
        return [
            self._ending.submit(self._let_go, member, self._daemon.remove(member.database, flush_s=flush_s))
            for member in members
        ]

    def _let_go(self, member: _Member, flush: Callable[[], bool]) -> None:
        with suppress(*FAILURES):  # it is logged
            flush()
        del self._held[member.database]
        for replica in member.replicas:
            replica.close()
        log.info("lets go", extra={"db": str(member.what.path)})


def _take(apart: Apart, what: Replicated, replicas: Sequence[Replica]) -> None:
    try:
        apart.take(what.path, [replica.url for replica in replicas])
    except ConfigError as error:
        line = what.places[0].line
        if line is None:
            raise
        raise line.error(error) from error


def uploading(replica: Replica) -> Replica:
    """Let a replica give up soon where its storage does not answer, since whoever uploads tries again; return it.

    Not at once: a merge reads hundreds of files, and where one in a hundred fails it would never end.
    """
    if isinstance(replica.backend, RetryingBackend):
        replica.backend.retry = Retry(tries=4, total_s=5, connect_s=5)
    return replica
