"""The SQLite VFS `litestream`: it opens replicas and nothing else.

A connection opened through it goes to SQLite's default VFS for all that is no replica: temporary files and
`ATTACH 'local.db'` (docs/design/0003-default-vfs.md).
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Final
from weakref import WeakValueDictionary

import apsw

from backends import ConfigError
from ltx.replica.durations import parse_seconds
from vfs.cache import PageCache
from vfs.disk_cache import DEFAULT_DISK_SIZE
from vfs.errors import ReadOnlyError, coded
from vfs.file import ReplicaFile
from vfs.hydration_place import is_on
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, Source, open_source
from vfs.waiting import Interrupted

__all__ = ["DEFAULT_POLL_INTERVAL_S", "VFS_NAME", "hand_over", "number", "open_file", "register"]

VFS_NAME: Final = "litestream"
URL_VARIABLE = "LITESTREAM_REPLICA_URL"
DEFAULT_POLL_INTERVAL_S = 1.0

_OF_SQLITE = {"vfs", "mode", "cache", "psow", "nolock", "immutable", "modeof"}
_WITHOUT_LOCKS = {"nolock", "immutable"}
_OURS = {
    "replica_url",
    "poll_interval",
    "cache_size",
    "cache_dir",
    "cache_dir_size",
    "timeout",
    "at",
    "txid",
    "source",
    "pin",
    "hydrate",
    "hydration_path",
}
_TYPED = sorted(_OURS - {"source"})
"""Those that people write."""

_THEIRS = "hydration_enabled"
"""What Litestream calls `hydrate`."""

_NOT_SERVED = {"write_enabled", "sync_interval", "buffer_path"}
_OFF = {"", "0", "false", "no", "off"}

_handed: WeakValueDictionary[str, Source] = WeakValueDictionary()
_register_lock = threading.Lock()


def hand_over(source: Source) -> str:
    """Return a text that names a source in `source=`, as long as it lives: storage options may be no text."""
    token = f"{id(source):x}"
    _handed[token] = source
    return token


def register() -> None:
    """Register the VFS with apsw's SQLite, and let its connections have our SQL functions. Idempotent."""
    with _register_lock:
        if VFS_NAME not in apsw.vfs_names():
            apsw.connection_hooks.append(_prepare)
            _registered.append(LitestreamVFS())


def _prepare(connection: apsw.Connection) -> None:
    """Make a new connection ours if its main database is a replica; leave every other one alone."""
    if connection.vfsname("main") == f"{ReplicaFile.__module__}.{ReplicaFile.__qualname__}":
        from vfs.default_vfs import use_default_vfs  # the extension's helper does without
        from vfs.functions import add_functions

        use_default_vfs(connection)
        add_functions(connection)


