"""Objects in Azure Blob Storage, through adlfs.

Cost in requests: `get` one for each 32 MiB, and a `head` where the range is counted from the end, which Azure cannot do;
`head` one; `put` one, or of more than 8 MiB one for each 8 MiB and one; `list` one per 5,000 keys; `delete` one a key, 16
of them at once.
"""

import asyncio
import base64
import builtins
import io
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Self, TypeVar, cast

import aiohttp
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseTimeoutError,
)
from azure.storage.blob import BlobBlock, BlobProperties, ContentSettings
from azure.storage.blob.aio import BlobClient, ContainerClient
from fsspec.asyn import sync

from backends import rfc3339
from backends.azure_account import open_filesystem
from backends.azure_place import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, AzurePlace
from backends.azure_protocol import CONTENT_TYPE, SET_CREDENTIALS, TIMESTAMP_NAME, of_answer
from backends.base import Backend, Capabilities, Data, ObjectInfo, Piece, Stats, check_put, check_range, cut
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from backends.keys import check_key, check_keys, check_prefix, is_key
from backends.patience import FirstAnswer
from backends.per_process import PerProcess
from backends.retrying import Retry

__all__ = ["AzureBackend"]

T = TypeVar("T")

_SLOWEST = 64 << 10
"""Bytes a second below which a request is given up."""

_ANY_SIZE = 1 << 40
"""Bytes of an answer as long as it likes: each wait for more of it is bounded by `READ_TIMEOUT_S`."""

_AT_ONCE = 16
_READS_AT_ONCE = 32
_UPLOADS_AT_ONCE = 4


