"""`ltx retain`: delete the files of a replica that are no longer needed."""

from dataclasses import replace
from datetime import timedelta
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
from ltx.errors import LTXError
from ltx.format import format_txid
from ltx.replica import format_time
from ltx.replica.durations import parse_duration

if TYPE_CHECKING:
    from ltx.replica.retention import Retained
    from ltx.replica.verify import Restorable

__all__ = ["EXAMPLES", "retain"]

EXAMPLES = examples(
    "ltx retain s3://bucket/app --dry-run",
    "ltx retain s3://bucket/app",
    "ltx retain s3://bucket/app --retention 168h",
)


_Retention = Annotated[
    str | None,
    typer.Option(
        "--retention",
        metavar="TIME",
        help="Keep every moment since so long ago, such as 168h: 24h unless the configuration says otherwise.",
        show_default=False,
    ),
]
_Level0 = Annotated[
    str | None,
    typer.Option(
        "--l0-retention",
        metavar="TIME",
        help="Keep files of level 0 so long, and until they are merged: 5m unless the configuration says otherwise.",
        show_default=False,
    ),
]
_DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would go and what would stay restorable; delete nothing."),
]


def retain(
    url: ReplicaURL,
    retention: _Retention = None,
    l0_retention: _Level0 = None,
    dry_run: _DryRun = False,
    as_json: AsJSON = False,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Delete files that are no longer needed.

    The newest snapshot from before the time to keep stays, and all that leads on from it: any moment since then can
    be restored. Files of level 0 go once level 1 has what they hold. A file goes only after the one that has its
    content was read and found sound. Make snapshots and merges first: ltx snapshot, ltx compact.

    With --config, URL is a database that the configuration names, and what is not typed is as the configuration has it.

    Times are 24h, 5m, 90s, or such as 1h30m. The exit code is 1 where a file was found damaged, or
    there are no files at all.

    JSON has source, dry_run, deleted (files as a listing has them, each with covered_by), size, kept_count, faults,
    states_before, states, oldest and newest (txid and timestamp; null where nothing can be restored).
    """
    from ltx.replica.retention import RetentionPolicy, restorable
    from ltx.replica.retention import retain as delete_old

    typed = _typed(retention, l0_retention)
    with opened_with_upkeep(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as (
        replica,
        upkeep,
    ):
        if upkeep and not upkeep.deletes and not dry_run:
            raise LTXError(
                f"{config} has 'retention: enabled: false' for {url}: nothing was deleted; see --dry-run"
            )
        policy = replace(upkeep.retention if upkeep else RetentionPolicy(), **typed)
        done = delete_old(replica, policy, dry_run=dry_run)
        ends = restorable(replica, done.kept)
        where = replica.url
    if as_json:
        print_json(_entry(done, ends, where, dry_run))
    elif done.kept or done.deleted:
        _print(done, ends, dry_run)
    if not done.kept and not done.deleted:
        complain_of_nothing(replica)
        raise typer.Exit(1)
    for fault in done.faults:
        complain(f"{fault.file.key} is damaged, so what it should replace was kept: {fault.text}")
    if done.faults:
        raise typer.Exit(1)


def _print(done: "Retained", ends: "tuple[Restorable, Restorable] | None", dry_run: bool) -> None:
    if done.deleted:
        print_table(
            ("level", "would go" if dry_run else "deleted", "size", "covered by"),
            [
                (
                    each.file.level,
                    each.file.name,
                    each.file.size,
                    f"{each.covered_by.level}/{each.covered_by.name}",
                )
                for each in done.deleted
            ],
        )
        print()
    count = "1 file" if len(done.deleted) == 1 else f"{len(done.deleted) or 'no'} files"
    print(f"{'would go:' if dry_run else 'deleted:':<13}{count}, {done.size} bytes")
    print(f"restorable:  {done.state_count} of {done.states_before} states")
    for name, state in zip(("oldest", "newest"), ends or (), strict=False):
        print(f"{name}:      {format_txid(state.txid)} of {format_time(state.time)}")


def _entry(
    done: "Retained", ends: "tuple[Restorable, Restorable] | None", where: str, dry_run: bool
) -> dict[str, object]:
    oldest, newest = (
        ({"txid": format_txid(state.txid), "timestamp": format_time(state.time)} for state in ends)
        if ends
        else (None, None)
    )
    return {
        "source": where,
        "dry_run": dry_run,
        "deleted": [
            {
                **file_entry(each.file, each.file.modified, named=True),
                "covered_by": {"level": each.covered_by.level, "name": each.covered_by.name},
            }
            for each in done.deleted
        ],
        "size": done.size,
        "kept_count": len(done.kept),
        "faults": [{"key": fault.file.key, "fault": fault.text} for fault in done.faults],
        "states_before": done.states_before,
        "states": done.state_count,
        "oldest": oldest,
        "newest": newest,
    }


def _typed(retention: str | None, l0_retention: str | None) -> dict[str, timedelta]:
    """Return what of the policy was typed."""
    given = {"window": ("--retention", retention), "level0": ("--l0-retention", l0_retention)}
    return {name: _duration(option, text) for name, (option, text) in given.items() if text is not None}


def _duration(option: str, text: str) -> timedelta:
    try:
        length = parse_duration(text)
    except ValueError:
        length = timedelta(-1)
    if length < timedelta(0):
        raise usage_error(f"{option} is a time such as 24h, 5m, 90s or 1h30m; not {text!r}")
    return length
