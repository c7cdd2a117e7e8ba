"""Ctrl-C and SIGTERM end a command soon, whatever it waits for, and temporary files are removed first."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ltx.cli.output import complain

__all__ = ["INTERRUPTED", "TERMINATED", "Interrupted", "interruptible"]

INTERRUPTED = 130
TERMINATED = 143
"""Exit codes: 128 and the number of the signal, as a shell has it."""

_GRACE_S = 1.0
"""How long the clearing up after a signal may take; threads may be waiting for a storage for much longer."""

_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """The process got a signal.

    Attributes:
        code: The exit code for it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` at a signal; end the process a second later if it is still in here then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []

    def stop(number: int, _: FrameType | None) -> None:
        code = _CODES[signal.Signals(number)]
        if timers:
            _give_up(code)  # asked twice
        timer = threading.Timer(_GRACE_S, _give_up, [code])
        timer.daemon = True
        timers.append(timer)
        timer.start()
        raise Interrupted(code)

    before = {number: signal.signal(number, stop) for number in _CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in timers:
            timer.cancel()


def _give_up(code: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)  # a progress bar hides it
    if code == INTERRUPTED:
        complain("interrupted; run it again when you like")
    sys.stderr.flush()
    os._exit(code)
