"""The command line: arguments, output and exit codes only. `ltx --help` shows the commands."""

from collections.abc import Sequence

from ltx.quiet import heard, quiet

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code.

    Errors are one line on stderr, without secrets; with `LTX_DEBUG` set they are raised.

    Args:
        arguments: What follows the program's name; None for the process's own.
    """
    if arguments is None:
        quiet("ltx")
    try:
        from ltx.cli.app import main as run  # which takes longer than many a command

        return run(arguments)
    finally:
        heard()
