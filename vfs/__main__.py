"""`python -m vfs URL [SQL ...]`: SQL on a replica, now or as it was."""

import os
import sys
from typing import Annotated, Any, cast

import apsw
import typer

from backends import BackendError
from ltx import LTXError
from ltx.format import parse_txid
from ltx.quiet import heard
from ltx.replica import parse_time
from ltx.replica.durations import parse_seconds
from vfs.connection import connect
from vfs.file import LATEST
from vfs.hydration_place import remove_private
from vfs.shell import ShellError, run
from vfs.source import DEFAULT_TIMEOUT_S
from vfs.sqlite import DEFAULT_POLL_INTERVAL_S, URL_VARIABLE

_HELP = """Answer SQL on a replica where it lies, without restoring it.

Without SQL an interactive shell begins, with dot commands (.help), completion and output modes; SQL on standard
input is run line by line.

Examples:

  python -m vfs s3://bucket/app "select * from sandwich_ratings limit 3"

  python -m vfs s3://bucket/app --at '5 minutes ago' ".mode json" "select count(*) from sandwich_ratings"

The URL may come from LITESTREAM_REPLICA_URL too, when no SQL is given on the command line.
"""


_NAME = "python -m vfs"
_ClickError = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""The root of click's own errors; some versions of typer bring a click of their own."""


def _interval(text: str | float) -> float:
    try:
        return parse_seconds(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _over_0(text: str | float) -> float:
    seconds = _interval(text)
    if not seconds:
        raise typer.BadParameter("a wait of no time gets no answer: give it some seconds")
    return seconds


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
def main(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The replica, such as s3://bucket/app.", envvar=URL_VARIABLE)
    ],
    sql: Annotated[
        list[str] | None, typer.Argument(metavar="[SQL]...", help="Statements or dot commands, run in order.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Go back to a time: '5 minutes ago', RFC 3339, Unix seconds.")
    ] = None,
    txid: Annotated[str | None, typer.Option(help="Go back to a transaction: 16 hex digits.")] = None,
    poll_interval: Annotated[
        float,
        typer.Option(
            metavar="TIME", parser=_interval, help="Between looks for a newer state, such as 5s or 500ms."
        ),
    ] = DEFAULT_POLL_INTERVAL_S,
    timeout: Annotated[
        float, typer.Option(metavar="TIME", parser=_over_0, help="How long to wait for the storage.")
    ] = DEFAULT_TIMEOUT_S,
    stats: Annotated[bool, typer.Option("--stats", help="Print after each statement what it cost.")] = False,
    storage_option: Annotated[
        list[str] | None, typer.Option(help="name=value for the storage, as often as needed.")
    ] = None,
) -> None:
    """Run statements on a replica, or a shell."""
    if at is not None and txid is not None:
        raise typer.BadParameter("give --at or --txid, not both")
    options: dict[str, Any] = dict(_named(option) for option in storage_option or ())
    _check_moment(at, txid)
    heard()
    try:
        connection = connect(url, at, txid, poll_interval=poll_interval, timeout=timeout, **options)
        try:
            run(connection, connection.filename, sql or (), says_cost=stats)
            sys.stdout.flush()
        finally:
            connection.close()
    except (LTXError, BackendError, ValueError, apsw.Error, ShellError) as error:
        if not getattr(error, "_handle_exception_saw_this", False):  # the shell has printed it
            advice = ": a replica answers questions; write to the database itself"
            print(f"vfs: {error}{advice if isinstance(error, apsw.ReadOnlyError) else ''}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        sys.stdout.flush()
        remove_private()
        os._exit(130)  # the request that was waited for may hang, and its threads would keep the process
    except OSError as error:  # of standard output: a reader that has enough, a full disk
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is left cannot be written either
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(0) from None
        print(f"vfs: the output cannot be written: {error.strerror}", file=sys.stderr)
        raise typer.Exit(1) from None


def _named(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals or not name:
        raise typer.BadParameter("a storage option is name=value", param_hint="--storage-option")
    return name, value


def _check_moment(at: str | None, txid: str | None) -> None:
    try:
        if txid is not None:
            parse_txid(txid)
        if at is not None and at.strip().lower() != LATEST:
            parse_time(at)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def program() -> int:
    """Do what was typed, and return the exit code; wrong usage is one line."""
    command = typer.main.get_command(app)
    try:
        code: object = command.main(prog_name=_NAME, standalone_mode=False)
    except _ClickError as error:
        message = (
            str(getattr(error, "format_message", error.__str__)()).strip().removeprefix("Invalid value: ")
        )
        text = message[:1].lower() + message[1:].removesuffix(".")
        hint = "" if "; " in text else f"; see '{_NAME} --help'"
        print(f"vfs: {text}{hint}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(program())
