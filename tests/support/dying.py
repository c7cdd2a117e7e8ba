"""A child that dies by SIGKILL before one of its calls to the system or to SQLite."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from io import IOBase
from types import FrameType

import apsw

__all__ = ["dies_before"]

_SYSTEM_CALLS = {
    "close", "fchmod", "fchown", "flock", "fsync", "ftruncate", "link", "lstat", "open", "pwrite", "pwritev", "rename",
    "replace", "stat", "unlink", "write",
}  # fmt: skip


def dies_before(step: int, action: Callable[[], object]) -> bool:
    """Do something in a child that dies before its call number `step`; return whether it got that far."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            left = step

            def profile(frame: FrameType, event: str, called: object) -> None:
                nonlocal left
                if event == "c_call" and _is_step(called):
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            threading.setprofile(profile)  # pages are written in another thread
            sys.setprofile(profile)
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.waitstatus_to_exitcode(status):
        raise AssertionError("it failed without being killed")
    return False


def _is_step(called: object) -> bool:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, apsw.Connection | apsw.VFSFile) or called in (apsw.Connection, apsw.VFSFile):
        return True
    name, module = getattr(called, "__name__", ""), getattr(called, "__module__", "")
    return name in _SYSTEM_CALLS and (isinstance(owner, IOBase) or module == "posix")
