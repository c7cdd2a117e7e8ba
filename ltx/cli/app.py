"""The command `ltx`: its subcommands, and what becomes of every error."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from ltx import __version__
from ltx.cli import compact, doctor, extension, replicate, restore, retain, snapshot, status, verify
from ltx.cli import list as list_files
from ltx.cli.failures import describe
from ltx.cli.interrupts import INTERRUPTED, Interrupted, interruptible
from ltx.cli.options import examples, usage_error
from ltx.cli.output import complain
from ltx.cli.secrets import Secrets

__all__ = ["app", "main"]

FAILED, USAGE, NO_READER = 1, 2, 141

_EXAMPLES = examples(
    "ltx replicate --once app.db s3://bucket/app",
    "ltx list s3://bucket/app",
    "ltx restore s3://bucket/app -o out.db --timestamp '5 minutes ago'",
    "ltx verify s3://bucket/app",
)
_EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage. LTX_DEBUG=1 shows where an error came from."

_NO_COMMAND = re.compile("No such command '(.*?)'")
_THEIRS = {"ltx": "list", "wal": "list", "databases": "status"}
"""What Litestream calls commands that we have by another name."""

_ClickError = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""The root of click's own errors; some versions of typer bring a click of their own."""

app = typer.Typer(
    name="ltx",
    help="Put SQLite databases on any storage, and get them back as they were at any moment.",
    epilog=f"{_EXAMPLES}\n\n{_EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("replicate", epilog=replicate.EXAMPLES)(replicate.replicate)
app.command("list", epilog=list_files.EXAMPLES)(list_files.list_files)
app.command("restore", epilog=restore.EXAMPLES)(restore.restore)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.command("compact", epilog=compact.EXAMPLES)(compact.compact)
app.command("snapshot", epilog=snapshot.EXAMPLES)(snapshot.snapshot)
app.command("retain", epilog=retain.EXAMPLES)(retain.retain)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("extension", epilog=extension.EXAMPLES)(extension.extension)
app.command("status", epilog=status.EXAMPLES)(status.status)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ltx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Put SQLite databases on any storage, and get them back as they were at any moment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code.

    Errors are one line on stderr, without secrets; with `LTX_DEBUG` set they are raised.

    Args:
        arguments: What follows the program's name; None for the process's own.
    """
    words = sys.argv[1:] if arguments is None else [*arguments]
    if "_LTX_COMPLETE" in os.environ:
        app(words, prog_name="ltx")  # a shell asks how a word goes on
    secrets = Secrets(words)
    try:
        with interruptible():
            return _run(words)
    except Interrupted as interrupt:
        if interrupt.code == INTERRUPTED:
            complain("interrupted; run it again when you like")
        if arguments is None:
            sys.stderr.flush()
            os._exit(interrupt.code)  # threads that wait for a storage are not waited for
        return interrupt.code
    except BrokenPipeError:  # whoever read stdout went away, as `ltx list ... | head` does
        _drop_stdout()
        return NO_READER
    except Exception as error:
        if os.environ.get("LTX_DEBUG"):
            raise
        if isinstance(error, _ClickError):
            complain(secrets.hidden(_usage(error, words)))
            return USAGE
        complain(secrets.hidden(describe(error)))
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _drop_stdout()
        return FAILED


def _run(words: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    code = 0
    try:
        _check_dashes(command, words)
        with command.make_context("ltx", [*words]) as context:
            command.invoke(context)
    except typer.Exit as end:
        code = end.exit_code
    sys.stdout.flush()  # here, where an error can be told
    return code


def _check_dashes(program: object, words: Sequence[str]) -> None:
    """Refuse `-force`, which is how Litestream has it: here it would be `-f -o rce`."""
    commands = getattr(program, "commands", {}).values()
    known = {option for command in commands for each in command.params for option in each.opts}
    for word in words:
        name = word.partition("=")[0]
        if len(name) > 2 and f"-{name}" in known:
            raise usage_error(f"options have two dashes: write -{name} instead of {name}")


def _usage(error: Exception, words: Sequence[str]) -> str:
    """Say in one line what is wrong with the words typed, and where to look."""
    message = str(getattr(error, "format_message", error.__str__)()).strip()
    if "\n" in message:
        return "no command was given; 'ltx --help' shows them"
    context = getattr(error, "ctx", None)
    place = str(context.command_path) if context else "ltx"
    message = message.removeprefix("Invalid value: ")
    text = message[:1].lower() + message[1:].removesuffix(".")
    if unknown := _NO_COMMAND.match(message):
        text = f"there is no command {unknown[1]!r}{_nearest(unknown[1])}"
    if message.startswith("Missing argument 'URL'") and any(word.startswith("--config") for word in words):
        text = "the configuration may have many databases: name one of its databases after --config FILE"
    if "; " in text:
        return text
    return f"{text} '{place} --help' says more" if text.endswith("?") else f"{text}; see '{place} --help'"


def _nearest(word: str) -> str:
    names = [str(command.name) for command in app.registered_commands]
    near = [_THEIRS[word]] if word in _THEIRS else difflib.get_close_matches(word, names, 1)
    return f": did you mean 'ltx {near[0]}'?" if near else ""


def _drop_stdout() -> None:
    """Keep the interpreter from trying, at its end, to write what could not be written."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):  # stdout is no real file: nothing is written at the end
        pass
