"""Threads for calls that do not notice an interrupt, so that whoever waits for one does."""

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Callers"]

T = TypeVar("T")

_SETTLE_S = 1.0
"""How long the end of the program waits for calls that nobody waits for."""


class Callers:
    """Up to so many threads, started as they are needed.

    They are daemons, unlike an executor's: a call that was left alone by an interrupt or a time limit does not keep
    the program from ending for longer than `_SETTLE_S`. So long it does: a call that ended while the interpreter
    ends would take the program down with a signal.
    """

    def __init__(self, most: int, name: str) -> None:
        """Prepare; no thread is started.

        Args:
            most: Calls under way at once; further ones wait their turn.
            name: Begins the threads' names.
        """
        self._most = most
        self._name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._free = self._under_way = 0
        atexit.register(self._settle)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run a call in one of the threads, on behalf of whoever submits it."""
        future: Future[T] = Future()
        context = copy_context()
        with self._lock:
            self._under_way += 1
            if self._free > 0:
                self._free -= 1
            elif self._threads < self._most:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            else:
                self._free -= 1  # whoever is done next takes it
        self._calls.put((future, lambda: context.run(call)))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - it is for whoever waits
                    future.set_exception(error)
            del future, call
            with self._lock:
                self._free += 1
                self._under_way -= 1

    def _settle(self) -> None:
        ends = time.monotonic() + _SETTLE_S
        while self._under_way > 0 and time.monotonic() < ends:
            time.sleep(0.005)
