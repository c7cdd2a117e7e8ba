"""Objects on Google Cloud Storage, through gcsfs.

Cost in requests: `get` and `head` one each; `put` one, or of more than 16 MiB one and one for each 16 MiB; `list` one
per 1,000 keys; `delete` one a key, 16 of them at once. The first one that finds nothing takes a second one, to tell a
missing key from a missing bucket.
"""

import asyncio
import builtins
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, Self, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fsspec.asyn import sync

from backends import rfc3339
from backends.base import (
    Backend,
    Capabilities,
    Data,
    ObjectInfo,
    Page,
    Piece,
    Stats,
    check_put,
    check_range,
    cut,
)
from backends.errors import BackendError, ConfigError, NotFoundError, UnavailableError
from backends.gcs_requests import Answer, GCSRequests, emulator
from backends.keys import check_key, check_keys, check_prefix, is_key
from backends.retrying import Retry

__all__ = ["TIMESTAMP_NAME", "GCSBackend", "parse"]

TIMESTAMP_NAME = "litestream-timestamp"
"""User metadata, where Litestream looks for it too."""

_OPTIONS = ("endpoint", "project", "token", "requester_pays")
_FIELDS = "name,size,updated,timeCreated,generation,metadata"
_BLOCK_SIZE = 256 << 10
_AT_ONCE = 16
_READS_AT_ONCE = 32
_TYPE = "application/octet-stream"
_INCOMPLETE = 308
_CANCELLED = 499


