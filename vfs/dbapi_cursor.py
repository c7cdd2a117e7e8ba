"""Cursors of PEP 249: a statement, its columns and rows, as `sqlite3` gives them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from sqlite3 import PARSE_COLNAMES, PARSE_DECLTYPES
from typing import TYPE_CHECKING, Any, Self

import apsw

from vfs.dbapi_errors import ProgrammingError, public_errors

if TYPE_CHECKING:
    from vfs.dbapi import Connection

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Column",
    "Cursor",
    "Parameters",
    "Row",
    "TypeCode",
]


class TypeCode:
    """What a column is declared as; SQLite may hold other values in it all the same."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


STRING, BINARY, NUMBER, DATETIME, ROWID = map(TypeCode, ("STRING", "BINARY", "NUMBER", "DATETIME", "ROWID"))

_TYPE_CODES = (
    (re.compile("date|time", re.IGNORECASE), DATETIME),
    (re.compile("int", re.IGNORECASE), NUMBER),  # the rest is SQLite's rule of affinity, in its order
    (re.compile("char|clob|text", re.IGNORECASE), STRING),
    (re.compile("blob", re.IGNORECASE), BINARY),
)

Value = Any
"""What a column gives: None, int, float, str or bytes, or what a converter makes of it."""

Row = tuple[Value, ...]
Parameters = Sequence[Any] | Mapping[str, Any]
Column = tuple[str, TypeCode | None, None, None, None, None, None]
_Converter = Callable[[bytes], Any]

_COLUMN_NAME = re.compile(r"(.*?)\s*\[(\w+)\]\s*", re.DOTALL)
_NOTHING = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*", re.DOTALL)
"""What may follow a statement: spaces and comments."""


