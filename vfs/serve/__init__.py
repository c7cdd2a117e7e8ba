"""The helper process of the SQLite extension: it reads a replica for every program of one user.

The extension starts it with a socket that listens, as descriptor 3, and nothing else of its own. There is one for each
user, replica and environment; it ends a few seconds after the last client (docs/design/0009-helper-process.md).
"""

import fcntl
import os
import resource
import select
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from vfs.hydration_place import remove_private
from vfs.serve.session import Session

__all__ = ["main"]

_LISTENING = 3
_IDLE_S = 10.0
"""How long it stays without clients: programs come and go, and the pages are still there."""

_PAUSE_S = 0.1


def main() -> None:
    """Serve clients until there are none."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each client takes one
    listening = socket.socket(fileno=_LISTENING)
    listening.setblocking(False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 2)  # whoever started this one learned from it why it did not start
    with suppress(OSError):
        _Helper(listening).run()
    remove_private()
    os._exit(0)  # a request that hangs keeps nobody waiting


class _Helper:
    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._path = Path(listening.getsockname())
        self._identity = self._path.stat().st_ino
        self._clients = 0
        self._lock = threading.Lock()
        self._wake, self._woken = os.pipe()

    def run(self) -> None:
        """Accept clients; return when there were none for a while."""
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(None if self._clients else _IDLE_S * 1000)}
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._listening.fileno() in ready:
                self._accept()
            if not ready and not self._clients and self._has_ended():
                return

    def _accept(self) -> bool:
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return False
        except OSError:  # no descriptors are left: whoever waits is served when others leave
            time.sleep(_PAUSE_S)
            return False
        if not _is_the_users(connection):
            connection.close()
            return True
        with self._lock:
            self._clients += 1
        connection.setblocking(True)
        threading.Thread(target=self._serve, args=(connection,), name="client", daemon=True).start()
        return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            Session(connection).serve()
        finally:
            with self._lock:
                self._clients -= 1
            os.write(self._woken, b"\0")

    def _has_ended(self) -> bool:
        """Take the socket away, unless somebody came. Clients connect under the same lock: none is lost."""
        with (self._path.parent / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._accept():
                return False
            if self._path.stat().st_ino == self._identity:
                self._path.unlink()
            return True


def _is_the_users(connection: socket.socket) -> bool:
    if sys.platform != "linux":
        return True  # nobody else can enter the folder
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", peer)[1] == os.geteuid())
