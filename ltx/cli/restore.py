"""`ltx restore`: a database as it was, in a file."""

import json
import os
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from ltx.cli.configuration import ConfigFile, ExpandEnv, opened_source
from ltx.cli.interrupts import Interrupted
from ltx.cli.options import (
    AsJSON,
    ReplicaURL,
    ShowStats,
    StorageOptions,
    examples,
    file_entry,
    interval,
    usage_error,
    wanted_txid,
)
from ltx.cli.output import complain, print_json, print_table, progress_bar
from ltx.errors import NoSnapshotError
from ltx.format import TXID, format_txid
from ltx.replica import Replica, Restored, format_time, parse_time

__all__ = ["EXAMPLES", "restore"]

EXAMPLES = examples(
    "ltx restore s3://bucket/app -o out.db",
    "ltx restore s3://bucket/app -o out.db --timestamp '5 minutes ago'",
    "ltx restore s3://bucket/app -o out.db --txid 000000000000002a --integrity-check quick",
    "ltx restore -f s3://bucket/app -o copy.db",
)


class IntegrityCheck(StrEnum):
    """SQLite's own checks."""

    NONE = "none"
    QUICK = "quick"
    FULL = "full"


_Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="The file to make.", show_default=False)
]
_Timestamp = Annotated[
    str | None,
    typer.Option(
        metavar="T",
        help="As it was at this time: RFC 3339, Unix seconds, or words ('5 minutes ago', 'yesterday').",
    ),
]
_Transaction = Annotated[
    str | None, typer.Option(metavar="HEX", help="As it was after this transaction: 16 hex digits.")
]
_Force = Annotated[
    bool, typer.Option("--force", help="Replace OUT where it exists, unless somebody has it open.")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which files it would take, and write nothing.")]
_IfNoDatabase = Annotated[
    bool, typer.Option("--if-db-not-exists", help="Where OUT exists, do nothing; exit code 0.")
]
_IfReplica = Annotated[
    bool, typer.Option("--if-replica-exists", help="Where the replica is empty, do nothing; exit code 0.")
]
_Check = Annotated[IntegrityCheck, typer.Option(help="Let SQLite check the result before OUT is made.")]
_Follow = Annotated[
    bool,
    typer.Option("--follow", "-f", help="Keep OUT current, until stopped; others may read it meanwhile."),
]
_FollowInterval = Annotated[
    float,
    typer.Option(
        metavar="TIME",
        parser=interval,
        help="With -f: from one look at the replica to the next, such as 5s or 500ms.",
    ),
]
_SHORTEST_S = 0.01
"""Between looks at a replica that is followed: a storage is not to be asked without a pause."""


def restore(
    url: ReplicaURL,
    output: _Output,
    timestamp: _Timestamp = None,
    txid: _Transaction = None,
    force: _Force = False,
    dry_run: _DryRun = False,
    as_json: AsJSON = False,
    if_db_not_exists: _IfNoDatabase = False,
    if_replica_exists: _IfReplica = False,
    integrity_check: _Check = IntegrityCheck.NONE,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    follow: _Follow = False,
    follow_interval: _FollowInterval = 1.0,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Make a database as it is or was, from its replica.

    With --config, URL is a database that the configuration names.

    Every file that is used is checked whole, and OUT appears at once and complete, or not at all: after any
    error what was there before is as it was.

    JSON has db_path, replica, txid, duration_ms and integrity_check, then timestamp, size and passed_over (damaged
    files it did without). With --dry-run: source, target_path, replica, min_txid, max_txid, timestamp, files. With -f a
    line for each state that OUT was brought to: db_path, replica, txid, timestamp, page_count.
    """
    other = dry_run or if_db_not_exists or integrity_check != IntegrityCheck.NONE
    _check_options(timestamp, txid, follow, follow_interval, other)
    at, wanted = _wanted_time(timestamp), wanted_txid(txid)
    if if_db_not_exists and os.path.lexists(output):
        _skip(output, f"{output} exists", as_json=as_json)
        return
    with opened_source(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as replica:
        try:
            if dry_run:
                _print_plan(replica, output, at, wanted, as_json=as_json)
                return
            if follow:
                _follow(replica, output, follow_interval, force=force, as_json=as_json)
                return
            with progress_bar("restoring") as progress:
                restored = replica.restore(
                    output,
                    at=at,
                    txid=wanted,
                    force=force,
                    integrity_check=integrity_check,
                    progress=progress,
                )
        except NoSnapshotError:
            if not if_replica_exists or replica.files():
                raise
            _skip(output, f"{replica.url} is empty", as_json=as_json)
            return
    _print_result(restored, output, replica.backend.scheme, integrity_check, as_json=as_json)


def _check_options(
    timestamp: str | None, txid: str | None, follow: bool, follow_interval: float, other: bool
) -> None:
    if timestamp is not None and txid is not None:
        raise usage_error("--timestamp and --txid both say which state; give one of them")
    if follow and (timestamp or txid or other):
        raise usage_error(
            "-f keeps the newest state: of the options that change what is restored it takes --force"
        )
    if follow_interval < _SHORTEST_S:
        raise usage_error(f"--follow-interval is at least {_SHORTEST_S * 1000:.0f}ms")


def _follow(replica: Replica, output: str, interval: float, *, force: bool, as_json: bool) -> None:
    """Keep the output current until a signal comes, which is how this ends well."""
    from ltx.replication.logs import log_to_stderr  # what a restore does without

    log_to_stderr(as_json=as_json)
    states = replica.follow(output, interval=interval, force=force)
    try:
        for number, state in enumerate(states):
            if as_json:
                line = {
                    "db_path": output,
                    "replica": replica.backend.scheme,
                    "txid": format_txid(state.txid),
                    "timestamp": format_time(state.time),
                    "page_count": state.page_count,
                }
                print(json.dumps(line, ensure_ascii=False), flush=True)
            elif not number:
                complain(
                    f"{output} is at TXID {format_txid(state.txid)} of {format_time(state.time)}, and follows"
                )
    except Interrupted:
        complain(f"{output} stays as it is; the same command goes on")
    finally:
        states.close()


def _wanted_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise usage_error(f"--timestamp: {error}") from error


def _skip(output: str, reason: str, *, as_json: bool) -> None:
    complain(f"{reason}; there is nothing to do")
    if as_json:
        print_json({"db_path": output, "txid": None, "skipped": reason})


def _print_plan(
    replica: Replica, output: str, at: datetime | None, txid: TXID | None, *, as_json: bool
) -> None:
    files = replica.files()
    plan = replica.plan(at, txid, files=files)
    time = replica.times([plan.txid], files)[0]
    first, last = format_txid(min(file.min_txid for file in plan.files)), format_txid(plan.txid)
    if as_json:
        print_json({
            "source": replica.url,
            "target_path": output,
            "replica": replica.backend.scheme,
            "min_txid": first,
            "max_txid": last,
            "timestamp": format_time(time),
            "files": [file_entry(file, file.modified, named=True) for file in plan.files],
        })  # fmt: skip
        return
    print(f"source:     {replica.url}\ntarget:     {output}\nTXIDs:      {first} to {last}")
    print(f"as it was:  {format_time(time)}\nto read:    {plan.size} bytes\n")
    print_table(
        ("level", "file", "size", "stored"),
        [
            (file.level, file.name, file.size, format_time(file.modified) if file.modified else "unknown")
            for file in plan.files
        ],
    )


def _print_result(
    restored: Restored, output: str, scheme: str, integrity_check: IntegrityCheck, *, as_json: bool
) -> None:
    for key in restored.passed_over:
        complain(f"{key} is damaged or gone; others had the same content, so the result is whole")
    if as_json:
        print_json({
            "db_path": output,
            "replica": scheme,
            "txid": format_txid(restored.txid),
            "duration_ms": round(restored.duration_s * 1000),
            "integrity_check": str(integrity_check),
            "timestamp": format_time(restored.time),
            "size": restored.size,
            "passed_over": [*restored.passed_over],
        })  # fmt: skip
        return
    count = "1 file" if len(restored.files) == 1 else f"{len(restored.files)} files"
    checked = "" if integrity_check == IntegrityCheck.NONE else f", {integrity_check} check passed"
    print(
        f"restored {output}: TXID {format_txid(restored.txid)} of {format_time(restored.time)}, "
        f"{restored.size} bytes from {count} in {restored.duration_s:.2f} s{checked}"
    )
