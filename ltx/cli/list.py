"""`ltx list`: the LTX files of a replica."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from ltx.cli.configuration import ConfigFile, ExpandEnv, opened_source
from ltx.cli.options import (
    AsJSON,
    ReplicaURL,
    ShowStats,
    StorageOptions,
    examples,
    file_entry,
    usage_error,
)
from ltx.cli.output import complain, complain_of_nothing, print_json, print_table
from ltx.format import format_txid
from ltx.replica import LTXFile, format_time

__all__ = ["EXAMPLES", "list_files"]

EXAMPLES = examples(
    "ltx list s3://bucket/app",
    "ltx list s3://bucket/app --level 0 --json",
    "ltx list file:///backups/app --header-times",
)


def list_files(
    url: ReplicaURL,
    level: Annotated[
        str, typer.Option("--level", metavar="N|all", help="Only this level: 0 as written, 9 snapshots.")
    ] = "all",
    header_times: Annotated[
        bool,
        typer.Option(
            "--header-times",
            help="Show the time in each file's header, by which restores go: one small request a file.",
        ),
    ] = False,
    as_json: AsJSON = False,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """List the LTX files of a replica.

    With --config, URL is a database that the configuration names.

    One listing is all it asks for, so times are when the storage says a file was stored: an upload, a copy or a
    merge moves that. What a restore goes by is the time inside the files: add --header-times to see it.

    The exit code is 1 where there are no files at all. JSON has level, min_txid, max_txid, size and timestamp of each.
    """
    if level != "all" and not (len(level) == 1 and level in "0123456789"):
        raise usage_error(f"--level is 0 to 9 or all; not {level!r}")
    with opened_source(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as replica:
        listed = replica.files()
        files = [file for file in listed if level in ("all", str(file.level))]
        times = [header.timestamp for header in replica.headers(files)] if header_times else None
    stored = [file.modified for file in files]
    shown = list(zip(files, stored if times is None else times, strict=True))
    if as_json:
        print_json([file_entry(file, time) for file, time in shown])
    else:
        _print(shown, "in header" if header_times else "stored")
    if not listed:
        complain_of_nothing(replica)
        raise typer.Exit(1)
    if not files and not as_json:
        complain(f"{replica.url} has no files of level {level}")


def _print(shown: Sequence[tuple[LTXFile, datetime | None]], heading: str) -> None:
    print_table(
        ("level", "min_txid", "max_txid", "size", heading),
        [
            (
                file.level,
                format_txid(file.min_txid),
                format_txid(file.max_txid),
                file.size,
                format_time(time) if time else "unknown",
            )
            for file, time in shown
        ],
    )
