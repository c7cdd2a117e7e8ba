"""Work that is to be done now and then, on pools of bounded size: a task never runs twice at once."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

__all__ = ["Scheduler", "Task"]

_AFTER_FAILURE_S = 5.0
log = logging.getLogger("ltx")


class Task:
    """Something to do again and again.

    Args:
        work: Does it, and returns in how many seconds to do it again unless it is poked before.
        pool: Where it runs.
    """

    def __init__(self, work: Callable[[], float], pool: ThreadPoolExecutor) -> None:
        self.work, self.pool = work, pool
        self.due = 0.0
        self.running = self.removed = False
        self.poked: float | None = None


class Scheduler:
    """Runs tasks when they are due, thousands of them for the cost of those that are. Safe to use from any thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Task]] = []
        """A task is in it once for each time that it was to be due; only the entry with its own time counts."""
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False

    def add(self, task: Task, delay_s: float = 0.0) -> None:
        """Add a task, and say in how many seconds it is due."""
        with self._changed:
            self._put(task, time.monotonic() + delay_s)

    def remove(self, tasks: Iterable[Task], *, timeout_s: float | None = None) -> bool:
        """Take tasks out: none of them begins again.

        Args:
            tasks: Which.
            timeout_s: For how long to wait for those that run; None for as long as they do.

        Returns:
            Whether none of them runs.
        """
        found = list(tasks)
        with self._changed:
            for task in found:
                task.removed = True
            return self._changed.wait_for(lambda: not any(task.running for task in found), timeout_s)

    def poke(self, task: Task, delay_s: float = 0.0) -> None:
        """Let a task run soon; while it runs, once more after that."""
        at = time.monotonic() + delay_s
        with self._changed:
            if task.running:
                task.poked = at if task.poked is None else min(at, task.poked)
            elif at < task.due and not task.removed:
                self._put(task, at)

    def run(self) -> None:
        """Run tasks until `end`; those under way are not waited for."""
        while True:
            with self._changed:
                if self._ended:
                    return
                now = time.monotonic()
                while self._heap and self._heap[0][0] <= now:
                    due, _, task = heapq.heappop(self._heap)
                    if due == task.due and not task.running and not task.removed:
                        self._submit(task)
                following = self._heap[0][0] if self._heap else now + 60
                self._changed.wait(max(0.0, min(60.0, following - now)))

    def end(self) -> None:
        """Let `run` return."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, task: Task, due: float) -> None:
        task.due = due
        heapq.heappush(self._heap, (due, next(self._numbers), task))
        if self._heap[0][2] is task:
            self._changed.notify_all()

    def _submit(self, task: Task) -> None:
        task.running = True
        try:
            future = task.pool.submit(self._run, task)
        except RuntimeError:  # the pool is shut down: all comes to its end
            task.running = False
            self._changed.notify_all()
        else:
            future.add_done_callback(partial(self._done, task))

    def _done(self, task: Task, future: Future[None]) -> None:
        if future.cancelled():  # its pool was shut down before it began
            with self._changed:
                task.running = False
                self._changed.notify_all()

    def _run(self, task: Task) -> None:
        delay_s = _AFTER_FAILURE_S
        try:
            delay_s = task.work()
        except Exception:
            log.exception("failed in a way that nobody foresaw; tries again")
        finally:
            with self._changed:
                due = time.monotonic() + delay_s
                if task.poked is not None:
                    due = min(due, task.poked)
                task.running, task.poked = False, None
                if task.removed:
                    self._changed.notify_all()
                else:
                    self._put(task, due)
