"""Ctrl-C while a program is loaded: one line and exit code 130, where Python would show what it was importing."""

import os
import signal
import threading
from types import FrameType

__all__ = ["heard", "quiet"]

_INTERRUPTED = 130


def quiet(name: str) -> None:
    """Let Ctrl-C end this process with one line, until `heard`. Where somebody else handles it, it is left alone.

    Args:
        name: What the line begins with.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        os.write(2, f"{name}: interrupted; run it again when you like\n".encode())
        os._exit(_INTERRUPTED)

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        end.is_quiet = True  # type: ignore[attr-defined]
        signal.signal(signal.SIGINT, end)


def heard() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again: whoever calls this handles it."""
    if getattr(signal.getsignal(signal.SIGINT), "is_quiet", False):
        signal.signal(signal.SIGINT, signal.default_int_handler)
