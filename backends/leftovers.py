"""Files that are being written aside in a local folder, and what is left of them when their process is killed."""

import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from backends.keys import ASIDE_PREFIX

__all__ = ["LEFT_S", "hold", "sweep"]

LEFT_S = 3600.0
"""Seconds after which a file that nobody holds is left over: on some network file systems a lock holds on one machine only."""

_ASIDE = re.compile(f"{re.escape(ASIDE_PREFIX)}[0-9a-f]{{16}}")


def hold(descriptor: int) -> None:
    """Show others that a file is being written, for as long as it is open."""
    with suppress(OSError):  # a file system without locks: then nothing is swept there either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(root: Path) -> None:
    """Remove what killed processes were writing: old files that nobody holds."""
    for folder, _, names in os.walk(root):
        for name in filter(_ASIDE.fullmatch, names):
            path = Path(folder, name)
            with suppress(OSError):  # BlockingIOError: somebody writes it
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if time.time() - os.fstat(descriptor).st_mtime > LEFT_S:
                        os.unlink(path)
                finally:
                    os.close(descriptor)
