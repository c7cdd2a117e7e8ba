"""`ltx compact`: merge the files of a replica, as a running replication does by itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ltx.cli.configuration import ConfigFile, ExpandEnv, opened_with_upkeep
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
from ltx.replica import format_time

if TYPE_CHECKING:
    from ltx.replica.compaction import Compacted

__all__ = ["EXAMPLES", "compact", "made_entry"]

EXAMPLES = examples(
    "ltx compact s3://bucket/app",
    "ltx compact s3://bucket/app --level 1 --json",
)


def compact(
    url: ReplicaURL,
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="N|all",
            help="Make only this level, 1 to 8, from the one below; all is 1 to 3, or what the configuration has.",
        ),
    ] = "all",
    as_json: AsJSON = False,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Merge the files of a replica into fewer.

    Level 1 gets a file for each 30 seconds in which something was committed; higher levels one of all there is
    below. Restores and queries then need fewer files. Nothing is deleted: ltx retain does that.

    With --config, URL is a database that the configuration names, and its levels are those of the configuration.

    Every file that is merged is verified first. It may run beside anything else. The exit code is 1 where there are
    no files at all.

    JSON is an array of the files made: level, name, min_txid, max_txid, size, timestamp, page_count, input_count.
    """
    from ltx.replica.compaction import compact as merge_level
    from ltx.replica.levels import LevelPolicy

    made: list[Compacted] = []
    wanted = None if level == "all" else _level(level)
    with opened_with_upkeep(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as (
        replica,
        upkeep,
    ):
        policy = upkeep.levels if upkeep else LevelPolicy()
        listed = replica.files()
        for each in policy.levels if wanted is None else [wanted]:
            made += merge_level(replica, each, policy=policy, files=None if made else listed)
        where = replica.url
    if as_json:
        print_json([made_entry(each) for each in made])
    elif made:
        print_made(made)
    if not listed:
        complain_of_nothing(replica)
        raise typer.Exit(1)
    if not made and not as_json:
        print(f"nothing was merged: {where} has no files that a level lacks")


def print_made(made: Sequence["Compacted"]) -> None:
    """Print the files that merges made."""
    print_table(
        ("level", "min_txid", "max_txid", "size", "of files", "committed"),
        [
            (
                each.file.level,
                format_txid(each.file.min_txid),
                format_txid(each.file.max_txid),
                each.file.size,
                len(each.inputs),
                format_time(each.time),
            )
            for each in made
        ],
    )
    for each in made:
        if not each.is_new:
            complain(f"{each.file.key} was there already and holds the same: somebody else merges, too")


def made_entry(made: "Compacted") -> dict[str, object]:
    """Return what JSON says of a merged file."""
    return {
        **file_entry(made.file, made.time, named=True),
        "page_count": made.page_count,
        "input_count": len(made.inputs),
    }


def _level(text: str) -> int:
    if text == "9":
        raise usage_error("level 9 has snapshots; use 'ltx snapshot' to make one")
    if len(text) != 1 or text not in "12345678":
        raise usage_error(f"--level is 1 to 8 or all; not {text!r}")
    return int(text)
