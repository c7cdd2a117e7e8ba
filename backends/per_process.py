"""What must not cross a fork, made once a process: a connection, an event loop, a client library's session."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["PerProcess"]

T = TypeVar("T")


@dataclass(slots=True)
class _Process(Generic[T]):
    making: threading.Lock = field(default_factory=threading.Lock)
    made: T | None = None


class PerProcess(Generic[T]):
    """One `T` a process, made when it is first asked for. A child never touches its parent's, not even to close it."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Prepare.

        Args:
            make: Makes one. Where it raises, the next `get` tries again.
        """
        self._make = make
        self._processes: dict[int, _Process[T]] = {}

    def get(self) -> T:
        """Return this process's own; threads that ask at once get the same."""
        process = self._processes.setdefault(os.getpid(), _Process())
        if process.made is not None:
            return process.made
        with process.making:
            if process.made is None:
                process.made = self._make()
            return process.made

    def pop(self) -> T | None:
        """Return what this process made, to be closed, and forget it; the next `get` makes another."""
        process = self._processes.pop(os.getpid(), None)
        return process.made if process is not None else None

    def discard(self, made: T) -> None:
        """Forget what this process made, if it is this; the next `get` makes another."""
        process = self._processes.get(os.getpid())
        if process is not None and process.made is made:
            process.made = None
