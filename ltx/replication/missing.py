"""A database that is missing, brought back from its replicas, and nothing that was captured of it lost."""

import logging
import threading

from backends import BackendError
from ltx.errors import LTXError, ReplicaError
from ltx.format import format_txid
from ltx.replication.database import Database
from ltx.replication.upload import Uploader

__all__ = ["RestoreEndedError", "restore_at_start", "restore_missing"]

log = logging.getLogger("ltx")


class RestoreEndedError(LTXError):
    """The end was asked for before a database was restored."""


def restore_at_start(database: Database, ending: threading.Event | None = None) -> None:
    """Restore a database that is missing when we begin with it, where that is asked for.

    Only then: one that is deleted later was deleted by whoever uses it. A try that failed does not count.

    Raises:
        LTXError, backends.BackendError, OSError: As `restore_missing`.
    """
    if not database.to_restore:
        return
    if not database.path.exists():
        restore_missing(database, ending)
    database.to_restore = False


def restore_missing(database: Database, ending: threading.Event | None = None) -> None:
    """Restore a database that is missing, from the replica that has most; where none has anything it stays missing.

    What was captured here and is on no replica yet is uploaded first: restored without it, the database would be taken
    for one in which it was undone.

    Args:
        database: The database.
        ending: Ends it soon, without a database, once it is set.

    Raises:
        RestoreEndedError: It was set.
        LTXError, backends.BackendError, OSError: It cannot be restored, or not yet.
    """
    database.take_line()
    captured = database.line.txid
    found: list[tuple[int, Uploader]] = []
    problem: Exception | None = None
    for uploader in database.uploaders:
        try:
            txid = _txid_at(uploader, captured)
        except (BackendError, OSError) as error:
            problem = error
            continue
        problem = uploader.error or problem
        if txid:
            found.append((txid, uploader))
    newest, source = max(found, key=lambda each: each[0], default=(0, None))
    if problem is not None and (source is None or newest < captured):
        raise problem
    if problem is not None and source is not None and not captured:
        raise ReplicaError(
            f"{database.path} is not restored to TXID {format_txid(newest)}, which is all that {source.replica.url} has, since another "
            f"replica may have more and does not answer: {problem}; restore it with 'ltx restore', or leave that replica out"
        ) from problem
    if source is None:
        return
    if newest < captured:
        log.warning(
            "transactions that were captured of a database that is gone cannot be had again",
            extra={"db": str(database.path), "captured": captured, "restored": newest},
        )

    def check(*_: int) -> None:
        if ending is not None and ending.is_set():
            raise RestoreEndedError(f"{database.path} was not restored: the end was asked for")

    check()
    restored = source.replica.restore(database.path, progress=check)
    log.info("restored", extra={"db": str(database.path), "txid": restored.txid})


def _txid_at(uploader: Uploader, captured: int) -> int:
    """Return the last transaction of a replica, after it got what it lacks of those captured here."""
    newest = max((file.max_txid for file in uploader.replica.files()), default=0)
    if newest >= captured:
        return newest
    uploader.push()
    return uploader.txid or newest
