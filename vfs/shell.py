"""The SQL shell on a replica: apsw's, with its dot commands, completion and output modes."""

import sys
from collections.abc import Sequence
from typing import Any

import apsw.shell

from backends import BackendError
from vfs.meter import Cost

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

    def process_complete_line(self, command: str) -> None:
        """Run it, and say what it cost where that was asked for."""
        before = cost_of(self.db) if self.says_cost else None
        try:
            super().process_complete_line(command)  # type: ignore[no-untyped-call]
        finally:
            now = cost_of(self.db) if self.says_cost else None
            if before and now:
                print(f"cost: {now.since(before)}", file=self.stderr, flush=True)

    says_cost = False
    _has_ended = False


def cost_of(connection: apsw.Connection) -> Cost | None:
    """Return what the queries of a connection on a replica cost so far; None for another one's, after `.open`."""
    told = connection.pragma("litestream_stats", schema="main")
    return None if told is None else Cost.from_json(str(told))


def run(
    connection: apsw.Connection, name: str, statements: Sequence[str], *, says_cost: bool = False
) -> None:
    """Run statements or dot commands, or read them from the terminal or standard input.

    Args:
        connection: Stays open.
        name: What to call the database when the shell begins.
        statements: Run in order; the first error is raised. None reads standard input instead, where an error
            is printed and the next line read.
        says_cost: Print to standard error after each what it cost.
    """
    connection.set_progress_handler(lambda: False, _STEPS)
    shell: Any = _Shell(db=connection)
    shell.says_cost = says_cost
    if says_cost:
        print(f"cost: {cost_of(connection)} to open", file=sys.stderr, flush=True)
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
