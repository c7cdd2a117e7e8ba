"""The errors of PEP 249, and the one place where apsw's, the storage's and ours become them.

Exception
├─ Warning          never raised here; PEP 249 wants the name
└─ Error            carries `sqlite_errorcode` and `sqlite_errorname`, as those of `sqlite3` do
   ├─ InterfaceError
   └─ DatabaseError      a damaged replica
      ├─ DataError          a value is too big
      ├─ OperationalError   the storage, the state of the replica, SQL, a write
      ├─ IntegrityError     a constraint of a temporary or attached table
      ├─ InternalError
      ├─ ProgrammingError   an argument, a closed connection, a wrong number of parameters
      └─ NotSupportedError

The error that it was made from is its `__cause__`, with all its attributes.
"""

import apsw
import apsw.ext

from backends import BackendError, ConfigError
from ltx import CorruptError
from vfs.errors import ReadOnlyError

__all__ = [
    "DataError",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Warning",
    "public_errors",
]


class Warning(Exception):  # noqa: A001 - PEP 249's name
    """Never raised; PEP 249 wants the name."""


class Error(Exception):
    """The root of all errors of this interface.

    Attributes:
        sqlite_errorcode: SQLite's extended code; None where SQLite had no part in it.
        sqlite_errorname: Its name, such as `SQLITE_READONLY`.
    """

    sqlite_errorcode: int | None = None
    sqlite_errorname: str | None = None


class InterfaceError(Error):
    """SQLite was called in a way that it cannot be."""


class DatabaseError(Error):
    """The replica, or an attached database, is damaged; the root of the following."""


class DataError(DatabaseError):
    """A value is too big."""


class OperationalError(DatabaseError):
    """The storage or the replica does not give what was asked for, or SQL is wrong, or writes."""


class IntegrityError(DatabaseError):
    """A constraint of a temporary or attached table does not hold."""


class InternalError(DatabaseError):
    """SQLite is at fault."""


class ProgrammingError(DatabaseError):
    """An argument, a URL or a time means nothing, or something closed is used."""


class NotSupportedError(DatabaseError):
    """A replica cannot do this."""


_KINDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[Error]], ...] = (
    ((apsw.ConstraintError, apsw.MismatchError), IntegrityError),
    ((apsw.CorruptError, apsw.NotADBError, CorruptError), DatabaseError),
    (apsw.InternalError, InternalError),
    ((apsw.MisuseError, apsw.RangeError), InterfaceError),
    (apsw.TooBigError, DataError),
    (
        (
            apsw.BindingsError,
            apsw.ConnectionClosedError,
            apsw.CursorClosedError,
            apsw.ThreadingViolationError,
            apsw.IncompleteExecutionError,
            apsw.InvalidContextError,
        ),
        ProgrammingError,
    ),
    ((apsw.Error, BackendError), OperationalError),
    ((ValueError, TypeError, LookupError), ProgrammingError),
)

_TEXTS: tuple[tuple[type[Exception], str], ...] = (
    (
        apsw.ConnectionClosedError,
        "Cannot operate on a closed database.",
    ),  # as sqlite3 has it: SQLAlchemy looks
    (apsw.CursorClosedError, "Cannot operate on a closed cursor."),
    (
        apsw.ThreadingViolationError,
        "the connection is at work in another thread: give each thread a connection of its own",
    ),
    (apsw.ReadOnlyError, "a replica is read-only: write to the database itself"),
    (ReadOnlyError, "a replica is read-only: write to the database itself"),
)


def _public(error: Exception) -> Error:
    """Return the error of PEP 249 to raise for another one."""
    kind: type[Error] = next((kind for known, kind in _KINDS if isinstance(error, known)), OperationalError)
    if isinstance(error, ConfigError):
        kind = ProgrammingError
    text = next((text for known, text in _TEXTS if isinstance(error, known)), None) or _text_of(error)
    made = kind(text)
    code = getattr(error, "extendedresult", None)
    if isinstance(code, int) and code > 0:
        made.sqlite_errorcode = code
        made.sqlite_errorname = apsw.ext.result_string(code)
    return made


def _text_of(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no value for the parameter :{error.args[0]}"
    if isinstance(error, apsw.CantOpenError) and "://" in str(error):
        return f"{error}; a replica is attached by the name that vfs.uri(URL) gives"
    return str(error) or type(error).__name__


class _PublicErrors:
    """Turns what is raised within into the errors of PEP 249; what is Python's own affair passes."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        passes = (Error, MemoryError, OverflowError, StopIteration)
        if isinstance(error, apsw.NoMemError):
            raise MemoryError("SQLite has no more memory") from error  # noqa: TRY004 - of no wrong type
        if isinstance(error, Exception) and not isinstance(error, passes):
            raise _public(error) from error


public_errors = _PublicErrors()
