"""A service that answers as a test scripts it: for what a real one does only on a bad day."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["CLOSE", "Answer", "Stub", "answer", "black_hole", "refused_port", "silence", "stub"]

Answer = bytes
CLOSE: Answer = b""
"""Take the request and hang up."""


def answer(
    status: int, body: bytes = b"", *, code: str = "", headers: Sequence[str] = (), length: int = -1
) -> Answer:
    """Write a response; with `code` its body is an error of S3."""
    if code:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()
    lines = [
        f"HTTP/1.1 {status} Scripted",
        f"Content-Length: {len(body) if length < 0 else length}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Stub:
    """A running stub.

    Attributes:
        endpoint: Its URL.
        requests: First lines of what it was asked, in order.
    """

    endpoint: str
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def stub(answers: Callable[[int], Answer] | Sequence[Answer]) -> Iterator[Stub]:
    """Answer the nth request with the nth answer, the last one for ever, and hang up after each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        running = Stub(f"http://127.0.0.1:{server.getsockname()[1]}")

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    running.requests.append(_read_request(connection))
                    number = len(running.requests) - 1
                    sent = answers(number) if callable(answers) else answers[min(number, len(answers) - 1)]
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield running
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address at which connecting never ends: a listener whose queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def silence() -> Iterator[str]:
    """An endpoint that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def refused_port() -> str:
    """Return an endpoint at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def _read_request(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    sizes = [int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:")]
    if any(line.lower().startswith("expect:") for line in lines):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    missing = (sizes or [0])[0] - len(body)
    while missing > 0 and (piece := connection.recv(65536)):
        missing -= len(piece)
    return lines[0]