class GCSBackend(Backend):
    """A bucket, or what lies below a path in it.

    `if_absent` is the condition that the object has generation 0, which Google checks when an upload ends, in one
    request or in parts. The usual emulator (fake-gcs-server) checks it for uploads in one request only, so at another
    endpoint an exclusive create is one request, whatever its size. Google can be asked how far an upload got, so a
    part that was lost is sent again alone; the emulator takes the question for the upload's end, so it is not asked.
    """

    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True)
    part_size = 16 << 20

    def __init__(
        self,
        bucket: str,
        root: str = "",
        *,
        scheme: str = "gs",
        endpoint: str = "",
        project: str = "",
        token: object = None,
        requester_pays: object = False,
        stats: Stats | None = None,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            bucket: Its name; it must exist.
            root: Where in it.
            scheme: `gs` or `gcs`.
            endpoint: URL of an emulator; "" for STORAGE_EMULATOR_HOST, or Google.
            project: To be billed, where that is not the credentials' own.
            token: A service account's file, its content as a mapping, a `google.auth` credentials object, or `anon`;
                None for the default credentials, or for none at an endpoint of one's own.
            requester_pays: True, or the name of the project that pays.
            stats: Where to count.
        """
        super().__init__(stats)
        self.scheme = scheme
        self.root = f"{root.strip('/')}/" if root.strip("/") else ""
        self.url = f"{scheme}://{bucket}/{self.root}".rstrip("/")
        self.endpoint = (endpoint or emulator()).rstrip("/")
        if isinstance(token, str) and token.endswith(".json") and not os.path.exists(token):
            raise ConfigError(f"{self.url}: there is no file {token} to read the credentials from")
        options = {
            "project": project,
            "token": token or ("anon" if self.endpoint else "google_default"),
            "requester_pays": requester_pays,
        }
        self.requests = GCSRequests(bucket, options, self.endpoint, self.stats)
        self._bucket_seen = False

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `gs://bucket/path`.

        Options, also in the query: `endpoint`, `project`, `token` (a service account's file, or `anon`),
        `requester_pays`. Environment: GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST.
        """
        return cls(**parse(url, options))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object; a range that depends on its size costs a `head`."""
        check_range(end)
        name = self._name(key)
        with self._about(key):
            return cast("bytes", sync(self.requests.loop, self._read, name, start, end))

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges, 32 of them at once; the answers are in the order asked."""
        names = [self._name(key) for key, _, _ in pieces]
        for _, _, end in pieces:
            check_range(end)
        limit = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(name: str, piece: Piece) -> bytes | BackendError:
            async with limit:
                try:
                    return await self._read(name, piece[1], piece[2])
                except BackendError as error:
                    error.key = piece[0]
                    return error

        async def read_all() -> builtins.list[bytes | BackendError]:
            return await asyncio.gather(*map(read, names, pieces))

        found: builtins.list[bytes | BackendError] = sync(self.requests.loop, read_all)
        for answer in found:
            if isinstance(answer, BackendError):
                with self._about(answer.key):
                    raise answer
        return cast("Sequence[bytes]", tuple(found))

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole; on failure no part of it is left."""
        check_put(timestamp_ms)
        about: dict[str, Any] = {"name": self._name(key), "contentType": _TYPE}
        if timestamp_ms is not None:
            about["metadata"] = {TIMESTAMP_NAME: rfc3339.format_ms(timestamp_ms)}
        condition = {"ifGenerationMatch": "0"} if if_absent else {}
        size = _size(data)
        with self._about(key):
            if size <= self.part_size or (if_absent and self.endpoint):
                self._upload_whole(about, condition, data, size)
            else:
                self._upload_parts(about, condition, data, size)

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        with self._about(key):
            return self._info(
                key,
                self.requests.ask("head", "GET", _path(self._name(key)), params={"fields": _FIELDS}).json(),
            )

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order; all of them are held in memory."""
        found = (info for page in self._pages(prefix, start_after) for info in page.objects)
        return iter(sorted(found, key=lambda info: info.key))

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List what comes in one request: 1,000 objects."""
        return next(self._pages(prefix, start_after))

    def _pages(self, prefix: str, start_after: str) -> Iterator[Page]:
        asked = {
            "prefix": self.root + check_prefix(prefix),
            "maxResults": "1000",
            "fields": f"nextPageToken,items({_FIELDS})",
        }
        if start_after:
            asked["startOffset"] = self.root + start_after
        while True:
            with self._about(None):
                page = self.requests.ask("list", "GET", "/o", params=asked).json()
            self._bucket_seen = True
            items = ((item["name"].removeprefix(self.root), item) for item in page.get("items", ()))
            found = [self._info(key, item) for key, item in items if key > start_after and is_key(key)]
            yield Page(tuple(sorted(found, key=lambda info: info.key)), not page.get("nextPageToken"))
            if not page.get("nextPageToken"):
                return
            asked["pageToken"] = page["nextPageToken"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, 16 of them at once; a missing key is fine."""
        names = {self._name(key): key for key in check_keys(keys)}
        limit = asyncio.Semaphore(_AT_ONCE)

        async def delete(name: str) -> BackendError | None:
            async with limit:
                try:
                    await self.requests.send("delete", "DELETE", _path(name), accept=(404,))
                except BackendError as error:
                    error.key = names[name]
                    return error
                return None

        async def delete_all() -> builtins.list[BackendError | None]:
            return await asyncio.gather(*map(delete, names))

        for error in sync(self.requests.loop, delete_all) if names else ():
            if error is not None:
                raise error

    def close(self) -> None:
        """Release connections and threads."""
        super().close()
        self.requests.close()

    def _name(self, key: str) -> str:
        return self.root + check_key(key)

    async def _read(self, name: str, start: int, end: int | None) -> bytes:
        if start < 0 and end is not None:
            start = max(0, await self._size(name) + start)
        if end is not None and end <= start:
            await self._size(name)
            return b""
        span = f"bytes={start}-{'' if end is None else end - 1}" if start >= 0 else f"bytes={start}"
        headers = {"Range": span} if start or end is not None else {}
        answer = await self.requests.send(
            "get", "GET", _path(name), params={"alt": "media"}, headers=headers, accept=(416,)
        )
        data = b"" if answer.status == 416 else answer.body
        self.stats.count(received=len(data))
        return data[start:end] if answer.status == 200 and headers else data

    async def _size(self, name: str) -> int:
        return int(
            (await self.requests.send("head", "GET", _path(name), params={"fields": "size"})).json()["size"]
        )

    def _info(self, key: str, found: dict[str, Any]) -> ObjectInfo:
        metadata = {name.lower(): text for name, text in (found.get("metadata") or {}).items()}
        modified = found.get("updated") or found.get("timeCreated")
        return ObjectInfo(
            key,
            int(found.get("size", 0)),
            datetime.fromisoformat(modified) if modified else None,
            rfc3339.parse_ms(metadata.get(TIMESTAMP_NAME, "")),
            str(found.get("generation", "")),
        )

    def _upload_whole(self, about: dict[str, Any], condition: dict[str, str], data: Data, size: int) -> None:
        boundary = os.urandom(16).hex()
        before = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(about)}\r\n"
            f"--{boundary}\r\nContent-Type: {_TYPE}\r\n\r\n"
        ).encode()
        after = f"\r\n--{boundary}--\r\n".encode()
        broken: builtins.list[BaseException] = []

        async def body() -> AsyncIterator[bytes | memoryview]:
            yield before
            try:
                for block in cut(data, _BLOCK_SIZE):
                    yield block
            except Exception as error:
                broken.append(error)
                raise
            yield after

        try:
            self.requests.ask(
                "put",
                "POST",
                "/o",
                params={"uploadType": "multipart", **condition},
                headers={"Content-Type": f"multipart/related; boundary={boundary}"},
                body=body(),
                size=len(before) + size + len(after),
            )
        except Exception:
            if broken:
                raise broken[0] from None  # the file's own error
            raise
        self.stats.count(sent=size)

    def _upload_parts(self, about: dict[str, Any], condition: dict[str, str], data: Data, size: int) -> None:
        """Upload part by part; one whose answer is lost goes on where the service says that it has got to."""
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": _TYPE,
            "X-Upload-Content-Length": str(size),
        }
        started = self.requests.ask(
            "start_upload",
            "POST",
            "/o",
            params={"uploadType": "resumable", **condition},
            headers=headers,
            body=json.dumps(about).encode(),
        )
        place = started.headers["Location"]
        try:
            start = 0
            for part in cut(data, self.part_size):
                _Part(self.requests, place, part, start, size).send(resume=not self.endpoint)
                start += len(part)
                self.stats.count(sent=len(part))
        except NotFoundError as error:
            raise UnavailableError(f"{self.url}: the service forgot the upload of {about['name']}") from error
        except BaseException:
            with suppress(BackendError):
                self.requests.ask("cancel_upload", "DELETE", place, accept=range(300, 600))
            raise

    @contextmanager
    def _about(self, key: str | None) -> Iterator[None]:
        """Say in an error which key it is about, and tell a missing bucket from a missing key."""
        try:
            yield
        except NotFoundError as error:
            if not self._bucket_seen:
                self._look_for_bucket()
            raise NotFoundError(f"{self.url} has no object {key}", key=key) from error
        except BackendError as error:
            error.key = error.key or key
            raise
        self._bucket_seen = True

    def _look_for_bucket(self) -> None:
        answer: Answer = self.requests.ask(
            "list", "GET", "/o", params={"maxResults": "1", "fields": "kind"}, accept=(403, 404)
        )
        if answer.status == 404:
            raise ConfigError(f"{self.url}: there is no such bucket") from None
        self._bucket_seen = True


