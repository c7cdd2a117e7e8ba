"""Ctrl-C and SIGTERM end a command soon, whatever it waits for, and temporary files are removed first."""

import os
import signal
import sys
import threading
import time
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

_LOOK_S = 0.05

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
    handled, left = threading.Event(), threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        if not handled.is_set():
            handled.set()
            raise Interrupted(_CODES[signal.Signals(number)])

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, stop) for number in _CODES}
    woken_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, handled, left), name="signals", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)


def _watch(reading: int, handled: threading.Event, left: threading.Event) -> None:
    """See to it that a signal has its effect.

    The main thread may not notice it: one that comes just before it begins to wait for a lock does not wake it.
    """
    main = threading.main_thread().ident
    with open(reading, "rb", buffering=0) as signals:
        while byte := signals.read(1):
            number = byte[0]
            if number not in _CODES or main is None:
                continue
            deadline = time.monotonic() + _GRACE_S
            while time.monotonic() < deadline:
                if left.wait(_LOOK_S):
                    return
                if not handled.is_set():
                    signal.pthread_kill(main, number)
            _give_up(_CODES[signal.Signals(number)])


def _give_up(code: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)  # a progress bar hides it
    if code == INTERRUPTED:
        complain("interrupted; run it again when you like")
    sys.stderr.flush()
    os._exit(code)
