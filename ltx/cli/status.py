"""`ltx status`: how far the running replicators of this user are."""

from pathlib import Path
from typing import Annotated

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

    The exit code is 1 where a database is not replicated, or a replica has an error.
    """
    from ltx.replication.control import ask, sockets

    path = str(Path(database).expanduser().absolute()) if database else None
    found: list[dict[str, object]] = []
    for place in [socket] if socket else sockets():
        answer = ask(place, {"command": "status"})
        databases = answer.get("databases")
        assert isinstance(databases, list)
        found += ({"pid": answer.get("pid"), **each} for each in databases if path in (None, each["path"]))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ["database", "state", "txid", "replica", "txid there", "lag", "error"], list(_rows(found))
        )
    if path and not found:
        raise LTXError(f"no running 'ltx replicate' has {path}: start one, or check the path")
    if not found and not as_json:
        print("no 'ltx replicate' of yours is running")
    if any(_troubled(each) for each in found):
        raise typer.Exit(1)


def _rows(found: list[dict[str, object]]) -> list[list[object]]:
    rows: list[list[object]] = []
    for each in found:
        replicas = each["replicas"]
        assert isinstance(replicas, list)
        for replica in replicas:
            there = replica["txid"]
            rows.append(
                [
                    each["path"],
                    each["state"],
                    _txid(each["txid"]),
                    replica["url"],
                    _txid(there),
                    f"{replica['lag_size']} bytes, {replica['lag_s']:.1f} s",
                    each["error"] or replica["error"] or replica["upkeep_error"] or "",
                ]
            )
    return rows


def _txid(number: object) -> str:
    return format_txid(number) if isinstance(number, int) else "?"


def _troubled(each: dict[str, object]) -> bool:
    replicas = each["replicas"]
    assert isinstance(replicas, list)
    return bool(each["error"]) or any(replica["error"] or replica["upkeep_error"] for replica in replicas)
