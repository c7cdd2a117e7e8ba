"""A replicator as a process: signals, the child that it runs for, and the end."""

import logging
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from types import FrameType

import apsw

from ltx.errors import LTXError
from ltx.replica.replica import Replica
from ltx.replication.config.values import Configuration, Logging
from ltx.replication.control import listening, socket_folder
from ltx.replication.daemon import Daemon
from ltx.replication.failures import log_failure
from ltx.replication.fleet import Fleet
from ltx.replication.heartbeat import Heart
from ltx.replication.logs import log_to_stderr
from ltx.replication.missing import RestoreEndedError

__all__ = ["log_as", "prepare_process", "run"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ABORTED = 130
_BY_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a program."""

log = logging.getLogger("ltx")


def prepare_process() -> None:
    """Make this process fit for hundreds of databases; before its first connection to SQLite.

    Without SQLite's lookaside a connection takes a tenth of the memory, and each database takes six descriptors.
    """
    with suppress(apsw.Error):
        apsw.shutdown()  # it can be configured only before its first use
        apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 0, 0)
    # Here, in one thread: begun anew by several first connections at once it corrupts its memory (seen: crashes).
    apsw.initialize()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(
    configuration: Configuration,
    *,
    again: Callable[[], Configuration] | None = None,
    opened: Callable[[Replica], None] | None = None,
) -> int:
    """Replicate until a SIGTERM or SIGINT comes, or a command ends; then flush, and return the exit code.

    A second signal ends the process at once: what is not uploaded stays on this machine, durable. SIGHUP lets the
    configuration be read again; one that is wrong changes nothing. To be called in the main thread.

    Args:
        configuration: What to replicate, and all else.
        again: Reads the configuration again; None where there is none to read, and SIGHUP has no meaning.
        opened: Is told of every replica that was opened.

    Returns:
        The status of the command where it failed, else 0, or 1 where not everything could be uploaded. Where a signal
        comes before the command began it is not begun, and the status is what the signal would have given it.

    Raises:
        LTXError, backends.BackendError, OSError: It could not even begin.
    """
    daemon = Daemon(flush_s=configuration.flush_s, flush_pause_s=configuration.flush_pause_s)
    signals, over = _Signals(), threading.Event()
    with (
        signals.heard(reloading=again is not None),
        closing(Fleet(daemon, opened)) as fleet,
        _around(daemon, configuration),
    ):
        fleet.take(configuration)
        if configuration.command and not _restored(fleet, signals):
            return signals.status
        daemon.start()
        heart = Heart(daemon, configuration.heartbeat)
        daemon.schedule(heart.beat)
        if again:
            threading.Thread(
                target=_reload, args=(signals.reload, over, again, fleet, heart), name="reload", daemon=True
            ).start()
        _tell(daemon)
        if configuration.command:
            signals.begin(configuration.command)
        status = signals.wait()
        over.set()
        signals.reload.set()
        flushed = daemon.stop()
        log.info("ended", extra={"flushed": flushed})
    return status or (0 if flushed else 1)


class _Signals:
    """What signals ask for: the end, of which a child is told, too, or the configuration anew.

    Attributes:
        told: Set once the end is asked for.
        reload: Set when the configuration is to be read again.
        child: The program that runs meanwhile, where there is one.
        status: What a signal gives a program that it ends; 0 where none came.
    """

    def __init__(self) -> None:
        self.told, self.reload = threading.Event(), threading.Event()
        self.child: subprocess.Popen[bytes] | None = None
        self.status = 0
        self._kept_from_beginning = False

    @contextmanager
    def heard(self, *, reloading: bool) -> Iterator[None]:
        """Take signals meanwhile; SIGHUP only where there is something to read again."""
        woken_before = signal.set_wakeup_fd(-1)  # nobody else is to end us meanwhile
        numbers = (*_SIGNALS, signal.SIGHUP) if reloading else _SIGNALS
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken_before)

    def begin(self, command: Sequence[str]) -> None:
        """Begin the child; not once the end is asked for."""
        if self.told.is_set():
            self._kept_from_beginning = True
            return
        self.child = _begun(command)
        if self.told.is_set():  # it came before there was anybody to pass it on to
            self.child.send_signal(self.status - _BY_SIGNAL)

    def wait(self) -> int:
        """Wait for the child's end, and return its status as a shell has it; without one for the end, and return 0."""
        if self.child is not None:
            status = self.child.wait()
            return _BY_SIGNAL - status if status < 0 else status
        while not self.told.wait(0.5):  # a signal just before a longer wait would not end it
            pass
        return self.status if self._kept_from_beginning else 0

    def _take(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload.set()
            return
        runs = self.child is not None and self.child.poll() is None
        if self.told.is_set() and not runs:
            os._exit(ABORTED)
        self.status = _BY_SIGNAL + number
        self.told.set()
        if self.child is not None and runs:
            self.child.send_signal(number)


def _restored(fleet: Fleet, signals: _Signals) -> bool:
    """Restore what is missing, since the command is not to begin with an empty database; False where the end is asked for."""
    with suppress(RestoreEndedError):
        fleet.restore_missing(signals.told)
    if signals.told.is_set():
        log.info("ended before anything began")
    return not signals.told.is_set()


def _tell(daemon: Daemon) -> None:
    """Say that it runs; not as if all were well where databases are missing."""
    paths = [database.path for database in daemon.databases]
    missing = [path for path in paths if not path.exists()]
    facts: dict[str, object] = {"databases": len(paths) - len(missing), "pid": os.getpid()}
    if missing:
        facts["missing"] = len(missing)
    log.info("waits for its databases" if missing == paths != [] else "replicates", extra=facts)


@contextmanager
def _around(daemon: Daemon, configuration: Configuration) -> Iterator[None]:
    """Answer `ltx status`, and serve metrics, meanwhile."""
    with ExitStack() as stack:
        if configuration.address:
            from ltx.replication.metrics import serving  # its library takes a tenth of a second

            try:
                port = stack.enter_context(serving(daemon, configuration.address))
            except (OSError, OverflowError) as error:  # the second for a port beyond 65535
                reason = error.strerror or error if isinstance(error, OSError) else "a port is at most 65535"
                raise LTXError(
                    f"metrics cannot be served at {configuration.address}: {reason}; choose another address"
                ) from error
            log.info("serves metrics", extra={"port": port})
        socket = configuration.socket or socket_folder() / f"{os.getpid()}.sock"
        stack.enter_context(listening(daemon, socket))
        yield


def _reload(
    wanted: threading.Event,
    over: threading.Event,
    again: Callable[[], Configuration],
    fleet: Fleet,
    heart: Heart,
) -> None:
    """Take the configuration anew whenever it is wanted, until all is over."""
    while True:
        wanted.wait()
        wanted.clear()
        if over.is_set():
            return
        before = fleet.configuration
        try:
            configuration = again()
            fleet.take(configuration)
        except Exception as error:  # noqa: BLE001 - a thread that ends here would not hear of the next one
            log_failure("the configuration was not taken; all goes on as it was", error)
            continue
        heart.settings = configuration.heartbeat
        log_as(configuration.logging)
        for warning in configuration.warnings:
            log.warning(warning)
        later = [
            name
            for name in ("address", "command", "socket", "flush_s", "flush_pause_s")
            if getattr(before, name) != getattr(configuration, name)
        ]
        log.info("took the configuration", extra={"needs_restart": later} if later else {})


def log_as(wanted: Logging) -> None:
    """Log to stderr as a configuration says."""
    log_to_stderr(as_json=wanted.as_json, level=wanted.level, source=wanted.source)


def _begun(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command)  # noqa: S603 - it is what --exec names
    except OSError as error:
        reason = f"the program to run meanwhile cannot be run: {error.strerror}: {command[0]}"
        raise LTXError(f"{reason}; check its name and PATH") from error
