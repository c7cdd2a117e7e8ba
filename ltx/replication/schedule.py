"""Work that is to be done now and then, on pools of bounded size: a task never runs twice at once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Scheduler", "Task"]


class Task:
    """Something to do again and again.

    Args:
        work: Does it, and returns in how many seconds to do it again unless it is poked before.
        pool: Where it runs.
    """

    def __init__(self, work: Callable[[], float], pool: ThreadPoolExecutor) -> None:
        self.work, self.pool = work, pool
        self.due = 0.0
        self.running = False
        self.poked: float | None = None


class Scheduler:
    """Runs tasks when they are due. Safe to use from any thread."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._ended = False

    def add(self, task: Task) -> None:
        """Add a task; it is due at once."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def poke(self, task: Task, delay_s: float = 0.0) -> None:
        """Let a task run soon; while it runs, once more after that."""
        at = time.monotonic() + delay_s
        with self._changed:
            if task.running:
                task.poked = at if task.poked is None else min(at, task.poked)
            elif at < task.due:
                task.due = at
                self._changed.notify()

    def run(self) -> None:
        """Run tasks until `end`; those under way are not waited for."""
        while True:
            with self._changed:
                if self._ended:
                    return
                now = time.monotonic()
                ready = [task for task in self._tasks if not task.running and task.due <= now]
                for task in ready:
                    task.running = True
                    task.pool.submit(self._run, task)
                following = min((task.due for task in self._tasks if not task.running), default=now + 60)
                self._changed.wait(max(0.0, min(60.0, following - now)))

    def end(self) -> None:
        """Let `run` return."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _run(self, task: Task) -> None:
        delay_s = 5.0
        try:
            delay_s = task.work()
        finally:
            with self._changed:
                task.due = time.monotonic() + delay_s
                if task.poked is not None:
                    task.due = min(task.due, task.poked)
                task.running, task.poked = False, None
                self._changed.notify()
