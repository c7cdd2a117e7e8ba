"""PEP 249, Python's database interface, on a replica: what SQLAlchemy, Django, pandas and polars speak.

>>> from vfs import dbapi
>>> with closing(dbapi.connect("s3://bucket/app", at="-1h")) as connection:
...     connection.execute("SELECT * FROM sandwich_ratings WHERE stars > ?", (3,)).fetchall()

It follows the standard library's `sqlite3` where that has an answer: its names, its Python types, its adapters and
converters. Two things differ. A transaction begins with the first query, as PEP 249 has it, and sees one state of
the replica until `commit()` or `rollback()`; with `isolation_level=None` each statement sees the newest. And a
write to the replica raises `OperationalError`.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from sqlite3 import (
    PARSE_COLNAMES,
    PARSE_DECLTYPES,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    TimestampFromTicks,
    register_adapter,
    register_converter,
)
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar, overload
from weakref import WeakSet

import apsw

import vfs.connection
from vfs.dbapi_cursor import BINARY, DATETIME, NUMBER, ROWID, STRING, Cursor, Parameters, TypeCode
from vfs.dbapi_errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,  # noqa: A004 - PEP 249's name
    public_errors,
)
from vfs.file import LATEST

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "PARSE_COLNAMES",
    "PARSE_DECLTYPES",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "TypeCode",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "register_adapter",
    "register_converter",
    "sqlite_version",
    "sqlite_version_info",
    "threadsafety",
]

apilevel = "2.0"
paramstyle = "qmark"
"""`?`; `:name` with a mapping works too."""

threadsafety = 1
"""Threads may share this module, and hand on a connection, but not use one at the same time: that raises."""

Timestamp = datetime
sqlite_version = apsw.sqlite_lib_version()
sqlite_version_info = tuple(map(int, sqlite_version.split(".")))


_C = TypeVar("_C", bound="Cursor")

_IN_TRANSACTION = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:select|with|values|insert|update|delete|replace|savepoint)\b",
    re.IGNORECASE | re.DOTALL,
)
"""Statements that a transaction is begun for: those that read or write rows, and a part of a transaction."""

_TRAVELS = re.compile("litestream_(set_)?time", re.IGNORECASE)
"""Stands in every statement that can change the time that is seen."""


def connect(
    url: str,
    at: str | datetime | None = None,
    txid: int | str | None = None,
    *,
    isolation_level: str | None = "",
    detect_types: int = 0,
    **options: Any,
) -> "Connection":
    """Open a replica for queries.

    Args:
        url: The replica, such as `s3://bucket/app`.
        at: A time to stay at, such as `-1h`, counted from now; None and `latest` follow.
        txid: A TXID to stay at.
        isolation_level: None for a view of its own for each statement, else one view from the first query to `commit()`
            or `rollback()`.
        detect_types: `PARSE_DECLTYPES`, `PARSE_COLNAMES` or both, as for `sqlite3`: use its converters.
        options: Those of `vfs.connect`; what it does not know goes to the storage.

    Raises:
        OperationalError: The storage cannot be reached, the replica is empty, or the time cannot be had.
        ProgrammingError: An argument means nothing.
        DatabaseError: The replica is damaged.
    """
    with public_errors:
        opened = vfs.connection.connect(url, at, txid, **options)
    follows = txid is None and (at is None or (isinstance(at, str) and at.strip().lower() == LATEST))
    return Connection(opened, follows=follows, isolation_level=isolation_level, detect_types=detect_types)


for _kind in (
    Warning, Error, InterfaceError, DatabaseError, DataError, OperationalError, IntegrityError, InternalError,
    ProgrammingError, NotSupportedError,
):  # fmt: skip
    _kind.__module__ = __name__  # what a traceback names, and what is to be caught


class Connection:
    """A connection to a replica. Made by `connect`.

    Args:
        opened: On the replica.
        follows: Whether no time was set.
        isolation_level: As `connect` takes it.
        detect_types: As `connect` takes it.
    """

    __slots__ = (
        "__weakref__",
        "_cursors",
        "_has_travelled",
        "_isolation_level",
        "_opened",
        "_start",
        "detect_types",
    )  # `row_factory` and the like of sqlite3, which are not here, are refused and not ignored

    Warning, Error, InterfaceError, DatabaseError = Warning, Error, InterfaceError, DatabaseError
    DataError, OperationalError, IntegrityError = DataError, OperationalError, IntegrityError
    InternalError, ProgrammingError, NotSupportedError = InternalError, ProgrammingError, NotSupportedError

    def __init__(
        self, opened: apsw.Connection, *, follows: bool, isolation_level: str | None, detect_types: int
    ) -> None:
        self._opened = opened
        self._start = None if follows else self._moment()
        self._has_travelled = False
        self._isolation_level = isolation_level
        self._cursors: WeakSet[Cursor] = WeakSet()
        self.detect_types = detect_types

    @property
    def isolation_level(self) -> str | None:
        """None where each statement has a view of its own; setting it to None ends the transaction."""
        return self._isolation_level

    @isolation_level.setter
    def isolation_level(self, level: str | None) -> None:
        if level is None:
            self.commit()
        self._isolation_level = level

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        with public_errors:
            return self._opened.in_transaction

    @property
    def total_changes(self) -> int:
        """Rows of temporary and attached tables that were changed."""
        with public_errors:
            return self._opened.total_changes()

    @overload
    def cursor(self) -> "Cursor": ...
    @overload
    def cursor(self, factory: "Callable[[Connection], _C]") -> _C: ...
    def cursor(self, factory: "Callable[[Connection], Any] | None" = None) -> Any:
        """Return a new cursor, of another class where one is given."""
        made = (factory or Cursor)(self)
        self._cursors.add(made)
        return made

    def execute(self, sql: str, parameters: Parameters = ()) -> "Cursor":
        """Run a statement on a new cursor, and return it."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> "Cursor":
        """Run a statement once for each set of parameters on a new cursor, and return it."""
        return self.cursor().executemany(sql, parameters)

    def commit(self) -> None:
        """End the transaction; the next one sees what is newest then. Does nothing where there is none."""
        self._end("COMMIT")

    def rollback(self) -> None:
        """End the transaction and every query under way; undo what was written to temporary and attached tables."""
        for cursor in list(self._cursors):
            cursor.cut_off()
        self._end("ROLLBACK")

    def close(self) -> None:
        """Close it; a second time does nothing."""
        with public_errors:
            self._opened.close()

    def reset(self) -> None:
        """Take it back to how it was opened: nothing under way, nothing attached, the time that it had.

        Raises:
            OperationalError: The state that it was opened at cannot be had any more: close it.
        """
        self.rollback()
        with public_errors:
            for name in self._opened.db_names()[2:]:
                self._opened.execute(f"DETACH {apsw.format_sql_value(name)}")
            if self._has_travelled:
                self._return()
        self._has_travelled = False

    def interrupt(self) -> None:
        """Let what another thread is doing on this connection end with `OperationalError`."""
        with public_errors:
            self._opened.interrupt()

    def create_function(
        self, name: str, narg: int, func: Callable[..., Any] | None, *, deterministic: bool = False
    ) -> None:
        """Let SQL call a Python function; -1 takes any number of arguments."""
        with public_errors:
            self._opened.create_scalar_function(name, func, narg, deterministic=deterministic)

    def create_aggregate(self, name: str, n_arg: int, aggregate_class: Callable[[], Any] | None) -> None:
        """Let SQL call an aggregate: a class with the methods `step` and `finalize`."""
        factory = None
        if aggregate_class is not None:
            made = aggregate_class

            def factory() -> Any:
                return made(), _step, _finalize

        with public_errors:
            self._opened.create_aggregate_function(name, factory, n_arg)

    def create_collation(self, name: str, callable: Callable[[str, str], int] | None) -> None:  # noqa: A002 - sqlite3's name
        """Let SQL sort by a Python function."""
        with public_errors:
            self._opened.create_collation(name, callable)

    def getlimit(self, category: int) -> int:
        """Return one of SQLite's limits, named by `sqlite3.SQLITE_LIMIT_...`."""
        with public_errors:
            return self._opened.limit(category)

    def begin_for(self, sql: str) -> None:
        """Begin the transaction that a statement shall be part of, unless there is one or none is wanted."""
        self._has_travelled = self._has_travelled or _TRAVELS.search(sql) is not None
        if (
            self._isolation_level is not None
            and _IN_TRANSACTION.match(sql)
            and not self._opened.in_transaction
        ):
            self._opened.execute(f"BEGIN {self._isolation_level}")

    def new_apsw_cursor(self) -> apsw.Cursor:
        """Return a cursor of apsw's."""
        return self._opened.cursor()

    def _end(self, how: str) -> None:
        with public_errors:
            if self._opened.in_transaction:
                self._opened.execute(how)

    def _return(self) -> None:
        if self._start is None:
            self._opened.pragma("litestream_time", LATEST)
            return
        if self._moment() != self._start:
            self._opened.pragma("litestream_time", self._start[0])
        if self._moment() != self._start:  # two TXIDs may have one time
            raise OperationalError(f"TXID {self._start[1]}, at which the connection was opened, is gone")

    def _moment(self) -> tuple[str, str]:
        time, txid = (str(self._opened.pragma(f"litestream_{what}")) for what in ("time", "txid"))
        return time, txid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """End the transaction; the connection stays open, as that of `sqlite3` does."""
        if kind is None:
            self.commit()
        else:
            self.rollback()
        return False

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection cannot be sent to another process: connect there, with the same URL")

    def __repr__(self) -> str:
        with suppress(apsw.Error):
            return f"<vfs.dbapi.Connection {self._opened.filename}>"
        return "<vfs.dbapi.Connection closed>"


def _step(aggregate: Any, *values: Any) -> None:
    aggregate.step(*values)


def _finalize(aggregate: Any) -> Any:
    return aggregate.finalize()
