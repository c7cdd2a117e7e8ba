"""The SQL shell on a replica: apsw's, with its dot commands, completion and output modes."""

import sys
from collections.abc import Sequence
from typing import Any

import apsw.shell

from backends import BackendError

__all__ = ["ShellError", "run"]

ShellError = apsw.shell.Shell.Error
"""What is wrong with a dot command, or with SQL that ends in the middle."""


_STEPS = 20_000
"""Of SQLite between moments at which Python notices Ctrl-C, even where no page is read."""


class _Shell(apsw.shell.Shell):
    """apsw's, where the last statement on standard input needs no semicolon."""

    def get_line(self, prompt: str = "") -> str | None:
        line: str | None = super().get_line(prompt)  # type: ignore[no-untyped-call]
        if line is None and prompt == self.moreprompt and not self.interactive and not self._has_ended:
            self._has_ended = True
            return ";"
        return line

    def handle_exception(self) -> None:
        error = sys.exception()
        if isinstance(error, OSError) and not isinstance(error, BackendError):
            raise error  # of the output: a reader that has enough, a full disk; not of a statement
        super().handle_exception()  # type: ignore[no-untyped-call]

    _has_ended = False


def run(connection: apsw.Connection, name: str, statements: Sequence[str]) -> None:
    """Run statements or dot commands, or read them from the terminal or standard input.

    Args:
        connection: Stays open.
        name: What to call the database when the shell begins.
        statements: Run in order; the first error is raised. None reads standard input instead, where an error
            is printed and the next line read.
    """
    connection.set_progress_handler(lambda: False, _STEPS)
    shell: Any = _Shell(db=connection)
    if statements:
        shell.bail = True
        for statement in statements:
            shell.process_complete_line(statement)
        return
    if shell.interactive:
        txid, time = (connection.pragma(f"litestream_{what}") for what in ("txid", "time"))
        intro = f"{name} as of {time}, TXID {txid}, read-only. PRAGMA litestream_time = '5 minutes ago' travels.\n"
        shell.cmdloop(intro=intro + 'Enter ".help" for instructions.\n')
    else:
        shell.bail = True
        shell.cmdloop()
