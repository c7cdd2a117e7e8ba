"""`ltx verify`: what of a replica is damaged or missing, and what it can give."""

from typing import TYPE_CHECKING

import typer

from ltx.cli.configuration import ConfigFile, ExpandEnv, opened_source
from ltx.cli.options import (
    AsJSON,
    ReplicaURL,
    ShowStats,
    StorageOptions,
    examples,
    file_entry,
)
from ltx.cli.output import complain, complain_of_nothing, print_json, print_table, progress_bar
from ltx.format import format_txid
from ltx.replica import format_time

if TYPE_CHECKING:
    from ltx.replica.verify import Verification

__all__ = ["EXAMPLES", "verify"]

EXAMPLES = examples(
    "ltx verify s3://bucket/app",
    "ltx verify s3://bucket/app --json",
)


def verify(
    url: ReplicaURL,
    as_json: AsJSON = False,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Check every file; say what can be restored.

    With --config, URL is a database that the configuration names.

    It reads the whole replica, and says what is damaged, which TXIDs are missing, and which states can be had.
    The exit code is 1 where anything is damaged or missing, or nothing is there.

    JSON has source, sound, files (as a listing has them, with fault: null where there is none), gaps (TXIDs that
    are in no sound file) and states (every TXID that can be restored, and its time).
    """
    with opened_source(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as replica:
        with progress_bar("verifying") as progress:
            found = replica.verify(progress)
        where = replica.url
    if as_json:
        print_json(_entry(found, where))
    else:
        _print_findings(found)
    if not found.files:
        complain_of_nothing(replica)
    elif not found.is_sound:
        complain(
            "the replica is not sound; restore what can be had, move damaged files away, then run "
            "'ltx replicate --once': where files are missing it writes a snapshot"
        )
    if not found.is_sound:
        raise typer.Exit(1)


def _entry(found: "Verification", where: str) -> dict[str, object]:
    return {
        "source": where,
        "sound": found.is_sound,
        "files": [
            {
                **file_entry(checked.file, checked.header.timestamp if checked.header else None, named=True),
                "page_count": checked.page_count,
                "fault": checked.fault or None,
            }
            for checked in found.files
        ],
        "gaps": [
            {"min_txid": format_txid(gap.first), "max_txid": format_txid(gap.last)} for gap in found.gaps
        ],
        "states": [
            {"txid": format_txid(state.txid), "timestamp": format_time(state.time)}
            for state in found.restorable
        ],
    }


def _print_findings(found: "Verification") -> None:
    damaged = [checked for checked in found.files if checked.fault]
    size = sum(checked.file.size for checked in found.files)
    files = "1 file" if len(found.files) == 1 else f"{len(found.files)} files"
    print(f"read:        {files}, {size} bytes")
    print(f"damaged:     {len(damaged) or 'none'}")
    print(f"missing:     {_missing(found)}")
    states = found.restorable
    count = "1 state" if len(states) == 1 else f"{len(states) or 'no'} states"
    print(f"restorable:  {count}")
    if damaged:
        print()
        print_table(
            ("level", "damaged file", "size", "fault"),
            [(each.file.level, each.file.name, each.file.size, each.fault) for each in damaged],
        )
    if states:
        print()
        print_table(
            ("state", "txid", "time"),
            [
                ("oldest", format_txid(states[0].txid), format_time(states[0].time)),
                ("newest", format_txid(states[-1].txid), format_time(states[-1].time)),
            ],
        )


def _missing(found: "Verification") -> str:
    if not found.gaps:
        return "none"
    names = (
        f"TXID {format_txid(gap.first)}"
        if gap.first == gap.last
        else f"TXIDs {format_txid(gap.first)} to {format_txid(gap.last)}"
        for gap in found.gaps
    )
    return ", ".join(names)
