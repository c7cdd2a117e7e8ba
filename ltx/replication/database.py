"""One live database and its replicas: captured when something was committed, checkpointed, uploaded.

States move in one order: found, durable on this machine, on the replicas. After any doubt, which a start is too, the
whole database is compared with the table of what the line of transactions has, and the difference is the next one.
"""

import errno
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import apsw

from backends import BackendError
from ltx.errors import ConflictError, DatabaseError
from ltx.replica.lineage import Writer, meta_folder
from ltx.replica.replica import Replica
from ltx.replication.baseline import ensure_table, left_here, table_path_of
from ltx.replication.capture import Capture, Captured
from ltx.replication.checkpoint import Checkpointer
from ltx.replication.failures import describe
from ltx.replication.guard import is_held, take_guard
from ltx.replication.identity import Identity
from ltx.replication.line import Line
from ltx.replication.looking import Look, look_at_all, most_ahead
from ltx.replication.pins import Doubt, Pins
from ltx.replication.rollback import RollbackSource, bring_into_wal_mode
from ltx.replication.settings import Settings
from ltx.replication.source import MovedError, PinnedDatabase, check_is_file, unreadable
from ltx.replication.status import Status
from ltx.replication.table import open_table
from ltx.replication.upload import Uploader

__all__ = ["Database", "Settings"]

_TRIES = 8
_STUCK_S = 10
log = logging.getLogger("ltx")


