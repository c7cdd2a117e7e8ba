"""An `s3fs.S3FileSystem` as we want it: counting what it sends, sending nothing twice, fresh listings, bounded waits."""

import asyncio
import base64
import hashlib
import re
import socket

from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from aiohttp import ClientSession
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from botocore.awsrequest import AWSPreparedRequest
from s3fs import S3FileSystem

from backends.base import Stats
from backends.s3_place import S3Place

__all__ = ["close_filesystem", "open_filesystem"]

LOOKUP_TIMEOUT_S = 4

_WORDS = {
    "GetObject": "get",
    "PutObject": "put",
    "HeadObject": "head",
    "ListObjectsV2": "list",
    "DeleteObjects": "delete",
}
_CARRY_OBJECTS = ("PutObject", "UploadPart")


def open_filesystem(place: S3Place, stats: Stats) -> S3FileSystem:
    """Make a file system for this place, with its client, but not connected to the service."""
    session = AioSession(profile=place.profile)
    session.register("before-send.s3", _Counter(stats))
    if place.content_md5:
        session.register("before-call.s3.DeleteObjects", _add_md5)
    options = dict(place.filesystem)
    config = options.pop("config_kwargs")
    assert isinstance(config, dict)
    filesystem = S3FileSystem(
        **options,
        config_kwargs=_TRANSPORT | {"connector_args": {"resolver": _BoundedResolver()}} | config,
        session=session,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    filesystem.retries = 1  # a retry is a wrapper's business
    filesystem.connect()
    return filesystem


def close_filesystem(filesystem: S3FileSystem) -> None:
    """Close its connections."""
    filesystem.close_session(filesystem.loop, filesystem._s3creator)


class _Counter:
    """Called with every request that goes out."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def __call__(self, request: AWSPreparedRequest, event_name: str, **_: object) -> None:
        operation = event_name.rpartition(".")[2]
        kind = _WORDS.get(operation) or re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        headers = request.headers
        size = headers.get("X-Amz-Decoded-Content-Length") or headers.get("Content-Length") or 0
        self._stats.count(kind, sent=int(size) if operation in _CARRY_OBJECTS else 0)


class _HTTPSession(AIOHTTPSession):  # type: ignore[misc] # aiobotocore has no types
    """aiobotocore's own, but nothing is sent twice in secret.

    aiohttp sends a request again when the connection broke, PUT included: a create that had landed would then find
    its own object and be refused, and nobody would know that there was a first try.
    """

    async def _get_session(self, proxy_url: str | None) -> ClientSession:
        session: ClientSession = await super()._get_session(proxy_url)
        session._retry_connection = False
        return session


_TRANSPORT: dict[str, object] = {"http_session_cls": _HTTPSession}


class _BoundedResolver(AbstractResolver):
    """Look a host up within `LOOKUP_TIMEOUT_S`, and keep one address a family.

    aiohttp waits the connect timeout out for each address, and S3 has eight: behind a firewall that drops packets
    that would be 40 s.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return at most two addresses."""
        try:
            found = await asyncio.wait_for(ThreadedResolver().resolve(host, port, family), LOOKUP_TIMEOUT_S)
        except TimeoutError as error:
            raise socket.gaierror(socket.EAI_AGAIN, f"the name {host} was not found in time") from error
        return list({address["family"]: address for address in reversed(found)}.values())[::-1]

    async def close(self) -> None:
        """Nothing is held."""


def _add_md5(params: dict[str, dict[str, str] | bytes], **_: object) -> None:
    body, headers = params["body"], params["headers"]
    if isinstance(body, bytes) and isinstance(headers, dict):
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        headers["Content-MD5"] = base64.b64encode(digest).decode()