class _Part:
    """One part of an upload."""

    def __init__(
        self, requests: GCSRequests, place: str, part: bytes | memoryview, start: int, total: int
    ) -> None:
        self.requests = requests
        self._place = place
        self._part = part
        self._start = start
        self._total = total
        self._in_doubt = False

    def send(self, *, resume: bool) -> None:
        """Send until the service has all of it; after a failure begin where it says, if it can be asked."""
        done, end = self._start, self._start + len(self._part)
        while done < end:
            done = Retry(tries=6 if resume else 1).run(partial(self._try, done))

    def _try(self, done: int) -> int:
        """Send what is missing, and return up to where the service has it."""
        if self._in_doubt:
            done = self._put("ask_upload", f"bytes */{self._total}", b"")
            if done >= self._start + len(self._part):
                return done
        self._in_doubt = True
        rest = bytes(self._part[done - self._start :])
        done = self._put("put", f"bytes {done}-{done + len(rest) - 1}/{self._total}", rest)
        self._in_doubt = False
        return done

    def _put(self, kind: str, span: str, body: bytes) -> int:
        headers = {"Content-Range": span}
        answer = self.requests.ask(
            kind, "PUT", self._place, headers=headers, body=body, accept=(_INCOMPLETE,)
        )
        if answer.status != _INCOMPLETE:
            return self._total
        last = answer.headers.get("Range", "").rpartition("-")[2]
        return int(last) + 1 if last else 0


def parse(url: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Return what a URL and options say, as `GCSBackend` takes it.

    Raises:
        ConfigError: One of them is wrong.
    """
    parts = urlsplit(url)
    given = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise ConfigError(f"{parts.scheme}:// takes {', '.join(_OPTIONS)}, not {', '.join(unknown)}")
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
        raise ConfigError(f"the URL names no bucket: write {parts.scheme}://bucket/path")
    if given.get("requester_pays") in ("true", "false"):  # other words name a project
        given["requester_pays"] = given["requester_pays"] == "true"
    endpoint = str(given.pop("endpoint", ""))
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"an endpoint begins with http:// or https://, unlike {endpoint}")
    place = {
        "bucket": parts.netloc,
        "root": unquote(parts.path),
        "scheme": parts.scheme,
        "endpoint": endpoint,
    }
    return place | given


def _path(name: str) -> str:
    return f"/o/{quote(name, safe='')}"


def _size(data: Data) -> int:
    return (
        len(memoryview(data).cast("B"))
        if isinstance(data, bytes | bytearray | memoryview)
        else data.seek(0, 2)
    )
