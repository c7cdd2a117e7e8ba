"""`ltx replicate`: what is committed in a database, put on its replicas, until stopped or once."""

import os
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltx.cli.configuration import ConfigFile, ExpandEnv, Strict, read_configuration
from ltx.cli.options import (
    ShowStats,
    StorageOptions,
    check_replica_url,
    examples,
    interval,
    parsed_options,
    usage_error,
)

if TYPE_CHECKING:
    from ltx.replication.config.values import Configuration

__all__ = ["EXAMPLES", "replicate"]

EXAMPLES = examples(
    "ltx replicate app.db s3://bucket/app",
    "ltx replicate app.db s3://bucket/app --exec 'gunicorn app:app' --restore-if-db-not-exists",
    "ltx replicate --config litestream.yml",
    "ltx replicate --once app.db s3://bucket/app",
    "ltx replicate --once app.db /backups/app --stats",
)

_ADDRESS = re.compile(r"(\[[^\]]*\]|[^:]*):[0-9]{1,5}")


_Database = Annotated[
    str | None,
    typer.Argument(metavar="[DB", help="The SQLite database. It may be in use.", show_default=False),
]
_URLs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="URL...]",
        help="The replica, or several: s3://bucket/app, file:///folder or a plain folder.",
        show_default=False,
    ),
]
_Once = Annotated[bool, typer.Option("--once", help="Take what is committed now, and end.")]
_Command = Annotated[
    str | None,
    typer.Option(
        "--exec",
        metavar="COMMAND",
        help="Run this meanwhile; signals are passed on, and its exit status is ours.",
        show_default=False,
    ),
]
_Restore = Annotated[
    bool,
    typer.Option(
        "--restore-if-db-not-exists",
        help="Where the database is missing, restore it first, if the replica can.",
    ),
]
_SyncInterval = Annotated[
    float | None,
    typer.Option(
        metavar="TIME",
        parser=interval,
        help="The shortest time from one transaction to the next, such as 5s or 500ms: 1s unless the configuration says "
        "otherwise.",
        show_default=False,
    ),
]
_Socket = Annotated[
    Path | None,
    typer.Option(help="Where to answer 'ltx status'; by default where it looks.", show_default=False),
]
_Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Serve metrics for Prometheus there, at /metrics.", show_default=False
    ),
]
_Upkeep = Annotated[
    bool, typer.Option(help="Merge files, make snapshots, and delete what is not needed for 24 hours back.")
]
_Adopt = Annotated[
    bool, typer.Option("--adopt", help="Go on with a replica even if another database wrote to it last.")
]
_WAL = Annotated[bool, typer.Option("--wal", help="Bring a database with a rollback journal into WAL mode.")]
_LogJSON = Annotated[bool, typer.Option("--log-json", help="Log JSON lines instead of text.")]


def replicate(
    database: _Database = None,
    urls: _URLs = None,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    strict: Strict = False,
    once: _Once = False,
    command: _Command = None,
    restore: _Restore = False,
    sync_interval: _SyncInterval = None,
    socket: _Socket = None,
    metrics: _Metrics = None,
    upkeep: _Upkeep = True,
    adopt: _Adopt = False,
    wal: _WAL = False,
    log_json: _LogJSON = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Put what is committed in databases on their replicas, until stopped, or once.

    What to replicate is a database and its URLs, or a configuration. Without either the configuration is
    $LITESTREAM_CONFIG, or /etc/litestream.yml.

    Each transaction of the replica holds the pages that changed since the one before; the first one holds all. The
    database is not written to; a folder .NAME-litestream beside it has what waits for upload.

    SIGTERM and Ctrl-C upload what is left first; a second one ends at once, and what is left stays beside the database.
    SIGHUP reads the configuration again.
    """
    from ltx.cli.replicating import Given, replicate_now, replicate_once_each

    if metrics and not _ADDRESS.fullmatch(metrics):
        raise usage_error(f"--metrics is a host and a port, such as 127.0.0.1:9090; not {metrics!r}")
    given = Given(
        _words(command), restore, sync_interval, socket, metrics or "", upkeep, adopt, wal, log_json
    )
    read = None
    if database is not None:
        _check_arguments(database, urls, config, strict or no_expand_env)
        found = _typed(database, urls, storage_option)
    else:
        _check_configuration(config, storage_option)
        read = partial(read_configuration, config, no_expand_env=no_expand_env, strict=strict)
        found = read()
    if once:
        replicate_once_each(given, found, stats=stats)
    elif code := replicate_now(given, found, read, stats=stats):
        raise typer.Exit(code)


def _words(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command)) if command else ()
    except ValueError as error:
        raise usage_error(f"--exec: {error}") from error


def _typed(
    database: str, urls: Sequence[str] | None, storage_options: Sequence[str] | None
) -> "Configuration":
    """Return what a database and its URLs come to."""
    from ltx.replication.config.values import Configuration, Place, Replicated

    places = tuple(Place(url, parsed_options(storage_options)) for url in urls or ())
    return Configuration((Replicated(Path(os.path.abspath(os.path.expanduser(database))), places),))


def _check_arguments(database: str, urls: Sequence[str] | None, config: Path | None, other: bool) -> None:
    if config or other:
        raise usage_error("a database and its URLs need no configuration: give one or the other")
    if not urls:
        raise usage_error(f"{database} needs a replica: name its URL, such as s3://bucket/app or a folder")
    if "://" in database:
        raise usage_error("the database comes first, then the replica's URL; a database is a path, not a URL")
    if os.path.isdir(os.path.expanduser(database)):
        raise usage_error(f"{database} is a folder: name the database in it")
    for url in urls:
        check_replica_url(url)


def _check_configuration(config: Path | None, storage_options: Sequence[str] | None) -> None:
    from ltx.replication.config.reader import DEFAULT_PATH, default_path

    if storage_options:
        raise usage_error("--storage-option goes with URLs; a configuration has settings of its own")
    if config is None and default_path() == DEFAULT_PATH and not os.path.exists(DEFAULT_PATH):
        raise usage_error(
            "what is to be replicated? Name a database and its replica, as in 'ltx replicate app.db s3://bucket/app', or "
            f"--config with a configuration; there is no {DEFAULT_PATH}"
        )
