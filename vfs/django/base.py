"""The backend: Django's own for SQLite, on `vfs.dbapi`."""

import sqlite3
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from sqlite3 import PARSE_COLNAMES, PARSE_DECLTYPES
from types import ModuleType
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.db import NotSupportedError
from django.db.backends.sqlite3 import base
from django.db.backends.sqlite3._functions import register
from django.db.backends.sqlite3.client import DatabaseClient as SQLiteClient
from django.db.backends.sqlite3.creation import DatabaseCreation as SQLiteCreation
from django.db.backends.sqlite3.schema import DatabaseSchemaEditor

from vfs import dbapi

__all__ = ["DatabaseWrapper"]


_kept: dict[str, dbapi.Connection] = {}
"""An idle connection for each of the settings: Django closes its own after each request, and the pages in memory last
as long as one is open."""


class CursorWrapper(dbapi.Cursor):
    """Takes Django's `%s` and `%(name)s` for parameters."""

    def execute(self, sql: str, parameters: Any = None) -> "CursorWrapper":
        """Run a statement; without parameters `%` is nothing special."""
        if parameters is None:
            return super().execute(sql)
        names = list(parameters) if isinstance(parameters, Mapping) else None
        return super().execute(_converted(sql, names), parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> "CursorWrapper":
        """Run a statement for each set of parameters."""
        rest = iter(parameters)
        first = next(rest, None)
        names = list(first) if isinstance(first, Mapping) else None
        every = rest if first is None else chain([first], rest)
        return super().executemany(_converted(sql, names), every)


def _converted(sql: str, names: list[str] | None) -> str:
    """Put SQLite's `?` and `:name` in place of Django's parameters, as Django's own cursor does."""
    convert: Any = base.SQLiteCursorWrapper.convert_query
    converted: str = convert(None, sql, param_names=names)
    return converted


class SchemaEditor(DatabaseSchemaEditor):
    """Refuses to change the schema: a migration belongs to the database that is replicated."""

    def __enter__(self) -> NoReturn:
        raise NotSupportedError(
            f"the database {self.connection.alias!r} is a replica and cannot be migrated: migrate the one that is "
            "replicated, and let allow_migrate() of a database router return False for this one"
        )


class DatabaseClient(SQLiteClient):
    """`manage.py dbshell`: the SQL shell of this package."""

    executable_name = "python"

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: Mapping[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], None]:
        """Return the command. Credentials come from the environment: other programs see what stands in a command."""
        at, txid = (settings_dict["OPTIONS"].get(name) for name in ("at", "txid"))
        moment = [] if at is None else ["--at", str(at)]
        if txid is not None:
            moment = ["--txid", f"{txid:016x}" if isinstance(txid, int) else txid]
        return [sys.executable, "-m", "vfs", str(settings_dict["NAME"]), *moment, *parameters], None


class DatabaseCreation(SQLiteCreation):
    """Test databases: a replica has none of its own, it mirrors the one that is replicated."""

    connection: "DatabaseWrapper"

    def create_test_db(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refuse."""
        raise ImproperlyConfigured(
            f"the database {self.connection.alias!r} is a replica, for which no test database can be made: write "
            "'TEST': {'MIRROR': 'default'} into its settings, with the name of the database that is replicated"
        )

    def set_as_test_mirror(self, primary_settings_dict: Mapping[str, Any]) -> None:
        """From now on read the test database of another alias, by Django's own backend."""
        self.connection.settings_dict["NAME"] = primary_settings_dict["NAME"]
        self.connection.settings_dict["OPTIONS"] = primary_settings_dict["OPTIONS"]
        self.connection.is_mirror = True
        self.connection.Database = sqlite3.dbapi2  # whose errors are to be known


class DatabaseWrapper(base.DatabaseWrapper):
    """A replica as a database of Django. `NAME` is its URL; `OPTIONS` are those of `vfs.dbapi.connect`."""

    display_name = "SQLite replica"
    Database: ModuleType = dbapi
    SchemaEditorClass = SchemaEditor
    client_class = DatabaseClient
    creation_class = DatabaseCreation
    is_mirror = False

    def get_connection_params(self) -> dict[str, Any]:
        """Return what `get_new_connection` is called with."""
        if self.is_mirror:
            return super().get_connection_params()
        settings = self.settings_dict
        if not settings["NAME"]:
            raise ImproperlyConfigured(
                f"settings.DATABASES[{self.alias!r}]['NAME'] is the URL of a replica, such as s3://bucket/app"
            )
        options = dict(settings["OPTIONS"])
        self.transaction_mode = None
        self.init_commands = options.pop("init_command", "").split(";")
        return {"url": str(settings["NAME"]), "detect_types": PARSE_DECLTYPES | PARSE_COLNAMES, **options}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Open the replica, with the functions that Django's queries use."""
        if self.is_mirror:
            mirror = super().get_new_connection(conn_params)
            mirror.execute(
                "PRAGMA read_uncommitted = ON"
            )  # a test's transaction is seen, in a database in memory
            return mirror
        connection = dbapi.connect(**conn_params)
        if (identity := repr(sorted(conn_params.items()))) not in _kept:
            _kept[identity] = dbapi.connect(**conn_params)
        register(connection)
        connection.commit()
        for command in self.init_commands:
            if command.strip():
                connection.execute(command)
        return connection

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor that takes Django's parameters."""
        return (
            super().create_cursor(name) if self.is_mirror else self.connection.cursor(factory=CursorWrapper)
        )
