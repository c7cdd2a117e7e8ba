"""One replicator at a time for a database on this machine: a lock on a file in the folder of its state."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from ltx.errors import DatabaseError

__all__ = ["check_guard", "is_held", "take_guard"]

_NAME = "lock"


def take_guard(folder: Path, database: Path) -> BinaryIO:
    """Take the lock; closing the file gives it back.

    Raises:
        DatabaseError: Another process has it.
    """
    guard = open(folder / _NAME, "a+b")  # noqa: SIM115 - the caller holds it
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        guard.seek(0)
        other = guard.read(20).decode(errors="replace").strip() or "another one"
        guard.close()
        raise DatabaseError(f"process {other} replicates {database} already: stop one of them") from error
    guard.truncate(0)
    guard.write(str(os.getpid()).encode())
    guard.flush()
    return guard


def check_guard(folder: Path, database: Path) -> None:
    """Raise as `take_guard` does, without leaving anything.

    Raises:
        DatabaseError: Another process has it.
    """
    if (folder / _NAME).exists():
        take_guard(folder, database).close()


def is_held(guard: BinaryIO, folder: Path) -> bool:
    """Whether a lock that was taken still is what keeps others away: its file was not deleted or replaced."""
    try:
        return os.path.samestat(os.fstat(guard.fileno()), os.stat(folder / _NAME))
    except FileNotFoundError:
        return False
