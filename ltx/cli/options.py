"""The arguments that several commands share, and the replica that they name."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from backends import ConfigError, MissingDependencyError
from ltx.cli.output import print_stats
from ltx.format import TXID, format_txid, parse_txid
from ltx.replica import LTXFile, Replica, format_time
from ltx.replica.durations import parse_seconds

__all__ = [
    "AsJSON",
    "ReplicaURL",
    "ShowStats",
    "StorageOptions",
    "check_replica_url",
    "examples",
    "file_entry",
    "interval",
    "opened_by",
    "opened_replica",
    "parsed_options",
    "usage_error",
    "wanted_txid",
    "wrong_urls_are_usage",
]

ReplicaURL = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="The replica: s3://bucket/app, file:///folder or a plain folder; with --config a database.",
        show_default=False,
    ),
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="What a URL cannot hold, handed to the storage; KEY:=JSON for what is no text. Repeatable. "
        "Values are never printed, but other users can see a command's words: for secrets prefer the environment.",
        show_default=False,
    ),
]
ShowStats = Annotated[
    bool, typer.Option("--stats", help="Say on stderr how many requests and bytes the storage was asked for.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_MEMORY = re.compile(r"(faulty\+)?memory://", re.IGNORECASE)


def usage_error(message: str) -> typer.BadParameter:
    """Return the error for something wrong in what was typed: exit code 2."""
    return typer.BadParameter(message)


def examples(*commands: str) -> str:
    """Return the end of a command's help: examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)  # \b: not to be wrapped


@contextmanager
def opened_replica(url: str, storage_options: Sequence[str] | None, *, stats: bool) -> Iterator[Replica]:
    """Open the replica that a command names, and close it at the end; with `stats`, say what it cost."""
    check_replica_url(url)
    with opened_by(partial(Replica.open, url, **parsed_options(storage_options)), stats=stats) as replica:
        yield replica


@contextmanager
def opened_by(opening: Callable[[], Replica], *, stats: bool) -> Iterator[Replica]:
    """Open a replica that a configuration names, as `opened_replica` does."""
    with wrong_urls_are_usage():
        replica = opening()
    try:
        yield replica
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):  # it would wait for requests under way
            replica.close()
        if stats:
            print_stats(replica.backend.stats)


@contextmanager
def wrong_urls_are_usage(they_are: bool = True) -> Iterator[None]:
    """Turn what is wrong with a URL or an option into wrong usage, if it was typed."""
    try:
        yield
    except MissingDependencyError:
        raise
    except ConfigError as error:
        if they_are:
            raise usage_error(str(error)) from error
        raise


def interval(text: str | float) -> float:
    """Return the seconds that were typed; what is no interval is wrong usage."""
    try:
        return parse_seconds(str(text))
    except ValueError as error:
        raise usage_error(str(error)) from error


def check_replica_url(url: str) -> None:
    """Refuse the path of a file, and what ends with this process, where a replica is to be named."""
    if "://" not in url and Path(url).is_file():
        raise usage_error(f"{url} is a file; name the replica, its folder or URL, or give --config")
    if _MEMORY.match(url):
        raise usage_error(
            f"{url} is this command's own memory, and gone when it ends: name a folder or another storage"
        )


def parsed_options(pairs: Sequence[str] | None) -> dict[str, object]:
    """Return what --storage-option says, by name."""
    options: dict[str, object] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.rstrip(":"):
            raise usage_error(
                "--storage-option takes KEY=VALUE, or KEY:=JSON; one of them has no '=' or no key"
            )
        if name in ("url", "cls"):
            raise usage_error(f"--storage-option cannot be called {name}; the URL is an argument of its own")
        if name.endswith(":"):
            try:
                options[name[:-1]] = json.loads(value)
            except ValueError:
                raise usage_error(
                    f"--storage-option {name}=... is not followed by JSON; quote it for the shell"
                ) from None
        else:
            options[name] = value
    return options


def file_entry(file: LTXFile, time: datetime | None, *, named: bool = False) -> dict[str, object]:
    """Return what JSON says of a file, in the fields that the real Litestream has.

    Args:
        file: The file.
        time: The time to show; None where it is not known.
        named: Whether to give its name, too.
    """
    return {
        "level": file.level,
        **({"name": file.name} if named else {}),
        "min_txid": format_txid(file.min_txid),
        "max_txid": format_txid(file.max_txid),
        "size": file.size,
        "timestamp": format_time(time) if time else None,
    }


def wanted_txid(text: str | None) -> TXID | None:
    """Return the TXID that was typed; what is none is wrong usage."""
    if text is None:
        return None
    try:
        return parse_txid(text)
    except ValueError as error:
        raise usage_error(f"--txid: {error}") from error
