"""What `ltx replicate` does, once it is known what it was asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from backends import BackendError
from ltx.cli.failures import describe
from ltx.cli.options import opened_by, usage_error, wrong_urls_are_usage
from ltx.cli.output import complain, print_stats, progress_bar
from ltx.errors import LTXError
from ltx.format import format_txid
from ltx.replica import Replica, format_time
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replication import replicate_once
from ltx.replication.config.values import Configuration, Replicated
from ltx.replication.database import Settings
from ltx.replication.folders import find
from ltx.replication.run import log_as, prepare_process, run

__all__ = ["Given", "replicate_now", "replicate_once_each"]


@dataclass(frozen=True, slots=True)
class Given:
    """What was typed, which wins over what a configuration says."""

    command: tuple[str, ...]
    restore: bool
    sync_interval_s: float | None
    socket: Path | None
    metrics: str
    upkeep: bool
    adopt: bool
    wal: bool
    log_json: bool

    def over(self, found: Configuration) -> Configuration:
        """Return a configuration with what was typed put over it."""
        return replace(
            found,
            databases=tuple(
                replace(each, settings=self._settings(each.settings, named=True)) for each in found.databases
            ),
            folders=tuple(
                replace(each, settings=self._settings(each.settings, named=False)) for each in found.folders
            ),
            command=self.command or found.command,
            socket=self.socket or found.socket,
            address=self.metrics or found.address,
            logging=replace(found.logging, as_json=self.log_json or found.logging.as_json),
        )

    def _settings(self, found: Settings, *, named: bool) -> Settings:
        interval_s = self.sync_interval_s
        return replace(
            found,
            sync_interval_s=found.sync_interval_s if interval_s is None else interval_s,
            upkeep=replace(found.upkeep, enabled=self.upkeep and found.upkeep.enabled),
            adopt=self.adopt,
            wal=self.wal or found.wal,
            restore=found.restore or (self.restore and named),
        )


def replicate_now(
    given: Given, found: Configuration, read: Callable[..., Configuration] | None, *, stats: bool
) -> int:
    """Replicate until stopped, and return the exit code.

    Args:
        given: What was typed.
        found: The configuration.
        read: Reads it again; None where there is no file.
        stats: Whether to say what the storages were asked for.
    """
    configuration = given.over(found)
    prepare_process()
    log_as(configuration.logging)
    replicas: list[Replica] = []
    again = (lambda: given.over(read(quiet=True))) if read else None
    try:
        with wrong_urls_are_usage(read is None):
            return run(configuration, again=again, opened=replicas.append)
    finally:
        for replica in replicas if stats else ():
            print_stats(replica.backend.stats)


def replicate_once_each(given: Given, found: Configuration, *, stats: bool) -> None:
    """Replicate every database once; one that fails does not keep the others from it.

    Args:
        given: What was typed.
        found: The configuration; a command in it is not run.
        stats: Whether to say what the storages were asked for.
    """
    configuration = given.over(found)
    if given.command or any(len(each.places) > 1 for each in configuration.databases):
        raise usage_error("--once takes one URL and no --exec")
    if given.wal:
        raise usage_error("--once changes no database: --wal is for following one")
    databases = [*configuration.databases]
    if configuration.folders:
        databases += (
            folder.replicated(path) for folder in configuration.folders for path in find(folder, {}).databases
        )
    failures: list[Exception] = []
    for each in databases:
        try:
            _replicate_once(each, stats=stats, named=len(databases) > 1)
        except (LTXError, BackendError, OSError) as error:
            if len(databases) == 1:
                raise
            complain(f"{each.path}: {describe(error)}")
            failures.append(error)
    if failures:
        raise typer.Exit(1)


def _replicate_once(each: Replicated, *, stats: bool, named: bool) -> None:
    subject = f"{each.path}: " if named else ""
    with opened_by(each.places[0].open, stats=stats) as replica:
        if each.settings.restore and not each.path.exists() and replica.files():
            replica.restore(each.path)
        with progress_bar("comparing pages", in_bytes=False) as progress:
            published = replicate_once(
                each.path,
                replica,
                adopt=each.settings.adopt,
                progress=progress,
                folder=each.settings.folder,
            )
        where = replica.url
    if published is None:
        print(f"{subject}nothing was published: {where} has all that is committed")
        return
    if published.level == SNAPSHOT_LEVEL:
        complain(
            f"{subject}files are missing on the replica, so all pages were written; older states are as they were"
        )
    pages = "1 page" if published.page_count == 1 else f"{published.page_count} pages"
    print(
        f"{subject}published TXID {format_txid(published.txid)} of {format_time(published.time)} to {where}: "
        f"{pages}, {published.size} bytes, {published.key}"
    )
