"""The dialect `sqlite+litestream` for SQLAlchemy: `create_engine("sqlite+litestream:///?replica_url=...&at=-1h")`.

It is SQLAlchemy's own dialect of SQLite on `vfs.dbapi`: an entry point names it, so that it needs no import.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import Pool, QueuePool
from sqlalchemy.util import asbool

import vfs.connection
from ltx.replica.durations import parse_seconds
from vfs import dbapi

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import ConnectArgsType, DBAPIConnection, DBAPIModule

__all__ = ["LitestreamDialect"]

_PARAMETERS = signature(vfs.connection.connect).parameters
_KINDS: dict[str, type] = (
    {"at": str, "txid": str}
    | {name: type(each.default) for name, each in _PARAMETERS.items() if each.kind is each.KEYWORD_ONLY}
    | {"hydrate": bool}
)
"""What a URL may have beside `replica_url`: the options of `vfs.connect`, of the kind that their defaults are."""


class LitestreamDialect(SQLiteDialect_pysqlite):
    """SQLite on a replica, read-only.

    A connection that goes back to its pool is taken back to the time of its engine, whatever was set on it meanwhile.
    """

    driver = "litestream"
    supports_statement_cache = True

    _kept: DBAPIConnection | None = None

    def connect(self, *cargs: Any, **cparams: Any) -> DBAPIConnection:
        """Open a connection. A first one is kept beside it, idle: the pages in memory last as long as one is open."""
        made = super().connect(*cargs, **cparams)
        if self._kept is None:
            self._kept = super().connect(*cargs, **cparams)
        return made

    @classmethod
    def import_dbapi(cls) -> DBAPIModule:
        """Return `vfs.dbapi`."""
        return dbapi  # type: ignore[return-value]  # its classes are those of the protocol, by another name

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:  # noqa: ARG003
        """Keep a few connections: they share their pages, and each has a thread at a time."""
        return QueuePool

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Have connections reset when they go back to the pool."""
        event.listen(engine.pool, "reset", _reset)

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        """Return what `vfs.dbapi.connect` is called with.

        Raises:
            ArgumentError: The URL names no replica, or has what it cannot have.
        """
        query: dict[str, Any] = dict(url.query)
        replica = query.pop("replica_url", None)
        if not replica or not isinstance(replica, str) or url.database or url.host or url.username:
            raise ArgumentError(
                "the URL of a replica is sqlite+litestream:///?replica_url=s3%3A%2F%2Fbucket%2Fapp, or "
                f"URL.create('sqlite+litestream', query={{'replica_url': 's3://bucket/app'}}), not {_shown(url)}"
            )
        given = {name: _value(name, query.pop(name)) for name in _KINDS if name in query}
        if query:
            raise ArgumentError(
                f"unknown parameter {min(query)!r} beside replica_url: percent-quote the replica's URL whole, as "
                "URL.create() does; options of the storage go into create_engine(..., connect_args={...})"
            )
        return [replica], given


def _value(name: str, text: Any) -> Any:
    kind = _KINDS[name]
    try:
        if kind is bool:
            return asbool(text)
        if kind is float:  # all of them are seconds
            return parse_seconds(text)
        return int(text) if kind is int else text
    except (TypeError, ValueError):
        wanted = {"bool": "true or false", "float": "a number of seconds, or such as 5s"}.get(
            kind.__name__, "a number"
        )
        raise ArgumentError(f"{name} must be {wanted}, not {text!r}") from None


def _reset(connection: Any, _record: object, state: Any) -> None:
    if not state.terminate_only:
        connection.reset()


def _shown(url: URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)
