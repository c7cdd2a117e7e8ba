"""The options of commands that read a configuration, and reading it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltx.cli.options import opened_by, opened_replica, usage_error
from ltx.cli.output import complain
from ltx.errors import ConfigFileError
from ltx.replica import Replica

if TYPE_CHECKING:
    from ltx.replication.config.values import Configuration
    from ltx.replication.maintenance import Upkeep

__all__ = ["ConfigFile", "ExpandEnv", "Strict", "opened_source", "opened_with_upkeep", "read_configuration"]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A configuration as of Litestream, litestream.yml.",
        show_default=False,
    ),
]
ExpandEnv = Annotated[
    bool, typer.Option("--no-expand-env", help="Leave $NAME in the configuration as it is.")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Take what is odd in the configuration, such as unknown settings, for errors."
    ),
]


def read_configuration(
    path: Path | None, *, no_expand_env: bool, strict: bool, quiet: bool = False
) -> "Configuration":
    """Read a configuration, and say on stderr what is odd about it.

    Args:
        path: The file; None for where it usually is.
        no_expand_env: Leave `$NAME` as it is.
        strict: Take what is odd for errors.
        quiet: Say nothing; the configuration's `warnings` say it.

    Raises:
        ConfigFileError: It is wrong, or names no database.
    """
    from ltx.replication.config.reader import default_path, read_config

    file = path or default_path()
    found = read_config(file, expand=not no_expand_env, strict=strict)
    for warning in () if quiet else found.warnings:
        complain(warning)
    if not found.databases and not found.folders:
        raise ConfigFileError("names no database: each is an entry of 'dbs'", path=str(file))
    return found


@contextmanager
def opened_source(
    url: str, storage_options: Sequence[str] | None, config: Path | None, *, no_expand_env: bool, stats: bool
) -> Iterator[Replica]:
    """Open the replica that a command names: by its URL, or, with a configuration, as the first one of a database."""
    with opened_with_upkeep(url, storage_options, config, no_expand_env=no_expand_env, stats=stats) as found:
        yield found[0]


@contextmanager
def opened_with_upkeep(
    url: str, storage_options: Sequence[str] | None, config: Path | None, *, no_expand_env: bool, stats: bool
) -> Iterator[tuple[Replica, "Upkeep | None"]]:
    """Open a replica as `opened_source` does, and yield how the configuration has it kept small, too; None without one."""
    if config is None:
        with opened_replica(url, storage_options, stats=stats) as replica:
            yield replica, None
        return
    if storage_options:
        raise usage_error("--storage-option goes with a URL; a configuration has settings of its own")
    found = read_configuration(config, no_expand_env=no_expand_env, strict=False)
    database = found.named(url)
    if database is None:
        raise usage_error(
            f"{config} does not name the database {url}: check its path, or name a replica's URL without --config"
        )
    with opened_by(database.places[0].open, stats=stats) as replica:
        yield replica, database.settings.upkeep
