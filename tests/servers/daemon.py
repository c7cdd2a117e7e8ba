"""A real server as a child process: on loopback, in a folder of its own, ended by its own process id."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["PASSWORD", "USER", "daemon", "free_port", "private_folder", "program"]

USER, PASSWORD = "user", "pass-word-123"


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Return the path of a program, or fail: a missing server is a failure, never a skip."""
    beside = Path(sys.executable).parent / name
    found = (
        str(beside) if beside.exists() else shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    )
    if not found:
        raise FileNotFoundError(f"{name} is not installed: tests/servers/install.sh installs it")
    return found


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that other users may enter (pytest's own they may not), and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ltx-server-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def daemon(
    arguments: Sequence[object],
    folder: Path,
    *,
    port: int,
    health: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server and wait until it answers; stop it afterwards, and with this process.

    Args:
        arguments: Program and arguments.
        folder: Where it works and logs.
        port: Where it listens, on 127.0.0.1.
        health: A path that answers 200 when it is ready; "" where listening suffices.
        environment: Variables besides ours.
    """
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: ctypes.CDLL(None).prctl(
                1, signal.SIGTERM
            ),  # dies with the thread that started it
        )
    try:
        _wait(process, folder, port, health)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], folder: Path, port: int, health: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if health:
                if urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=2).status == 200:
                    return
            else:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                return
        time.sleep(0.02)
    log = (folder / "server.log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args!r} did not start: {log}")
