"""`ltx list`: the LTX files of a replica."""

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
from ltx.cli.output import complain_of_nothing, print_json, print_table
from ltx.format import format_txid
from ltx.replica import format_time

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

    JSON has level, min_txid, max_txid, size and timestamp of each file.
    """
    if level != "all" and not (len(level) == 1 and level in "0123456789"):
        raise usage_error(f"--level is 0 to 9 or all; not {level!r}")
    with opened_source(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as replica:
        files = replica.files(None if level == "all" else int(level))
        times = [header.timestamp for header in replica.headers(files)] if header_times else None
        where = replica.url
    stored = [file.modified for file in files]
    shown = list(zip(files, stored if times is None else times, strict=True))
    if as_json:
        print_json([file_entry(file, time) for file, time in shown])
        return
    if not files:
        complain_of_nothing(where, "" if level == "all" else f"of level {level} ")
    print_table(
        ("level", "min_txid", "max_txid", "size", "in header" if header_times else "stored"),
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