class Cursor:
    """A statement and its rows. Made by `Connection.cursor`.

    Attributes:
        connection: The connection that it belongs to.
        arraysize: Rows that `fetchmany` returns.
        description: For each column its name, its `TypeCode` (None for an expression) and five times None; None before the
            first statement and after one without rows.
        rowcount: Rows that the last statement changed in temporary and attached tables; -1 for a query.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: tuple[Column, ...] | None = None
        self.rowcount = -1
        self._converters: list[_Converter | None] | None = None
        self._sql = ""
        self._writes = self._is_cut_off = False
        with public_errors:
            self._cursor = connection.new_apsw_cursor()
        self._cursor.convert_binding = _adapted

    @property
    def lastrowid(self) -> int:
        """The row that was inserted last into a temporary or attached table."""
        return self._cursor.connection.last_insert_rowid()

    def execute(self, sql: str, parameters: Parameters = ()) -> Self:
        """Run one statement.

        Args:
            sql: With `?` or `:name` for values.
            parameters: A sequence, or a mapping for names.
        """
        self._forget()
        with public_errors:
            changes = self._before(sql)
            self._run(sql, parameters)
            if self.description is None:
                self._count(changes)
        return self

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Self:
        """Run one statement, which returns no rows, once for each set of parameters."""
        self._forget()
        with public_errors:
            changes = self._before(sql)
            for each in parameters:
                self._run(sql, each)
                if self.description is not None:
                    raise ProgrammingError(
                        "executemany() is for statements that return no rows: use execute()"
                    )
            self._count(changes)
        return self

    def fetchone(self) -> Row | None:
        """Return the next row, or None."""
        return next(self, None)

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """Return the next rows, `arraysize` where no number is given."""
        return list(islice(self, self.arraysize if size is None else size))

    def fetchall(self) -> list[Row]:
        """Return all rows that are left."""
        with public_errors:
            self._check_whole()
            rows = self._cursor.fetchall()
        return rows if self._converters is None else [self._converted(row) for row in rows]

    def close(self) -> None:
        """Close it; a second time does nothing."""
        with public_errors:
            self._cursor.close(True)

    def cut_off(self) -> None:
        """Give up the rows that are left: they would hold on to a state of the replica."""
        with public_errors, suppress(apsw.ExecutionCompleteError, apsw.CursorClosedError):
            if self._cursor.has_vdbe:  # raises where nothing is under way
                self._cursor.close(True)
                self._cursor = self.connection.new_apsw_cursor()
                self._cursor.convert_binding = _adapted
                self._is_cut_off = True

    def setinputsizes(self, _sizes: Sequence[Any]) -> None:
        """Do nothing: SQLite needs no sizes."""

    def setoutputsize(self, _size: int, _column: int | None = None) -> None:
        """Do nothing: SQLite needs no sizes."""

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        with public_errors:
            self._check_whole()
            row: Row = self._cursor.__next__()
        return row if self._converters is None else self._converted(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        self.description, self.rowcount, self._converters, self._is_cut_off = None, -1, None, False

    def _check_whole(self) -> None:
        if self._is_cut_off:
            raise ProgrammingError("the rows that were left ended with rollback(): run the statement again")

    def _run(self, sql: str, parameters: Parameters) -> None:
        self._sql = sql
        self._cursor.exec_trace = self._begun
        try:
            self._cursor.execute(sql, parameters)
        finally:
            self._cursor.exec_trace = None  # a circle, in which a forgotten cursor would hold on to its state

    def _before(self, sql: str) -> int:
        if not isinstance(sql, str):
            raise ProgrammingError(f"a statement is a str, not {type(sql).__name__}")
        self.connection.begin_for(sql)
        return self.connection.total_changes

    def _count(self, changes: int) -> None:
        """Say how many rows were changed, where the statement could."""
        self.rowcount = self.connection.total_changes - changes if self._writes else -1

    def _begun(self, cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        """Look at a statement before its first row: when there are none, apsw knows no columns afterwards."""
        if not self._sql:
            return True  # of the first statement nothing but spaces is left
        if _NOTHING.fullmatch(self._sql, len(sql)) is None:
            raise ProgrammingError("one statement at a time: this text has several")
        self._sql = ""
        self._writes = not cursor.is_readonly
        columns = cursor.get_description()
        if columns:
            parsed = self.connection.detect_types
            self.description = tuple(_column(name, kind, parsed) for name, kind in columns)
            if parsed:
                converters = [_converter(name, kind, parsed) for name, kind in columns]
                self._converters = converters if any(converters) else None
        return True

    def _converted(self, row: Row) -> Row:
        return tuple(
            value if value is None or converter is None else converter(_as_bytes(value))
            for value, converter in zip(row, self._converters or (), strict=True)
        )


def _column(name: str, declared: str | None, detect_types: int) -> Column:
    found = _COLUMN_NAME.fullmatch(name) if detect_types & PARSE_COLNAMES else None
    code = None
    if declared:
        code = next((code for pattern, code in _TYPE_CODES if pattern.search(declared)), NUMBER)
    return (found[1] if found else name), code, None, None, None, None, None


def _converter(name: str, declared: str | None, detect_types: int) -> _Converter | None:
    known: Mapping[str, _Converter] = sqlite3.converters
    found = _COLUMN_NAME.fullmatch(name) if detect_types & PARSE_COLNAMES else None
    if found and found[2].upper() in known:
        return known[found[2].upper()]
    if declared and detect_types & PARSE_DECLTYPES:
        return known.get(re.split(r"[ (]", declared, maxsplit=1)[0].upper())
    return None


def _as_bytes(value: Value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _adapted(_cursor: apsw.Cursor, place: int | str, value: object) -> Any:
    """Turn a value that SQLite does not know into one that it does, by what was registered with `sqlite3`."""
    try:
        return sqlite3.adapt(value, sqlite3.PrepareProtocol)
    except sqlite3.ProgrammingError:
        kind = type(value).__name__
        raise ProgrammingError(
            f"parameter {place}: {kind} is no type of SQLite's, and no adapter is registered"
        ) from None
