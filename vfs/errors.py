"""The errors of queries, and the one table from our errors to SQLite's codes.

An error raised inside SQLite reaches the caller as it is, with its type and text; SQLite itself sees the code
in its attribute `extendedresult`, which `coded` sets.
"""

from typing import TypeVar

import apsw

from backends import BackendError, ConfigError, PermissionDeniedError, UnavailableError
from ltx import CorruptError, LTXError

__all__ = ["InterruptedQueryError", "QueryError", "ReadOnlyError", "coded"]


class QueryError(LTXError):
    """A query on a replica cannot be done as it was asked."""


class ReadOnlyError(QueryError):
    """A replica was to be written, past SQL: that SQLite refuses itself, with `apsw.ReadOnlyError`."""


class InterruptedQueryError(QueryError):
    """A query was interrupted while it waited for the storage."""


_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ReadOnlyError, apsw.SQLITE_READONLY),
    (InterruptedQueryError, apsw.SQLITE_INTERRUPT),
    (KeyboardInterrupt, apsw.SQLITE_INTERRUPT),
    (CorruptError, apsw.SQLITE_CORRUPT),
    (PermissionDeniedError, apsw.SQLITE_AUTH),
    (UnavailableError, apsw.SQLITE_IOERR),
    (ConfigError, apsw.SQLITE_CANTOPEN),
    (BackendError, apsw.SQLITE_IOERR),
    (LTXError, apsw.SQLITE_ERROR),
    (ValueError, apsw.SQLITE_MISUSE),
)

_E = TypeVar("_E", bound=BaseException)


def coded(error: _E, code: int | None = None) -> _E:
    """Give an error the code that SQLite shall see; one that has a code keeps it."""
    if not hasattr(error, "extendedresult"):
        found = next((known for kind, known in _CODES if isinstance(error, kind)), apsw.SQLITE_ERROR)
        error.extendedresult = found if code is None else code  # type: ignore[attr-defined]
    return error
