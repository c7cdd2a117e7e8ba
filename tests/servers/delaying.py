"""A service seen from far away: a forwarder that lets every HTTP request wait before it goes on.

It passes bytes on as they are, so a signed `Host` stays true: whoever connects here signs this address, and the
service checks the signature by the header that it gets.
"""

import asyncio
import contextlib
import math
import multiprocessing
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from urllib.parse import urlsplit

__all__ = ["Delaying", "delaying"]

_PIECE = 1 << 18


@dataclass(frozen=True)
class Delaying:
    """A running forwarder.

    Attributes:
        endpoint: Its URL on loopback, to be used in place of the service's.
    """

    endpoint: str
    _requests: "Synchronized[int]"
    _received: "Synchronized[int]"

    @property
    def requests(self) -> int:
        """Requests so far, of all who connected."""
        return self._requests.value

    @property
    def received(self) -> int:
        """Bytes of answers so far, with their headers."""
        return self._received.value


@contextlib.contextmanager
def delaying(endpoint: str, seconds: float, bytes_per_s: float = math.inf) -> Iterator[Delaying]:
    """Start a forwarder to an HTTP service, in a process of its own.

    Args:
        endpoint: The service.
        seconds: How long each request waits, all at the same time.
        bytes_per_s: What the line has room for; all answers share it.
    """
    context = multiprocessing.get_context("spawn")
    requests, received = context.Value("q", 0), context.Value("q", 0)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        address = urlsplit(endpoint)
        assert address.hostname
        target = (address.hostname, address.port or 80)
        process = context.Process(
            target=_serve, args=(listener, target, seconds, bytes_per_s, requests, received), daemon=True
        )
        process.start()
        try:
            yield Delaying(f"http://127.0.0.1:{listener.getsockname()[1]}", requests, received)
        finally:
            process.terminate()
            process.join(5)


def _serve(
    listener: socket.socket,
    target: tuple[str, int],
    seconds: float,
    bytes_per_s: float,
    requests: "Synchronized[int]",
    received: "Synchronized[int]",
) -> None:
    line_is_free = 0.0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        answered = True  # what comes next begins a request

        async def up() -> None:
            nonlocal answered
            with contextlib.suppress(OSError):
                while piece := await reader.read(_PIECE):
                    if answered:
                        answered = False
                        requests.value += 1
                        await asyncio.sleep(seconds)
                    far_writer.write(piece)
                    await far_writer.drain()
                far_writer.write_eof()

        async def down() -> None:
            nonlocal answered, line_is_free
            with contextlib.suppress(OSError):
                while piece := await far_reader.read(_PIECE):
                    answered = True
                    received.value += len(piece)
                    now = time.monotonic()
                    line_is_free = max(now, line_is_free) + len(piece) / bytes_per_s
                    if line_is_free > now:
                        await asyncio.sleep(line_is_free - now)
                    writer.write(piece)
                    await writer.drain()
            writer.close()

        await asyncio.gather(up(), down())
        far_writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(connected, sock=listener, limit=_PIECE)
        await server.serve_forever()

    asyncio.run(serve())
