"""A proxy before a real server that answers some requests itself, or loses them, or loses their answers."""

import contextlib
import http.client
import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Cable", "Fault", "FaultyProxy", "cable", "faulty_proxy"]


@dataclass
class Fault:
    """What happens to the next requests that match.

    Attributes:
        method: Of HTTP; "" for any.
        part: Must be in the request's path and query.
        action: `answer` in place of the server; `drop` the connection before the server gets the request; `lose` the
            answer after it did; `stall` until the proxy ends; `pause` for two seconds; or let it `pass`.
        status: For `answer`.
        headers: For `answer`.
        body: For `answer`.
        times: How many requests.
    """

    method: str
    part: str = ""
    action: Literal["answer", "drop", "lose", "pass", "pause", "stall"] = "answer"
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1


@dataclass
class FaultyProxy:
    """Where the proxy listens, and the faults that are still to come."""

    port: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault for this request, and use it up."""
        with self.lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.method in ("", method) and fault.part in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


@contextlib.contextmanager
def faulty_proxy(upstream: int) -> Iterator[FaultyProxy]:
    """Stand before the server on this port of 127.0.0.1; answers name the proxy where they named the server."""
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> object:
            if name.startswith("do_"):
                return self.handle_any
            raise AttributeError(name)

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.take(self.command, self.path)
            if fault and fault.action == "answer":
                self.reply(fault.status, list(fault.headers.items()), fault.body)
            elif fault and fault.action in ("drop", "stall"):
                if fault.action == "stall":
                    ended.wait(60)
                self.close_connection = True
            else:
                if fault and fault.action == "pause":
                    ended.wait(2)
                connection = http.client.HTTPConnection("127.0.0.1", upstream)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if fault and fault.action == "lose":
                    self.close_connection = True
                else:
                    self.reply(answer.status, answer.getheaders(), data)

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value.replace(f":{upstream}/", f":{proxy.port}/"))
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            elif length := dict(headers).get("Content-Length"):
                self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy = FaultyProxy(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            ended.set()
            server.shutdown()
            thread.join()


@dataclass
class Cable:
    """Where to connect in place of the server, and the connections that lead to it."""

    port: int
    sockets: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        """Break every connection; later ones are let through."""
        while self.sockets:
            with contextlib.suppress(OSError):
                self.sockets.pop().shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cable(upstream: int) -> Iterator[Cable]:
    """Lead connections to the server on this port of 127.0.0.1, whatever it speaks."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", upstream)) as server:
                led.sockets += [server, self.request]
                back = threading.Thread(target=_copy, args=(server, self.request))
                back.start()
                _copy(self.request, server)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as proxy:
        led = Cable(proxy.server_address[1])
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield led
        finally:
            led.cut()
            proxy.shutdown()
            thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
