"""`ltx status`: how far the running replicators of this user are."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ltx.cli.options import AsJSON, examples
from ltx.cli.output import print_json, print_table
from ltx.errors import LTXError
from ltx.format import format_txid

__all__ = ["EXAMPLES", "status"]

EXAMPLES = examples("ltx status", "ltx status app.db --json")


def status(
    database: Annotated[
        str | None,
        typer.Argument(metavar="[DB]", help="Only this database.", show_default=False),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="The socket that 'ltx replicate' was given.", show_default=False),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Show what every running 'ltx replicate' of yours has captured, and what its replicas have.

    The exit code is 1 where none runs, the database is not replicated, or a replica has an error.

    JSON is an array: of each database pid, path, state, mode, txid, wal_frames, wal_frames_done, wal_stuck, error,
    checkpoints, longest_barrier_s, compared and replicas (url, txid, lag_size, lag_s, needs_snapshot, stopped, error,
    upkeep_error). A txid that is not known yet is null.
    """
    from ltx.replication.control import ask, socket_folder, sockets

    path = os.path.abspath(os.path.expanduser(database)) if database else None
    places = [socket] if socket else sockets()
    found = [each for place in places for each in _entries(ask(place, {"command": "status"}), path)]
    if as_json:
        print_json(found)
    elif found:
        print_table(["database", "state", "txid", "replica", "txid there", "lag", "error"], _rows(found))
    elif places and not path:
        print("no database is replicated yet")
    if not places:
        raise LTXError(
            f"no 'ltx replicate' of yours is running: none answers in {socket_folder()}; start one, or name its --socket"
        )
    if path and not found:
        raise LTXError(f"no running 'ltx replicate' has {path}: start one, or check the path")
    if any(_troubled(each) for each in found):
        raise typer.Exit(1)


def _entries(answer: dict[str, Any], path: str | None) -> list[dict[str, Any]]:
    """Return what JSON says of the databases of a replicator, or of one of them."""
    return [
        {
            "pid": answer["pid"],
            **each,
            "txid": _txid(each["txid"]),
            "replicas": [{**replica, "txid": _txid(replica["txid"])} for replica in each["replicas"]],
        }
        for each in answer["databases"]
        if path in (None, each["path"])
    ]


def _rows(found: Sequence[dict[str, Any]]) -> list[list[object]]:
    return [
        [
            each["path"],
            each["state"],
            each["txid"] or "?",
            replica["url"],
            replica["txid"] or "?",
            f"{replica['lag_size']} bytes, {replica['lag_s']:.1f} s",
            each["error"] or replica["error"] or replica["upkeep_error"] or "",
        ]
        for each in found
        for replica in each["replicas"]
    ]


def _txid(number: int | None) -> str | None:
    return format_txid(number) if number else None


def _troubled(each: dict[str, Any]) -> bool:
    return bool(each["error"]) or any(
        replica["error"] or replica["upkeep_error"] for replica in each["replicas"]
    )
