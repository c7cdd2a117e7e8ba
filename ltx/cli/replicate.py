"""`ltx replicate`: what is committed in a database, put on its replicas, until stopped or once."""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ltx.cli.options import ShowStats, StorageOptions, examples, opened_replica, usage_error
from ltx.cli.output import complain, progress_bar
from ltx.format import format_txid
from ltx.replica import format_time
from ltx.replica.layout import SNAPSHOT_LEVEL

__all__ = ["EXAMPLES", "replicate"]

EXAMPLES = examples(
    "ltx replicate app.db s3://bucket/app",
    "ltx replicate app.db s3://bucket/app --exec 'gunicorn app:app' --restore-if-db-not-exists",
    "ltx replicate --once app.db s3://bucket/app",
    "ltx replicate --once app.db /backups/app --stats",
)


def replicate(
    database: Annotated[
        str, typer.Argument(metavar="DB", help="The SQLite database. It may be in use.", show_default=False)
    ],
    urls: Annotated[
        list[str],
        typer.Argument(
            metavar="URL...",
            help="The replica, or several: s3://bucket/app, file:///folder or a plain folder.",
            show_default=False,
        ),
    ],
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
        float,
        typer.Option(metavar="SECONDS", min=0.0, help="The shortest time from one transaction to the next."),
    ] = 1.0,
    socket: Annotated[
        Path | None,
        typer.Option(help="Where to answer 'ltx status'; by default where it looks.", show_default=False),
    ] = None,
    upkeep: Annotated[
        bool,
        typer.Option(help="Merge files, make snapshots, and delete what is not needed for 24 hours back."),
    ] = True,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Go on with a replica even if it looks like another database's.")
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines instead of text.")] = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Put what is committed in a database on its replica, until stopped, or once.

    Each transaction of the replica holds the pages that changed since the one before; the first one holds all. The
    database is not written to; a folder .NAME-litestream beside it has what waits for upload.

    SIGTERM and Ctrl-C upload what is left first; a second one ends at once, and what is left stays beside the database.
    """
    if "://" in database:
        raise usage_error("the database comes first, then the replica's URL; a database is a path, not a URL")
    if once and (command or len(urls) > 1):
        raise usage_error("--once takes one URL and no --exec")
    if restore:
        _restore_missing(database, urls[0], storage_option, stats=stats)
    if once:
        _replicate_once(database, urls[0], storage_option, stats=stats)
    else:
        settings = _Following(command, sync_interval, socket, log_json, upkeep, adopt)
        code = _follow(database, urls, storage_option, settings, stats=stats)
        if code:
            raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Following:
    command: str | None
    sync_interval_s: float
    socket: Path | None
    log_json: bool
    upkeep: bool
    adopt: bool


def _restore_missing(database: str, url: str, storage_option: Sequence[str] | None, *, stats: bool) -> None:
    if Path(database).expanduser().exists():
        return
    with opened_replica(url, storage_option, stats=stats) as replica:
        if replica.files():
            replica.restore(database)


def _follow(
    database: str,
    urls: Sequence[str],
    storage_option: Sequence[str] | None,
    settings: _Following,
    *,
    stats: bool,
) -> int:
    from ltx.replication.database import Database, Settings
    from ltx.replication.logs import log_to_stderr
    from ltx.replication.maintenance import Upkeep
    from ltx.replication.run import prepare_process, run, uploading

    try:
        command = shlex.split(settings.command) if settings.command else None
    except ValueError as error:
        raise usage_error(f"--exec: {error}") from error
    prepare_process()
    log_to_stderr(as_json=settings.log_json)
    with ExitStack() as opened:
        replicas = [
            uploading(opened.enter_context(opened_replica(url, storage_option, stats=stats))) for url in urls
        ]
        how = Settings(
            sync_interval_s=settings.sync_interval_s,
            upkeep=Upkeep(enabled=settings.upkeep),
            adopt=settings.adopt,
        )
        followed = Database(database, replicas, how)
        return run([followed], command=command, socket=settings.socket)


def _replicate_once(database: str, url: str, storage_option: Sequence[str] | None, *, stats: bool) -> None:
    with opened_replica(url, storage_option, stats=stats) as replica:
        from ltx.replication import replicate_once  # what a listing does without

        with progress_bar("comparing pages", in_bytes=False) as progress:
            published = replicate_once(database, replica, progress=progress)
        where = replica.url
    if published is None:
        print(f"nothing was published: {where} has all that is committed")
        return
    if published.level == SNAPSHOT_LEVEL:
        complain("files are missing on the replica, so all pages were written; older states are as they were")
    pages = "1 page" if published.page_count == 1 else f"{published.page_count} pages"
    print(
        f"published TXID {format_txid(published.txid)} of {format_time(published.time)}: "
        f"{pages}, {published.size} bytes, {published.key}"
    )
