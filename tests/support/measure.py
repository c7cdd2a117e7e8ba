"""What an action costs: bytes of memory at its peak, and time."""

import time
import tracemalloc
from collections.abc import Callable

__all__ = ["cpu_seconds", "peak_memory", "seconds"]


def peak_memory(action: Callable[[], object]) -> int:
    """Return the most bytes that Python held at once because of an action."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action took."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return how long an action kept this process busy, whatever else the machine does."""
    started = time.process_time()
    action()
    return time.process_time() - started