class AzureBackend(Backend):
    """A container, or what lies below a path in it.

    `if_absent` is the condition `If-None-Match: *`, of a large object at the request that puts its blocks together.
    Blocks of one upload are named at random, so that two writers of one key never mix theirs.
    """

    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True)
    part_size = 8 << 20

    def __init__(self, place: AzurePlace, *, stats: Stats | None = None) -> None:
        """Prepare; nothing is sent. Requests are counted in `stats` where it is given."""
        super().__init__(stats)
        self.scheme, self.url, self._place = place.scheme, place.url, place
        self._first = FirstAnswer()
        self._filesystems = PerProcess(partial(open_filesystem, place, self.stats, self._first))

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `abs://[account@]container/path`; `AzurePlace.parse` has the forms and the options."""
        return cls(AzurePlace.parse(url, options))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object; a range that depends on its size costs a `head`."""
        check_range(end)
        return self._run(key, lambda blob: self._read(blob, start, end), _ANY_SIZE)

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges, 32 of them at once; the answers are in the order asked."""
        for key, _, end in pieces:
            check_key(key)
            check_range(end)
        limit = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(piece: Piece) -> bytes:
            async with limit:
                with self._translated(piece[0]):
                    return await self._read(self._blob(piece[0]), piece[1], piece[2])

        return tuple(self._gather(read, pieces))

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole; on failure no part of it is seen."""
        check_key(key)
        check_put(timestamp_ms)
        about: dict[str, Any] = {"content_settings": ContentSettings(CONTENT_TYPE)}
        if timestamp_ms is not None:
            about["metadata"] = {TIMESTAMP_NAME: rfc3339.format_ms(timestamp_ms)}
        if if_absent:
            about["match_condition"] = MatchConditions.IfMissing
        size = _size(data)
        if size <= self.part_size:
            whole = b"".join(cut(data, self.part_size))
            self._run(key, lambda blob: _upload(blob, whole, about), size)
        else:
            self._upload_blocks(key, data, about)

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        return self._info(key, self._run(key, lambda blob: blob.get_blob_properties()))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order; all of them are held in memory."""
        beginning = self._place.root + check_prefix(prefix)

        async def collect() -> builtins.list[BlobProperties]:
            found = self._container().list_blobs(name_starts_with=beginning, include=["metadata"])
            return [item async for item in found]

        with self._translated(None):
            items: builtins.list[BlobProperties] = sync(self._filesystem().loop, collect)
        infos = [self._info(item.name.removeprefix(self._place.root), item) for item in items]
        wanted = [info for info in infos if info.key > start_after and is_key(info.key)]
        return iter(sorted(wanted, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, 16 of them at once; a missing key is fine."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def delete(key: str) -> None:
            async with limit:
                try:
                    with self._translated(key):
                        await _bounded(self._blob(key).delete_blob(delete_snapshots="include"))
                except NotFoundError:
                    return

        self._gather(delete, builtins.list(dict.fromkeys(check_keys(keys))))

    def close(self) -> None:
        """Release connections and threads."""
        super().close()
        filesystem = self._filesystems.pop()
        if filesystem is not None:
            sync(filesystem.loop, filesystem.service_client.close)

    def _filesystem(self) -> Any:
        with self._translated(None):
            return self._filesystems.get()

    def _container(self) -> ContainerClient:
        return cast(
            "ContainerClient", self._filesystem().service_client.get_container_client(self._place.container)
        )

    def _blob(self, key: str) -> BlobClient:
        return self._container().get_blob_client(self._place.root + key)

    def _run(self, key: str, call: Callable[[BlobClient], Awaitable[T]], size: int = 0) -> T:
        check_key(key)
        with self._translated(key):
            return cast("T", sync(self._filesystem().loop, lambda: _bounded(call(self._blob(key)), size)))

    def _gather(self, call: Callable[[Any], Awaitable[T]], items: Sequence[object]) -> builtins.list[T]:
        """Run the calls on the event loop, all of them to their end; raise the first error in their order."""

        async def gather() -> builtins.list[T | BaseException]:
            return await asyncio.gather(*map(call, items), return_exceptions=True)

        answers: builtins.list[T | BaseException] = sync(self._filesystem().loop, gather) if items else []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return cast("builtins.list[T]", answers)

    async def _read(self, blob: BlobClient, start: int, end: int | None) -> bytes:
        if start < 0 or (end is not None and end <= start):
            size = (await blob.get_blob_properties()).size
            start = max(0, size + start) if start < 0 else start
            if start >= min(size, size if end is None else end):
                return b""
        try:
            stream = await blob.download_blob(start, None if end is None else end - start, max_concurrency=4)
            data = await stream.readall()
        except HttpResponseError as error:
            if error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            if error.status_code == HTTPStatus.PRECONDITION_FAILED:
                raise UnavailableError(f"{self.url}: the object was replaced while it was read") from error
            raise
        self.stats.count(received=len(data))
        return data

    def _info(self, key: str, found: BlobProperties) -> ObjectInfo:
        metadata = {name.lower(): text for name, text in (found.metadata or {}).items()}
        timestamp_ms = rfc3339.parse_ms(metadata.get(TIMESTAMP_NAME, ""))
        return ObjectInfo(key, found.size, found.last_modified, timestamp_ms, (found.etag or "").strip('"'))

    def _upload_blocks(self, key: str, data: Data, about: dict[str, Any]) -> None:
        """Upload a few blocks at once, each again where that can help, and put them together."""
        upload = os.urandom(8).hex()
        pool = self._executor()
        under_way: deque[Future[None]] = deque()
        names: builtins.list[str] = []

        def stage(name: str, block: bytes) -> None:
            Retry().run(
                lambda: self._run(
                    key, lambda blob: blob.stage_block(name, io.BytesIO(block), len(block)), len(block)
                )
            )

        try:
            for block in cut(data, self.part_size):
                names.append(base64.b64encode(f"{upload}-{len(names):06}".encode()).decode())
                under_way.append(pool.submit(stage, names[-1], bytes(block)))
                if len(under_way) >= _UPLOADS_AT_ONCE:
                    under_way.popleft().result()
            while under_way:
                under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
        blocks = [BlobBlock(name) for name in names]
        try:
            self._run(key, lambda blob: blob.commit_block_list(blocks, **about))
        except UnavailableError as error:
            if "match_condition" in about and "InvalidBlockList" in error.message:
                self.head(key)  # missing: none of us won, so the put may be tried again
                raise AlreadyExistsError(f"{self.url} has an object {key}", key=key) from error
            raise

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        """Turn the errors of Azure's library into ours: none of it leaves this module."""
        try:
            yield
        except BackendError as error:
            error.key = error.key or key
            raise
        except HttpResponseError as error:
            raise self._of_answer(error, key) from error
        except (AzureError, TimeoutError) as error:
            raise self._of_failure(error, key) from error
        except ValueError as error:
            raise ConfigError(f"{self.url}: {error}", key=key) from error

    def _of_answer(self, error: HttpResponseError, key: str | None) -> BackendError:
        code = getattr(error, "error_code", None) or ""
        code = str(getattr(code, "value", code))
        status = error.status_code or 0
        if not code and not status and isinstance(error, ClientAuthenticationError):
            reason = str(error.message).partition("\n")[0]  # of the credential chain: nothing was asked
            return PermissionDeniedError(
                f"{self.url}: no credential was found ({reason}); {SET_CREDENTIALS}", key=key
            )
        wait = getattr(error.response, "headers", {}).get("Retry-After", "")
        return of_answer(self._place, key, status, code or error.reason or "", wait)

    def _of_failure(self, error: Exception, key: str | None) -> BackendError:
        where = f"{self.url} at {self._place.endpoint} does not answer"
        if isinstance(error, ServiceRequestTimeoutError):
            return UnavailableError(
                f"{where}: no connection within {CONNECT_TIMEOUT_S} s", key=key, reached=False
            )
        if isinstance(error, ServiceResponseTimeoutError | TimeoutError):
            said = f"{where}: silent for {self._first.limit_s(READ_TIMEOUT_S):g} s"
            return UnavailableError(said, key=key, silent=not self._first.heard)
        if isinstance(error, ServiceRequestError):
            reached = not isinstance(error.inner_exception, aiohttp.ClientConnectorError)
            return UnavailableError(f"{where}: {error.message}", key=key, reached=reached)
        if isinstance(error, IncompleteReadError):
            return UnavailableError(f"{where}: the answer was cut short", key=key)
        return UnavailableError(f"{where}: {getattr(error, 'message', error)}", key=key)


async def _upload(blob: BlobClient, data: bytes, about: dict[str, Any]) -> None:
    await blob.upload_blob(io.BytesIO(data), overwrite=True, length=len(data), **about)


async def _bounded(call: Awaitable[T], size: int = 0) -> T:
    """Give a request a limit of time that grows with its size."""
    return await asyncio.wait_for(call, CONNECT_TIMEOUT_S + READ_TIMEOUT_S + size / _SLOWEST)


def _size(data: Data) -> int:
    return (
        len(memoryview(data).cast("B"))
        if isinstance(data, bytes | bytearray | memoryview)
        else data.seek(0, 2)
    )
