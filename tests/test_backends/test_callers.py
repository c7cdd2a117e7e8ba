"""Threads for calls that do not notice an interrupt."""

import subprocess
import sys
import threading
import time

import pytest

from backends.callers import Callers


def test_results_and_errors_come_back_in_their_order() -> None:
    callers = Callers(4, "test")
    futures = [callers.submit(lambda number=number: 60 // number) for number in (3, 0, 2)]  # type: ignore[misc]
    assert futures[0].result(10) == 20
    with pytest.raises(ZeroDivisionError):
        futures[1].result(10)
    assert futures[2].result(10) == 30


def test_no_more_threads_than_that_and_none_for_nothing() -> None:
    callers, gate, seen = Callers(3, "few"), threading.Event(), set[str]()

    def work() -> None:
        seen.add(threading.current_thread().name)
        gate.wait(10)

    before = threading.active_count()
    futures = [callers.submit(work) for _ in range(20)]
    assert futures[-1].cancel()
    gate.set()
    for future in futures[:-1]:
        future.result(10)
    assert seen == {"few-1", "few-2", "few-3"}
    assert threading.active_count() == before + 3
    for _ in range(5):
        callers.submit(work).result(10)
    assert len(seen) == 3


def test_a_call_that_nobody_waits_for_keeps_the_program_a_second_at_most() -> None:
    code = "import time; from backends.callers import Callers; Callers(2, 'x').submit(lambda: time.sleep({}))"
    for sleeps in ("0.3", "60"):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", code.format(sleeps)], check=True, timeout=30)
        assert time.monotonic() - began < 15