class Database:
    """One database, replicated. `sync` captures; `push` of its uploaders uploads; each by one thread at a time.

    Args:
        path: The database; it may come into being later.
        replicas: Where to; they stay the caller's.
        settings: How.

    Raises:
        DatabaseError: Another process replicates it.
    """

    def __init__(self, path: str | os.PathLike[str], replicas: Sequence[Replica], settings: Settings) -> None:
        if not replicas:
            raise ValueError("a database needs a replica")
        self.path = Path(os.path.abspath(os.path.expanduser(os.fspath(path))))
        self.settings = settings
        self.folder = settings.folder or meta_folder(self.path)
        self.line = Line(self.folder, self.folder / table_path_of(self.path, replicas[0].url).name)
        self._identity = Identity(self.path, self.folder)
        self.uploaders = [
            Uploader(replica, self.line, self._identity, adopt=settings.adopt) for replica in replicas
        ]
        self.error: Exception | None = None
        self.compared = 0
        self.to_restore = settings.restore
        self._opened = self._closed = False
        self._pins: Pins | None = None
        self._capture: Capture | None = None
        self._checkpointer: Checkpointer | None = None
        self._rollback: RollbackSource | None = None
        self._guard: BinaryIO | None = None
        self._lock = threading.RLock()
        self._wal_stuck: str | None = None
        self._disk_failure: str | None = None
        self._counts = (0, 0)
        self._stranger: Uploader | None = None
        self._theirs: Writer | None = None
        self._left: dict[str, int] = {}

    def sync(self) -> bool:
        """Capture everything that is committed now, durably on this machine; checkpoint where that is due.

        Returns:
            Whether there is something new to upload.

        Raises:
            DatabaseError: The database cannot be read now; what is captured stays, and another call goes on.
            BackendError: No replica answers, and nothing here says what they have.
        """
        with self._lock:
            before = self.line.txid
            try:
                self._open()
                self._sync()
            except apsw.Error as error:
                self._begin_anew()
                raise unreadable(self.path, error) from error
            except DatabaseError:
                self._begin_anew()
                raise
            except OSError as error:
                if error.errno == errno.ENOSPC:  # what every replica has may go
                    with suppress(OSError):
                        self.line.roll()
                        self._tidy()
                raise
            finally:
                self._counts = self._frame_counts()
            self._tidy()
            return self.line.txid > before

    def _open(self) -> None:
        for uploader in self.uploaders:
            if uploader.stopped and uploader.late:  # it is ahead of what we knew when we began
                uploader.error, uploader.late, self._opened = None, False, False
        if self._opened:
            self._keep_folder()
            return
        check_is_file(self.path)
        self.take_line()
        try:
            self._agree()
        except BackendError:
            for uploader in self.uploaders:
                uploader.late = True
            raise
        self._opened = True

    def take_line(self) -> None:
        """Let nobody else replicate the database, and find what was captured of it before; it may be missing itself.

        Raises:
            DatabaseError: Another process replicates it.
        """
        with self._lock:
            if self._opened:
                return
            if self._closed:  # what still asks for it must not take it away from who has it now
                raise DatabaseError(f"{self.path} was let go of: it is not replicated here any more")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_guard()
            self._left = left_here(self.folder)
            self.line.open()
            self._identity.read()

    def _take_guard(self) -> None:
        if self._guard is not None and not is_held(self._guard, self.folder):
            self._guard.close()
            self._guard = None
        self._guard = self._guard or take_guard(self.folder, self.path)

    def _keep_folder(self) -> None:
        """Where the folder of the state was deleted, make it anew; a snapshot makes up for what waited in it."""
        if self._guard is not None and is_held(self._guard, self.folder):
            return
        log.warning(
            "the folder of its state was deleted; a snapshot makes up for it", extra={"db": str(self.path)}
        )
        self._begin_anew()
        self._opened = False  # until it is clear that nobody else has it now
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_guard()
        self.line.reset(self.line.txid, known=False)
        self._identity.settle_again()
        self._opened = True

    def _agree(self) -> None:
        """Find out what the replicas have; where one is ahead of what is known here, go on from there."""
        self._stranger = None
        found, problem = look_at_all([each for each in self.uploaders if not each.stopped] or self.uploaders)
        if problem is not None and not self.line.txid:
            raise problem
        if not found:
            return
        self.line.roll()
        others = next((each.error for each in self.uploaders if each.late and each.error), None)
        ahead = most_ahead(found, self.line, self._check_writer, are_all=others is None)
        if others is not None and not found and not self.line.txid:
            raise others
        if ahead is not None and ahead.newest is not None:
            newest = ahead.newest.max_txid
            behind = max(newest, self.line.txid)
            known = ensure_table(self.line.table_path, ahead.uploader.replica, ahead.files, newest)
            self.line.reset(behind, known=known and behind == newest)
            self._begin_anew()
            if self._stranger is None:
                log.info("goes on from what the replica has", extra={"db": str(self.path), "txid": newest})
        for each, _, its, its_checksum in found:
            each.txid, each.late, each.error = None, False, None
            try:
                each.attach(its, its_checksum)
            except Exception as error:  # noqa: BLE001 - its status says it
                each.error = error

    def _check_writer(self, look: Look) -> None:
        """Refuse what somebody else wrote; where only the pages can tell, remember to compare them."""
        assert look.newest is not None
        theirs = look.uploader.last_writer()
        is_here = self._left.get(look.newest.name) == look.checksum
        is_stranger = not (self.settings.adopt or is_here) and self._identity.is_stranger(
            theirs, look.uploader.replica.url, look.newest.max_txid, knows=self.line.txid > 0
        )
        self._theirs, self._stranger = theirs, look.uploader if is_stranger else None

    def _sync(self) -> None:
        try:
            if self.settings.wal and self._capture is None and bring_into_wal_mode(self.path):
                self._let_go()
            if self._rollback is None and self._capture is None:
                self._begin()
            if self._rollback is not None:
                self._sync_rollback(self._rollback)
            elif self._capture is not None and self._capture.followed is not None:
                self._advance(self._capture)
                if self._wanted():
                    self._compare()
            else:
                self._compare()
        except Doubt as doubt:
            log.info("compares all pages", extra={"db": str(self.path), "because": str(doubt)})
            self._begin_anew()
            if self._capture is None:
                self._begin()
            if self._rollback is not None:
                self._sync_rollback(self._rollback)
            else:
                self._compare()

    def _wanted(self) -> bool:
        """Whether a replica waits for a snapshot."""
        return any(uploader.wants_snapshot for uploader in self.uploaders)

    def _begin(self) -> None:
        pins = Pins(self.path)
        if pins.mode != "wal":
            pins.close()
            self._rollback = RollbackSource(self.path)
            return
        self._pins = pins
        self._capture = Capture(pins, self.folder)
        self._checkpointer = Checkpointer(self._capture, self.settings.limits)
        if self._disk_failure is not None:
            self._checkpointer.give_up(self._disk_failure)

    def _advance(self, capture: Capture) -> None:
        assert self._checkpointer is not None
        slides, captured = capture.slides, capture.increment()
        if captured is not None:
            capture.accept(captured)
        self._publish(captured)
        if capture.slides == slides:  # else a look comes first; and somebody else checkpoints
            if self._checkpointer.due():
                self._checkpointer.run(self._publish)
            elif captured is not None:
                capture.slide()
            else:
                capture.relax()
            self._checkpointer.shrink()
        self._report(self._checkpointer)

    def _publish(self, captured: Captured | None) -> None:
        """Make durable what was captured and accepted, and let the application's own checkpoints through meanwhile.

        All its writers may wait for one: the pin slides then, and what was captured until then is made durable, too.
        """
        capture, left = self._capture, [captured] if captured is not None else []
        assert capture is not None
        try:
            left += capture.let_through()
            while left:
                left[0].meanwhile = lambda: left.extend(capture.let_through())
                self.line.stage(left[0])
                left.pop(0).close()
        except BaseException:
            capture.retract()
            raise
        finally:
            for each in left:
                each.close()

    def _report(self, checkpointer: Checkpointer) -> None:
        why = checkpointer.stuck(_STUCK_S)
        if why and (not self._wal_stuck or (checkpointer.failure and why != self._wal_stuck)):
            sizes = {"wal_frames": self._frame_counts()[0], "wal_size": checkpointer.shrinker.size()}
            log.warning("the WAL cannot shrink: %s", why, extra={"db": str(self.path), **sizes})
        self._wal_stuck = why

    def _compare(self) -> None:
        """Compare the whole database under a new pin, and go on from there."""
        assert self._capture is not None
        for number in range(_TRIES):
            try:
                source = self._capture.rebase()
                self._publish_whole(source)
                self._capture.follow(source)
            except MovedError:  # the pin was on a WAL that all was taken from; the next one is not
                if number == _TRIES - 1:
                    raise
            else:
                self._capture.slide()
                return

    def _publish_whole(self, source: PinnedDatabase) -> None:
        if self._stranger is not None:
            self._check_kinship(source, self._stranger)
            self._stranger = None
            log.info(
                "goes on from what the replica has", extra={"db": str(self.path), "txid": self.line.txid}
            )
        self._identity.settle(self._theirs)
        self.line.stage_difference(source)
        self.compared += 1
        if self._wanted():
            self.line.stage_snapshot(source)

    def _check_kinship(self, source: PinnedDatabase, stranger: Uploader) -> None:
        try:
            with open_table(self.line.table_path) as table:
                self._identity.check_kinship(source, table, stranger.replica.url)
        except ConflictError as error:
            self.line.table_path.unlink()  # nothing is to remember that we came here
            self._opened = False
            if all(each.stopped for each in self.uploaders if each is not stranger):
                raise
            stranger.error = error
            raise DatabaseError(f"{error}; its other replicas go on") from error

    def _sync_rollback(self, rollback: RollbackSource) -> None:
        with rollback.changed(always=self._wanted()) as source:
            if source is None:
                return
            self._publish_whole(source)
        rollback.accept()

    def _tidy(self) -> None:
        """Let go of files that every replica has; a replica that would keep too many gets a snapshot later."""
        limit: int = self.line.txid
        done = True
        too_many = self.line.size > self.settings.keep_size
        for uploader in self.uploaders:
            if uploader.stopped or (too_many and uploader.error is not None):
                uploader.note_oldest()
                continue  # it gets a snapshot when it is back
            if too_many:
                uploader.skip(self.settings.keep_size)
            limit, done = min(limit, uploader.needed_from), done and not uploader.needs_snapshot
        self.line.prune(limit, snapshots=done)

    def _begin_anew(self) -> None:
        """Compare everything at the next look, under a new pin, but where the one that there is must stay."""
        if self._pins is not None and self._capture is not None and self._pins.must_stay():
            self._capture.followed = None
        else:
            self._let_go()

    def _let_go(self) -> None:
        if self._checkpointer is not None:
            self._disk_failure = self._checkpointer.failure
        if self._pins is not None:
            self._pins.close()
        if self._rollback is not None:
            self._rollback.close()
        self._pins = self._capture = self._checkpointer = self._rollback = None

    def _frame_counts(self) -> tuple[int, int]:
        if self._pins is None:
            return 0, 0
        with suppress(DatabaseError, apsw.Error):
            return self._pins.frame_counts()
        return 0, 0

    def close(self) -> None:
        """End the pin, bring the table up to date, and let others replicate the database. Nothing is uploaded."""
        with self._lock:
            self._closed = True
            try:
                self._let_go()
                if self._opened:
                    with suppress(
                        OSError
                    ):  # a full disk: the table stays behind its files, and the next start reads them
                        self.line.roll()
                        self._tidy()
            finally:
                if self._guard is not None:
                    self._guard.close()
                    self._guard = None
                self._opened = False

    def waiting(self) -> int | None:
        """Tell whether the application is in a checkpoint that may wait for us, as `Pins.waiting` does."""
        pins = self._pins
        return pins.waiting() if pins is not None else None

    @property
    def is_open(self) -> bool:
        """Whether it was read, and it is known what was captured of it."""
        return self._opened

    @property
    def status(self) -> Status:
        """What is known now."""
        frames, done = self._counts
        checkpointer = self._checkpointer
        following = self._capture is not None or self._rollback is not None
        if isinstance(self.error, ConflictError) or all(each.stopped for each in self.uploaders):
            state = "stopped"
        else:
            state = "replicating" if following else "waiting"
        return Status(
            path=str(self.path),
            state=state,
            mode="wal" if self._capture else "rollback" if self._rollback else "",
            txid=self.line.txid if self._opened else 0,
            wal_frames=frames,
            wal_frames_done=done,
            wal_stuck=self._wal_stuck if checkpointer else None,
            replicas=[uploader.status for uploader in self.uploaders],
            error=describe(self.error),
            checkpoints=checkpointer.count if checkpointer else 0,
            longest_barrier_s=checkpointer.longest_barrier_s if checkpointer else 0.0,
            compared=self.compared,
        )
