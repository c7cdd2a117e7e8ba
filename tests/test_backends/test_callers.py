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

    futures = [callers.submit(work) for _ in range(20)]
    assert futures[-1].cancel()
    gate.set()
    for future in futures[:-1]:
        future.result(10)
    assert seen <= {"few-1", "few-2", "few-3"}
    for _ in range(5):
        callers.submit(work).result(10)
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("few-")]) <= 3


def test_a_call_that_nobody_waits_for_keeps_the_program_a_second_at_most() -> None:
    code = "import time; from backends.callers import Callers; Callers(2, 'x').submit(lambda: time.sleep({}))"
    for sleeps, at_least in (("0.3", 0.3), ("60", 1)):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", code.format(sleeps)], check=True, timeout=30)
        assert at_least < time.monotonic() - began < 15


def test_a_call_that_has_ended_keeps_nothing() -> None:
    callers = Callers(2, "test")
    for _ in range(5):
        callers.submit(lambda: None).result(10)
    deadline = time.monotonic() + 10
    while callers._under_way and time.monotonic() < deadline:
        time.sleep(0.001)
    assert callers._under_way == 0
