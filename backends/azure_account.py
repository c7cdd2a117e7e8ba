"""adlfs's file system connected to a storage account, sending each request once and in bounded time."""

import asyncio
import logging
import math
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from adlfs import AzureBlobFileSystem
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import BlobServiceClient

from backends.azure_place import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, AzurePlace
from backends.base import Stats
from backends.patience import FirstAnswer

__all__ = ["open_filesystem"]

logging.getLogger("azure").addHandler(
    logging.NullHandler()
)  # else it prints a page where nobody set logging up

_BLOCK_SIZE = 256 << 10
"""Bytes of an answer read at once, as the blob client's own transport has it; the bare transport has 4 KiB."""


def open_filesystem(place: AzurePlace, stats: Stats, first: FirstAnswer) -> AzureBlobFileSystem:
    """Make adlfs's file system; nothing is sent."""
    login = {name: value for name, value in place.login.items() if name != "connection_string"}
    anonymous = bool(login.pop("anon", False)) or "connection_string" in place.login

    class FileSystem(AzureBlobFileSystem):  # type: ignore[misc]  # adlfs has no types
        def do_connect(self) -> None:
            """Connect to any endpoint, without adlfs's and the client's retries, which add up to 70 s."""
            transport = _Transport(stats, first)
            settings: dict[str, Any] = {"transport": transport, "retry_total": 0, "max_single_get_size": 32 << 20,
                                        "max_chunk_get_size": 8 << 20, "user_agent": "ltx"}  # fmt: skip
            if text := place.login.get("connection_string"):
                self.service_client = BlobServiceClient.from_connection_string(text, **settings)
                return
            credential: Any = self.credential
            if key := login.get("account_key"):
                credential = {"account_name": place.account, "account_key": key}
            elif token := login.get("sas_token"):
                credential = None
                settings["account_url"] = f"{place.endpoint}?{str(token).lstrip('?')}"
            self.service_client = BlobServiceClient(
                **{"account_url": place.endpoint, "credential": credential, **settings}
            )

    return FileSystem(
        **{"account_name": place.account or "unnamed", "anon": anonymous, **login},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


class _Transport(AioHttpTransport):  # type: ignore[misc]  # it is found by name, so mypy cannot see it
    """Sends each request once, in bounded time, and counts it."""

    def __init__(self, stats: Stats, first: FirstAnswer) -> None:
        super().__init__(
            connection_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            connection_data_block_size=_BLOCK_SIZE,
        )
        self._stats = stats
        self._first = first

    async def open(self) -> None:
        await super().open()
        assert self.session is not None
        self.session._retry_connection = False  # aiohttp would send a lost PUT again in secret

    async def send(self, request: Any, **config: Any) -> Any:
        query = dict(parse_qsl(urlsplit(request.url).query))
        kinds = {"GET": "list" if query.get("comp") == "list" else "get", "POST": query.get("comp", "post")}
        kind = (
            "commit"
            if query.get("comp") == "blocklist"
            else kinds.get(request.method, request.method.lower())
        )
        sent = int(request.headers.get("Content-Length") or 0) if kind == "put" else 0
        self._stats.count(kind, sent=sent)
        async with asyncio.timeout(self._first.limit_s(math.inf, sent)):
            answer = await super().send(request, **config)
        self._first.heard = True
        return answer
