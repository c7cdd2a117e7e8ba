"""`ltx replicate`: what is committed in a database, put on its replicas, until stopped or once."""

import os
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ltx.cli.configuration import ConfigFile, ExpandEnv, Strict, read_configuration
from ltx.cli.options import (
    ShowStats,
    StorageOptions,
    check_replica_url,
    examples,
    parsed_options,
    usage_error,
)

__all__ = ["EXAMPLES", "replicate"]

EXAMPLES = examples(
    "ltx replicate app.db s3://bucket/app",
    "ltx replicate app.db s3://bucket/app --exec 'gunicorn app:app' --restore-if-db-not-exists",
    "ltx replicate --config litestream.yml",
    "ltx replicate --once app.db s3://bucket/app",
    "ltx replicate --once app.db /backups/app --stats",
)

_ADDRESS = re.compile(r"(\[[^\]]*\]|[^:]*):[0-9]{1,5}")


def replicate(
    database: Annotated[
        str | None,
        typer.Argument(metavar="[DB", help="The SQLite database. It may be in use.", show_default=False),
    ] = None,
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URL...]",
            help="The replica, or several: s3://bucket/app, file:///folder or a plain folder.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    strict: Strict = False,
    once: Annotated[bool, typer.Option("--once", help="Take what is committed now, and end.")] = False,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run this meanwhile; signals are passed on, and its exit status is ours.",
            show_default=False,
        ),
    ] = None,
    restore: Annotated[
        bool,
        typer.Option(
            "--restore-if-db-not-exists",
            help="Where the database is missing, restore it first, if the replica can.",
        ),
    ] = False,
    sync_interval: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="The shortest time from one transaction to the next: 1 unless the configuration says otherwise.",
            show_default=False,
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="Where to answer 'ltx status'; by default where it looks.", show_default=False),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve metrics for Prometheus there, at /metrics.", show_default=False
        ),
    ] = None,
    upkeep: Annotated[
        bool,
        typer.Option(help="Merge files, make snapshots, and delete what is not needed for 24 hours back."),
    ] = True,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Go on with a replica even if another database wrote to it last.")
    ] = False,
    wal: Annotated[
        bool, typer.Option("--wal", help="Bring a database with a rollback journal into WAL mode.")
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines instead of text.")] = False,
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
    from ltx.replication.config.values import Configuration, Place, Replicated

    if metrics and not _ADDRESS.fullmatch(metrics):
        raise usage_error(f"--metrics is a host and a port, such as 127.0.0.1:9090; not {metrics!r}")
    try:
        words = tuple(shlex.split(command)) if command else ()
    except ValueError as error:
        raise usage_error(f"--exec: {error}") from error
    given = Given(words, restore, sync_interval, socket, metrics or "", upkeep, adopt, wal, log_json)
    if database is not None:
        _check_arguments(database, urls, config, strict or no_expand_env)
        places = tuple(Place(url, parsed_options(storage_option)) for url in urls or ())
        named = Replicated(Path(os.path.abspath(os.path.expanduser(database))), places)
        read = None
        found = Configuration((named,))
    else:
        if storage_option:
            raise usage_error("--storage-option goes with URLs; a configuration has settings of its own")
        read = partial(read_configuration, config, no_expand_env=no_expand_env, strict=strict)
        found = read()
    if once:
        replicate_once_each(given, found, stats=stats)
    elif code := replicate_now(given, found, read, stats=stats):
        raise typer.Exit(code)


def _check_arguments(database: str, urls: Sequence[str] | None, config: Path | None, other: bool) -> None:
    if config or other:
        raise usage_error("a database and its URLs need no configuration: give one or the other")
    if not urls:
        raise usage_error(f"{database} needs a replica: name its URL, such as s3://bucket/app or a folder")
    if "://" in database:
        raise usage_error("the database comes first, then the replica's URL; a database is a path, not a URL")
    for url in urls:
        check_replica_url(url)
