"""A replicator as a process: signals, the child that it runs for, and the end."""

import logging
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import apsw

from backends.retrying import Retry, RetryingBackend
from ltx.replica.replica import Replica
from ltx.replication.control import listening, socket_folder
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database

__all__ = ["prepare_process", "run", "uploading"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ABORTED = 130
log = logging.getLogger("ltx")


def prepare_process() -> None:
    """Make this process fit for hundreds of databases; before its first connection to SQLite.

    Without SQLite's lookaside a connection takes a tenth of the memory, and each database takes six descriptors.
    """
    with suppress(apsw.Error):
        apsw.shutdown()  # it can be configured only before its first use
        apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 0, 0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def uploading(replica: Replica) -> Replica:
    """Let a replica give up soon where its storage does not answer, since whoever uploads tries again; return it."""
    if isinstance(replica.backend, RetryingBackend):
        replica.backend.retry = Retry(tries=2, total_s=5, connect_s=5)
    return replica


def run(
    databases: Sequence[Database],
    *,
    command: Sequence[str] | None = None,
    socket: Path | None = None,
    flush_s: float = 30.0,
) -> int:
    """Replicate until a SIGTERM or SIGINT comes, or a command ends; then flush, and return the exit code.

    A second signal ends the process at once: what is not uploaded stays on this machine, durable. To be called in the
    main thread.

    Args:
        databases: What to replicate.
        command: A program to run meanwhile; signals are passed on to it, and its exit status is returned.
        socket: Where to answer requests; None for the usual place.
        flush_s: For how long to try to upload what is left.
    """
    daemon = Daemon(databases, flush_s=flush_s)
    told = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def on_signal(number: int, _: FrameType | None) -> None:
        if told.is_set() and (child is None or child.poll() is not None):
            os._exit(ABORTED)
        told.set()
        if child is not None and child.poll() is None:
            child.send_signal(number)

    woken_before = signal.set_wakeup_fd(-1)  # nobody else is to end us meanwhile
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        with listening(daemon, socket or socket_folder() / f"{os.getpid()}.sock"):
            daemon.start()
            log.info("replicates", extra={"databases": len(databases), "pid": os.getpid()})
            if command:
                child = subprocess.Popen(command)  # noqa: S603 - it is what --exec names
                status = _wait(child)
            else:
                while not told.wait(0.5):  # a signal just before a longer wait would not end it
                    pass
                status = 0
            flushed = daemon.stop()
            log.info("ended", extra={"flushed": flushed})
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken_before)
    return status or (0 if flushed else 1)


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Return what a shell would say of a child's end."""
    status = child.wait()
    return 128 - status if status < 0 else status