class LitestreamVFS(apsw.VFS):
    """Opens replicas, read-only, as `file:name?vfs=litestream&replica_url=...`."""

    def __init__(self) -> None:
        super().__init__(VFS_NAME, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """Open a replica; a temporary file goes to the default VFS."""
        if name is None or not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return super().xOpen(name, flags)
        try:
            file = _open(name)
        except BaseException as error:
            coded(error, apsw.SQLITE_CANTOPEN)
            raise
        flags[1] = (flags[0] | apsw.SQLITE_OPEN_READONLY) & ~(
            apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        return file  # type: ignore[return-value]  # SQLite asks for the methods, not for the class

    def xAccess(self, pathname: str, flags: int) -> bool:
        """A replica has no journal and no WAL, whatever lies in the current folder."""
        return False

    def xFullPathname(self, name: str) -> str:
        """A replica's name is a label: it is no path."""
        return name

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Refuse."""
        raise coded(ReadOnlyError(f"{filename} belongs to a replica, which is read-only"))


_registered: list[LitestreamVFS] = []


def _open(name: str | apsw.URIFilename) -> ReplicaFile:
    if isinstance(name, str):
        return open_file(name, {})
    return open_file(name.filename(), {key: name.uri_parameter(key) or "" for key in name.parameters})


def open_file(
    label: str,
    parameters: Mapping[str, str],
    interrupted: Interrupted | None = None,
    make_cache: Callable[[int], PageCache] = PageCache,
) -> ReplicaFile:
    """Open the replica that a URI names.

    Args:
        label: The name in the URI.
        parameters: The parameters of the URI.
        interrupted: As `ReplicaFile` has it.
        make_cache: As `open_source` has it.

    Raises:
        backends.ConfigError: A parameter means nothing, or no replica is named.
        LTXError: As `ReplicaFile`.
    """
    unknown = sorted(set(parameters) - _OF_SQLITE - _OURS - _NOT_SERVED - {_THEIRS})
    if unknown:
        raise ConfigError(_unknown(unknown[0]))
    asked = sorted(key for key in _NOT_SERVED & set(parameters) if parameters[key].lower() not in _OFF)
    if asked:
        raise ConfigError(f"{asked[0]} is not served: replicas are read-only here")
    asked = sorted(key for key in _WITHOUT_LOCKS & set(parameters) if parameters[key].lower() not in _OFF)
    if asked:
        raise ConfigError(
            f"{asked[0]} is not for replicas: SQLite's locks are what holds a view for a transaction and lets the next "
            "one follow; a time or a TXID (at=, txid=) gives a database that never changes"
        )
    hydrate = is_on(parameters.get("hydrate", parameters.get(_THEIRS)))
    source = _handed.get(parameters.get("source", ""))
    if source is None:
        if "source" in parameters:
            raise ConfigError(f"{label!r} was opened by vfs.connect() and closed since: call it again")
        url = parameters.get("replica_url") or os.environ.get(URL_VARIABLE, "")
        if not url:
            raise ConfigError(
                f"{label!r} names no replica: open file:name?vfs={VFS_NAME}&replica_url=..., or set {URL_VARIABLE}"
            )
        source = open_source(
            url,
            int(number(parameters, "cache_size", DEFAULT_CACHE_SIZE)),
            number(parameters, "timeout", DEFAULT_TIMEOUT_S),
            {},
            cache_dir=parameters.get("cache_dir"),
            cache_dir_size=int(number(parameters, "cache_dir_size", DEFAULT_DISK_SIZE)),
            hydrates=hydrate,
            hydration_path=parameters.get("hydration_path"),
            make_cache=make_cache,
        )
    return ReplicaFile(
        source,
        poll_interval_s=number(parameters, "poll_interval", DEFAULT_POLL_INTERVAL_S),
        at=parameters.get("at"),
        txid=parameters.get("txid"),
        interrupted=interrupted,
        pin=parameters.get("pin", "").lower() not in _OFF,
        hydrate=hydrate,
    )


def _unknown(name: str) -> str:
    """Say what may have been meant by a parameter that is none: one of ours, misspelt, or one of the replica's URL."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower().replace("-", "_"), _TYPED, n=1, cutoff=0.75)
    if close:
        return f"unknown parameter {name!r}: did you mean {close[0]}?"
    return (
        f"unknown parameter {name!r} beside replica_url: percent-quote the replica's URL whole, as vfs.uri() does; "
        f"known are {', '.join(_TYPED)}"
    )


def number(parameters: Mapping[str, str], name: str, default: float) -> float:
    """Return a number of bytes or seconds; seconds may be written as `500ms` or `1m30s` too, as the peer has them."""
    text = parameters.get(name, "")
    if not text:
        return default
    is_size = name.endswith("_size")
    try:
        value = float(text) if is_size else parse_seconds(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1 << 53:
        kind = "a number of bytes" if is_size else "a number of seconds, or such as 500ms or 5s"
        raise ConfigError(f"{name} must be {kind}, not {text!r}")
    return value
