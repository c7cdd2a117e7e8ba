"""The command line: arguments, output and exit codes only. `ltx --help` shows the commands."""

from ltx.cli.app import main

__all__ = ["main"]
