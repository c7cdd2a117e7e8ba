"""Asking a running replicator: JSON, one request and one answer a line, over a Unix socket of the user's own.

Requests are `{"command": "status"}` and `{"command": "sync", "path": ..., "wait": true, "timeout_s": 30}`. Every
answer has `"ok"`; where it is false, `"error"` says why.
"""

import json
import os
import socket
import socketserver
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ltx.errors import LTXError

if TYPE_CHECKING:
    from ltx.replication.daemon import Daemon

__all__ = ["Answer", "answer", "ask", "listening", "socket_folder", "sockets"]

Answer = Mapping[str, object]
_TIMEOUT_S = 5.0
_LONGEST_REQUEST = 1 << 16


def answer(daemon: "Daemon", line: bytes) -> Answer:
    """Return the answer to a request; whatever goes wrong is one, too."""
    try:
        request = json.loads(line)
        command = request["command"]
        if command == "status":
            return {
                "ok": True,
                "pid": os.getpid(),
                "databases": [asdict(database.status) for database in daemon.databases],
            }
        if command == "sync":
            path = request.get("path")
            found = [database for database in daemon.databases if path in (None, str(database.path))]
            if not found:
                return {"ok": False, "error": f"{path} is not replicated here"}
            wait, timeout_s = bool(request.get("wait", True)), float(request.get("timeout_s", 30))
            done = [daemon.sync(database, wait=wait, timeout_s=timeout_s) for database in found]
            errors = [str(each.error) for database in found for each in database.uploaders if each.error]
            return {"ok": all(done), "error": "; ".join(errors) or "not all replicas have it yet"} | (
                {"error": None} if all(done) else {}
            )
    except Exception as error:  # noqa: BLE001 - the one who asked is told
        return {"ok": False, "error": str(error) or type(error).__name__}
    return {"ok": False, "error": f"no such command: {command!r}; there are status and sync"}


def socket_folder() -> Path:
    """Return the folder where replicators of this user have their sockets; nobody else may look into it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base) / "ltx" if base else Path(tempfile.gettempdir()) / f"ltx-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LTXError(f"{folder} is not a folder of this user's alone: remove it, or name a socket")
    return folder


def sockets() -> list[Path]:
    """Return the sockets of this user's running replicators; those of killed ones are removed."""
    found = []
    for path in sorted(socket_folder().glob("*.sock")):
        try:
            os.kill(int(path.stem), 0)
        except (ValueError, ProcessLookupError):
            path.unlink(missing_ok=True)
        else:
            found.append(path)
    return found


@contextmanager
def listening(daemon: "Daemon", path: Path) -> Iterator[None]:
    """Answer requests on a socket meanwhile.

    Raises:
        LTXError: Another replicator answers there, or something is there that is no socket; it is not touched.
        OSError: No socket can be there.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while line := self.rfile.readline(_LONGEST_REQUEST):
                    self.wfile.write(json.dumps(answer(daemon, line)).encode() + b"\n")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        block_on_close = False

    _make_room(path)
    before = os.umask(0o177)
    try:
        server = Server(str(path), Handler)
    finally:
        os.umask(before)
    ours = path.lstat().st_ino
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        with suppress(FileNotFoundError):
            if path.lstat().st_ino == ours:
                path.unlink()


def _make_room(path: Path) -> None:
    """Remove the socket of a replicator that is no more."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise LTXError(f"{path} is there already, and is no socket: name another path for the socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass
    raise LTXError(f"another replicator answers at {path}: name another path for the socket")


def ask(path: Path, request: Answer, *, timeout_s: float = _TIMEOUT_S) -> dict[str, object]:
    """Send a request to a replicator's socket, and return the answer.

    Raises:
        LTXError: Nobody answers there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as file:
                found: dict[str, object] = json.loads(file.readline())
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise LTXError(
                f"no replicator answers at {path}: {reason}; start one, or check the path"
            ) from error
    return found


Ask = Callable[[Answer], Answer]
