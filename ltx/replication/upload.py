"""From this machine to one replica: the files that it lacks, in order, each created and never overwritten."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from backends import AlreadyExistsError, BackendError, NotFoundError
from ltx.errors import ConflictError
from ltx.format import TXID, format_txid
from ltx.replica.files import LTXFile
from ltx.replica.lineage import Writer, name_writer, read_writer
from ltx.replica.replica import Replica
from ltx.replica.retention import Verified
from ltx.replication.baseline import checksum_at, table_aside
from ltx.replication.create import create_object
from ltx.replication.failures import describe
from ltx.replication.identity import Identity
from ltx.replication.line import Line
from ltx.replication.staged import LostError, StagedFile, opened
from ltx.replication.table import open_table

__all__ = ["Uploader"]

_LONGEST_PAUSE_S = 30
log = logging.getLogger("ltx")


class Uploader:
    """One replica of a database, and how far it is. One thread at a time pushes; any may look.

    Attributes:
        replica: The replica.
        txid: The last transaction that it has; None until it was asked.
        error: The last error; None since it works.
        upkeep_error: The last error in keeping it small, or what upkeep found damaged; None since all is well.
        late: Whether it did not answer all that was asked when we began: then what it has may be ahead of us, and no
            conflict.
        newest_ms: The time of the newest transaction that was uploaded; 0 for none yet.
        not_before: When, by the monotonic clock, the next try is worth it.

    Args:
        replica: The replica; it stays the caller's.
        line: What is to be uploaded.
        identity: Where it comes from.
        adopt: Whether to go on with what looks like another database's.
    """

    def __init__(self, replica: Replica, line: Line, identity: Identity, *, adopt: bool = False) -> None:
        self.replica = replica
        self.txid: TXID | None = None
        self.late = False
        self.error: Exception | None = None
        self.upkeep_error: Exception | None = None
        self.not_before = 0.0
        self.newest_ms = 0
        self._line, self._identity, self._adopt = line, identity, adopt
        self._pause_s = 0.0
        self._last: tuple[str, int] | None = None
        self._announced = self._lacks = self._doubted = False
        self._heal_from: int | None = None
        self._skip_to = 0
        self._oldest_ms: tuple[TXID | None, int] = (None, 0)
        self._current_ms = _now_ms()
        self._lock = threading.Lock()

    @property
    def stopped(self) -> bool:
        """Whether it will never go on by itself: somebody else writes there."""
        return isinstance(self.error, ConflictError)

    def doubt(self) -> None:
        """Let the next push look what the replica has: it is not what we put there."""
        self._doubted = True

    def heal(self, txid: int) -> None:
        """Let a snapshot be made that makes up for what is damaged or missing there.

        Args:
            txid: The first transaction with which it may end.
        """
        self._heal_from = max(txid, self._heal_from or 0)

    @property
    def needs_snapshot(self) -> bool:
        """Whether the replica lacks files that are not here any more, or has damaged ones, or is to skip some."""
        return self._lacks or self._skips or self._heal_from is not None

    @property
    def wants_snapshot(self) -> bool:
        """Whether a snapshot should be made for it now: it answers, and none lies here."""
        if self.error is not None or not (self._lacks or self._skips or self._can_heal):
            return False
        staged = self._line.snapshot
        if self._lacks:
            wanted = (self.txid or 0) + 1
        else:
            wanted = max(self._skip_to if self._skips else 0, (self._heal_from or 0) if self._can_heal else 0)
        return staged is None or staged.max_txid < wanted

    def skip(self, keep_size: int) -> None:
        """Where too much waits here for a replica that is slow, let a snapshot take the place of what it is too slow for.

        Only where that is less to upload: what waits behind the file under way has more pages than the database, or
        behind the snapshot where one is on its way already. Until there is the snapshot, all goes on as before.

        Args:
            keep_size: Bytes that may wait here in any case.
        """
        if self.txid is None or self.error is not None:
            return
        staged = self._line.snapshot
        if not self._skips:
            behind = (self._line.pending(self.txid) or ())[1:]
        elif staged is not None and staged.max_txid >= self._skip_to:
            behind = self._line.pending(staged.max_txid) or ()
        else:
            return
        size, page_count = sum(file.size for file in behind), sum(file.page_count for file in behind)
        if size > keep_size and page_count > behind[-1].commit:
            self._skip_to = self._line.txid

    @property
    def _skips(self) -> bool:
        return self._skip_to > (self.txid or 0)

    @property
    def _can_heal(self) -> bool:
        return self._heal_from is not None and self._heal_from <= self._line.txid

    @property
    def needed_from(self) -> int:
        """The TXID from which on files are still to be kept here for it; what ends before it may go."""
        staged, txid = self._line.snapshot, self.txid or 0
        if self._lacks:
            return staged.max_txid if staged else self._line.txid
        if self._skips and staged and staged.max_txid >= self._skip_to:
            return staged.max_txid
        return min(txid, staged.max_txid) if staged and self._can_heal else txid

    @property
    def is_current(self) -> bool:
        """Whether the replica has everything that was captured."""
        current = self.txid is not None and self.txid >= self._line.txid and not self._doubted
        return current and self.error is None and not self._lacks and not self._can_heal

    @property
    def status(self) -> Mapping[str, object]:
        """What `ltx status` says of it; the lag is that of what was captured here and is not known to be there."""
        waiting, is_gone = self._waiting()
        since_ms = self.note_oldest()
        return {
            "url": self.replica.url,
            "txid": self.txid,
            "lag_size": (sum(file.size for file in waiting) or self._identity.size) if since_ms else 0,
            "lag_s": max(0.001, (_now_ms() - since_ms) / 1000) if since_ms else 0.0,
            "needs_snapshot": self.needs_snapshot or is_gone,
            "stopped": self.stopped,
            "error": describe(self.error),
            "upkeep_error": describe(self.upkeep_error),
        }

    def _waiting(self) -> tuple[Sequence[StagedFile], bool]:
        """Return the files that the replica lacks or may lack, and whether it is known that others are not here any more."""
        if self.txid is None:  # it did not answer yet: nothing is known to be there
            return self._line.kept(0), False
        waiting = self._line.pending(self.txid)
        return (self._line.kept(self.txid), True) if waiting is None else (waiting, False)

    def note_oldest(self) -> int:
        """Return the time of the oldest transaction that may be missing there, in ms; 0 for none.

        It is remembered when the files of such transactions are let go of: call this before.
        """
        waiting, is_gone = self._waiting()
        if not waiting and not is_gone and not self._lacks and (self.txid or 0) >= self._line.txid:
            return 0
        txid, oldest_ms = self._oldest_ms
        times = [file.timestamp_ms for file in waiting] or [self._current_ms]
        if oldest_ms and txid == self.txid:
            times.append(oldest_ms)
        self._oldest_ms = self.txid, min(times)
        return min(times)

    def look(self) -> tuple[list[LTXFile], LTXFile | None, int]:
        """List the replica: its files, the one of the lowest level that ends with its newest TXID, its checksum."""
        files = list(self.replica.files())
        if not files:
            return files, None, 0
        newest = max(file.max_txid for file in files)
        file = min((file for file in files if file.max_txid == newest), key=lambda file: file.level)
        return files, file, checksum_at(self.replica, file.key)

    def attach(self, newest: LTXFile | None, checksum: int) -> None:
        """Find where to go on, from what `look` found.

        Raises:
            ConflictError: The replica holds transactions that are not ours.
        """
        txid = newest.max_txid if newest else TXID(0)
        known: bool | None = True
        if newest and txid != self.txid:  # else we put it there, or found it to be ours before
            known = self._line.matches(self.replica, newest, checksum)
            if known is False and Verified().fault_of(self.replica.backend, newest):
                self.heal(txid)  # what it ends with says nothing: it is damaged
                known = True
        if txid > self._line.txid or known is False:
            raise self._conflict(f"its TXID {format_txid(txid)} is not ours")
        if known is None and not self._adopt:
            self._check_writer(txid)
        self._lacks = known is None or self._line.pending(txid) is None
        self.txid = txid

    def _check_writer(self, txid: TXID) -> None:
        """Refuse what somebody else wrote, where nothing here tells whether a transaction of the replica is ours.

        Raises:
            ConflictError: It is another database's.
        """
        theirs = self.last_writer()
        if theirs is not None and not self._identity.may_have_written(theirs):
            self._identity.check_writer(theirs, self.replica.url, txid)
            return
        with table_aside(self._line.table_path, self.replica, self.replica.files(), txid) as aside:
            if aside is not None:
                with open_table(self._line.table_path) as ours, open_table(aside) as found:
                    self._identity.check_table(ours, found, self.replica.url)

    def last_writer(self) -> Writer | None:
        """Return who wrote to the replica last; None where it does not say.

        Raises:
            BackendError: The storage did not answer: that is not a no.
        """
        return read_writer(self.replica.backend)

    def push(self) -> bool:
        """Upload what the replica lacks.

        Returns:
            Whether it has everything now. Where not, `error`, `needs_snapshot` and `not_before` say why.
        """
        with self._lock:
            if self.stopped:
                return False
            try:
                self._push()
            except ConflictError as error:
                self.error = error
            except Exception as error:  # noqa: BLE001 - else its status would not say that nothing arrives there
                self.error = error
                self._pause_s = min(_LONGEST_PAUSE_S, max(0.5, self._pause_s * 2))
                self.not_before = time.monotonic() + self._pause_s
            else:
                self.error, self._pause_s, self.not_before = None, 0.0, 0.0
            if self.is_current:
                self._current_ms = _now_ms()
            return self.is_current

    def _push(self) -> None:
        if self.txid is None or self.error is not None or self._doubted:
            # What happened there since the last success is not known: a put whose answer was lost may have landed.
            if self._doubted:
                self._doubted = self._announced = False
            self.attach(*self.look()[1:])
        assert self.txid is not None
        if self._lacks:
            staged = self._line.snapshot
            if staged is None or staged.max_txid <= self.txid:
                return
            if not self._put(staged):
                return
            self.txid, self._lacks = staged.max_txid, False
            self._healed(self._heal_from, staged)
        while files := self._line.pending(self.txid):
            self._check_last()
            for file in files:
                if not self._put(file):
                    break
                self.txid = file.max_txid
        self._lacks = self._line.pending(self.txid) is None
        self._heal()

    def _heal(self) -> None:
        wanted, staged = self._heal_from, self._line.snapshot
        if wanted is None or self._lacks or staged is None or staged.max_txid < wanted:
            return
        try:
            done = self._put(staged)
        except ConflictError:  # one that upkeep made has its name, or the damaged one: another name, then
            self._heal_from = staged.max_txid + 1
        else:
            if done:
                self._healed(wanted, staged)

    def _healed(self, wanted: int | None, staged: StagedFile) -> None:
        if wanted is not None and staged.max_txid >= wanted and self._heal_from == wanted:
            self._heal_from = None
            log.info("is whole again", extra={"replica": self.replica.url, "txid": staged.max_txid})

    def _put(self, file: StagedFile) -> bool:
        """Upload a file; False where it is gone or damaged: what is left of it is worth nothing to anybody."""
        if not self._announced and not self.txid and self.replica.backend.capabilities.put_if_absent:
            with suppress(AlreadyExistsError):  # it stays so only if our file gets there first, too
                self._announce(if_absent=True)
        key = self.replica.layout.key(file.level, file.min_txid, file.max_txid)
        try:
            with opened(file) as staged:
                create_object(self.replica, key, staged, file.checksum, file.timestamp_ms)
            self.newest_ms, self._last = file.timestamp_ms, (key, file.checksum)
        except LostError as error:
            if self._line.lose(file):
                names = {"db": str(self._identity.path), "replica": self.replica.url}
                log.warning(
                    "a file that waited for its upload is lost; a snapshot makes up for it",
                    extra={**names, "error": str(error)},
                )
            return False
        except ConflictError as error:
            raise self._conflict(f"{key} was written by somebody else", key) from error
        if not self._announced:  # not before: only the one of two writers that got through is to be named
            self._announce()
        return True

    def _check_last(self) -> None:
        """Where a storage keeps no second writer out: see that what we put there last was not written over.

        Raises:
            ConflictError: It was.
        """
        if self._last is None or self.replica.backend.capabilities.put_if_absent:
            return
        key, checksum = self._last
        with suppress(NotFoundError):  # pruned meanwhile
            if checksum_at(self.replica, key) != checksum:
                raise self._conflict(f"{key}, which we wrote, was written over by somebody else", key)

    def _announce(self, *, if_absent: bool = False) -> None:
        name_writer(self.replica.backend, self._identity.writer(), if_absent=if_absent)
        self._announced = True

    def _conflict(self, what: str, key: str | None = None) -> ConflictError:
        """Return the error that names both writers."""
        ours, theirs = self._identity.writer(), None
        with suppress(BackendError):
            theirs = self.last_writer()
        other = str(theirs) if theirs and theirs != ours else "one that did not leave its name"
        return ConflictError(
            f"{self.replica.url}: {what}; a replica has one writer, and here are two: we, {ours}, and "
            f"{other}. We stopped: end one of them",
            key=key,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
