"""The end of replicating a database: what is left goes to the replicas, or it is said what did not, and why."""

import logging
import time
from collections.abc import Callable
from enum import Enum

from backends import BackendError
from ltx.replication.database import Database
from ltx.replication.failures import describe
from ltx.replication.source import NoDatabaseError

__all__ = ["flush", "why_not"]

log = logging.getLogger("ltx")


class _End(Enum):
    """How it ended, other than well."""

    NEVER = "it was not replicated"
    LATE = "not everything is on the replica; it stays beside the database"
    UNREADABLE = "it cannot be read any more; what was captured of it is on the replica"


_LOGGED = {
    _End.NEVER: "ended; it was not replicated",
    _End.LATE: "ended with transactions that are not on every replica; they stay on this machine",
    _End.UNREADABLE: "ended; it cannot be read any more, and what was captured of it is on every replica",
}


def flush(database: Database, *, until: float, pause: Callable[[], bool]) -> bool:
    """Bring everything to the replicas, for as long as there is time and waiting can help; then let go of the database.

    Args:
        database: The database. Where it ends badly its `error` says why.
        until: When to give up, by the monotonic clock.
        pause: Waits for the next try, or returns True where there is to be none.

    Returns:
        Whether every replica has everything.
    """
    try:
        while True:
            error = _captured(database)
            if error and not database.is_open and not isinstance(error, BackendError):
                break  # somebody else has it, or there is none
            done = [each.push() for each in database.uploaders] if database.is_open else [False]
            sent = all(done)  # each had its turn
            gone = (
                database.compared > 0 and not database.path.exists()
            )  # what was captured is all there will be
            if sent and (error is None or gone):
                database.error = None
                return True
            if isinstance(error, NoDatabaseError) and (sent or not database.line.txid):
                break
            if not sent:
                error = next((each.error for each in database.uploaders if each.error), None) or error
            hopeless = all(each.stopped for each in database.uploaders)
            if hopeless or time.monotonic() >= until or pause():
                break
        database.error = error
        log.error(_LOGGED[_what(database)], extra={"db": str(database.path), "error": describe(error)})
    finally:
        database.close()
    return False


def why_not(database: Database) -> str:
    """Return what to say of a database whose `flush` ended badly."""
    what = _what(database)
    errors = [describe(each.error) for each in database.uploaders if each.error and what is _End.LATE]
    return f"{what.value}: {'; '.join(filter(None, errors)) or describe(database.error)}"


def _what(database: Database) -> _End:
    if isinstance(database.error, BackendError):
        return _End.LATE
    if not database.compared:
        return _End.NEVER
    return _End.UNREADABLE if isinstance(database.error, NoDatabaseError) else _End.LATE


def _captured(database: Database) -> Exception | None:
    """Capture what is committed; return what is in the way of that."""
    try:
        database.sync()
    except Exception as error:  # noqa: BLE001 - it is logged, and the others are to be flushed, too
        return error
    return None
