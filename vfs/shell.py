"""The SQL shell on a replica: apsw's, with its dot commands, completion and output modes."""

from collections.abc import Sequence
from typing import Any

import apsw.shell

__all__ = ["run"]


def run(connection: apsw.Connection, name: str, statements: Sequence[str]) -> None:
    """Run statements or dot commands, or read them from the terminal or standard input.

    Args:
        connection: Stays open.
        name: What to call the database when the shell begins.
        statements: Run in order; the first error is raised. None reads standard input instead, where an error
            is printed and the next line read.
    """
    shell: Any = apsw.shell.Shell(db=connection)
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
