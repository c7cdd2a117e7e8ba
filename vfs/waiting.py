"""Waiting for a storage: with a deadline, noticing an interrupt, and without keeping the process alive.

The work is done by threads of this module, which are daemons: a request that hangs must not hold up Ctrl-C
and the end of the process, as the threads of `concurrent.futures` do.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from backends import UnavailableError
from vfs.errors import InterruptedQueryError
from vfs.meter import Meter

__all__ = ["ForkedLock", "Interrupted", "Waiter", "together"]

_NOTICE_S = 0.03
"""How soon a wait notices that its query was interrupted."""

_IDLE_S = 5.0
"""How long a thread without work stays."""

_T = TypeVar("_T")
Interrupted = Callable[[], bool]


class ForkedLock:
    """A lock that is free in a forked child, whoever held it in the parent.

    Attributes:
        now: The lock to take; a child has another one.
    """

    __slots__ = ("__weakref__", "now")

    def __init__(self) -> None:
        self.now = threading.Lock()
        _locks.add(self)


class Waiter:
    """Waits for one storage. Safe to use from several threads, and in a forked child.

    Args:
        name: Of the storage, for errors.
        timeout_s: How long one wait may take.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._name = name
        self._turn = ForkedLock()

    def wait(self, work: Callable[[], _T], interrupted: Interrupted, deadline: float | None = None) -> _T:
        """Do something in another thread. What was begun goes on there when this gives up.

        Args:
            work: What to do.
            interrupted: Says whether to give up.
            deadline: When to give up, as `turn` told; None for the time limit from now on.

        Raises:
            InterruptedQueryError: `interrupted` said so.
            UnavailableError: It took longer than the time limit.
        """
        future = self.start(work, interrupted)
        try:
            return self.wait_for(future, interrupted, deadline)
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # an error's traceback holds this frame: with it, a circle

    def at_once(self, work: Callable[[], _T | None], interrupted: Interrupted) -> _T | None:
        """Do something here and now, charged and timed like a wait; None where it cannot be done without one."""
        if not isinstance(interrupted, Meter):
            return work()
        began = time.monotonic()
        with interrupted.stats.charged():
            done = work()
        if done is not None:
            interrupted.waits += 1
            interrupted.waited_s += time.monotonic() - began
        return done

    def start(self, work: Callable[[], _T], interrupted: Interrupted) -> Future[_T]:
        """Begin to do something in another thread, for whoever it is charged to."""
        if not isinstance(interrupted, Meter):
            return _workers.submit(work)
        with interrupted.stats.charged():
            return _workers.submit(work)

    def wait_for(self, future: Future[_T], interrupted: Interrupted, deadline: float | None = None) -> _T:
        """Wait for what was started, which others may wait for too; as `wait`.

        Raises:
            InterruptedQueryError: `interrupted` said so.
            UnavailableError: It took longer than the time limit.
        """
        check = self._checking(interrupted, deadline or self._deadline())
        with _timed(interrupted):
            try:
                while True:
                    try:
                        return future.result(timeout=_NOTICE_S)
                    except NotYet:
                        if future.done():  # just now, or the work itself timed out
                            return future.result()
                    check()
            finally:
                del future  # an error's traceback holds this frame: with it, a circle

    @contextmanager
    def turn(self, interrupted: Interrupted) -> Iterator[float]:
        """Let one in at a time, and yield when to give up: whoever waited for the turn waits no longer than others."""
        lock = self._turn.now
        deadline = self._deadline()
        check = self._checking(interrupted, deadline)
        has_turn = False
        try:
            while not (has_turn := lock.acquire(timeout=_NOTICE_S)):
                check()
            yield deadline
        finally:
            if has_turn:
                lock.release()

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_s

    def _checking(self, interrupted: Interrupted, deadline: float) -> Callable[[], None]:
        def check() -> None:
            if interrupted():
                raise InterruptedQueryError("interrupted")
            if time.monotonic() > deadline:
                raise UnavailableError(f"{self._name} did not answer within {self.timeout_s:g} s")

        return check


def together(works: Sequence[Callable[[], _T]]) -> list[_T]:
    """Do several things at once and return what they return, in order; for work that waits for a storage itself.

    Raises:
        BaseException: What the first of them in order that failed raised; the others go on.
    """
    futures = [_workers.submit(work) for work in works[1:]]
    return [work() for work in works[:1]] + [future.result() for future in futures]


@contextmanager
def _timed(interrupted: Interrupted) -> Iterator[None]:
    """Count the time that somebody waits."""
    if not isinstance(interrupted, Meter):
        yield
        return
    began = time.monotonic()
    interrupted.waits += 1
    try:
        yield
    finally:
        interrupted.waited_s += time.monotonic() - began


class _Workers:
    """As many daemon threads as there is work at once."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        self._waiting.put((future, partial(copy_context().run, work)))
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, name="vfs", daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            try:
                job = self._waiting.get(timeout=_IDLE_S)
            except Empty:
                if self._idle.acquire(blocking=False):
                    return
                continue  # somebody counts on this thread: its work arrives now
            _do(*job)
            del job  # or an idle thread would keep the replica open
            self._idle.release()


def _do(future: Future[_T], work: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever waits raises it
        future.set_exception(error)
    finally:
        del future, work  # the error's traceback holds this frame: with them in it, a circle


def _renew() -> None:
    """Make what a child cannot use anew: threads do not survive a fork, and locks may be held by them."""
    global _workers
    _workers = _Workers()
    for lock in _locks:
        lock.now = threading.Lock()


_locks: WeakSet[ForkedLock] = WeakSet()
_workers = _Workers()
os.register_at_fork(after_in_child=_renew)
