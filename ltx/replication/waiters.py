"""Who waits for our read transactions while the next look at their database is put off.

An application's own FULL, RESTART or TRUNCATE checkpoint keeps its writers out and waits for readers of old states. Our
pin is one until the next look, and no file event tells of the wait. So it is asked for, which takes no lock and a
microsecond; only for databases that were written to, and only until they are looked at.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ltx.replication.failures import describe, log_failure

if TYPE_CHECKING:
    from ltx.replication.database import Database

__all__ = ["Waiters"]

_STEP_S, _LONGEST_STEP_S = 0.01, 0.1
_SHARE = 50
"""Asking takes no more than one part in so many of the time, while there are hundreds of databases to ask about."""

_AGAIN_S = 0.005
"""Two threads of an application may have the two locks for a moment; a checkpoint that waits has them still."""


class Waiters:
    """Asks about some databases, in the thread of `run`, until `end`. All else may be called from any thread.

    Args:
        found: Is called with a database that somebody waits for; it is asked about no longer.
    """

    def __init__(self, found: "Callable[[Database], None]") -> None:
        self._found = found
        self._asked: set[Database] = set()
        self._changed = threading.Condition()
        self._ended = False
        self._told: set[tuple[str, str | None]] = set()

    def add(self, database: "Database") -> None:
        """Ask about one more: the next look at it is put off."""
        with self._changed:
            self._asked.add(database)
            self._changed.notify_all()

    def discard(self, database: "Database") -> None:
        """Ask about one no longer: it is looked at now, or let go of."""
        if database in self._asked:
            with self._changed:
                self._asked.discard(database)

    def end(self) -> None:
        """Let `run` return."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def run(self) -> None:
        """Ask until the end; it sleeps while there is nothing to ask about."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._ended)
                if self._ended:
                    return
                asked = list(self._asked)
            began = time.monotonic()
            first = {database: since for database in asked if (since := self._ask(database)) is not None}
            took_s = time.monotonic() - began
            if first:
                time.sleep(_AGAIN_S)
            for database, since in first.items():
                if self._ask(database) == since:
                    self.discard(database)
                    self._found(database)
            time.sleep(min(_LONGEST_STEP_S, max(_STEP_S, took_s * _SHARE)))

    def _ask(self, database: "Database") -> int | None:
        """Ask about one database; where that fails it is told once, and its next look comes when it comes."""
        try:
            return database.waiting()
        except Exception as error:  # noqa: BLE001 - all others are asked about nevertheless
            self.discard(database)
            told = str(database.path), describe(error)
            if told not in self._told:
                self._told.add(told)
                log_failure("cannot be asked who waits for it", error, db=str(database.path))
            return None
