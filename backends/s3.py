"""Objects on S3 and on services that speak its protocol, through s3fs.

Cost in requests: `get`, `head` and a `put` up to `part_size` one each; a larger `put` two and one a part; `list` one
per 1,000 keys; `delete` one per 1,000 keys. The first `head` that finds nothing takes a second one, to tell a missing
key from a missing bucket.
"""

import asyncio
import builtins
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Self, cast

from fsspec.asyn import sync
from s3fs import S3FileSystem

from backends import rfc3339
from backends.base import Backend, Capabilities, Data, ObjectInfo, Page, Piece, Stats, check_put, check_range
from backends.errors import (
    BackendError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.keys import check_key, check_keys, check_prefix, is_key
from backends.patience import FirstAnswer
from backends.per_process import PerProcess
from backends.retrying import Retry
from backends.s3_errors import status_of, translated
from backends.s3_filesystem import close_filesystem, open_filesystem
from backends.s3_place import READS, S3Place, parse
from backends.s3_protocol import CONTENT_TYPE, TIMESTAMP_NAME, begin_early, of_answer
from backends.s3_upload import PATIENCE_S, Params, size_of, upload_parts, upload_whole

__all__ = ["S3Backend"]

_MOST_PARTS = 10_000
_LARGEST_PUT = 5 << 30
_DELETE_BATCH = 1000


class S3Backend(Backend):
    """A bucket, or what lies below a path in it.

    `put` writes up to `part_size` bytes in one request, and more in parts, `concurrency` of them at once.

    `if_absent` is the condition `If-None-Match: *`. On AWS it holds for parts too, at the request that
    completes them. Other services check it there without a lock or not at all (SeaweedFS lets several
    writers win, Ceph 16 every one), so at another endpoint an exclusive create of up to 5 GiB is one
    request, whatever its size.
    """

    scheme = "s3"
    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True)

    def __init__(self, place: S3Place, *, stats: Stats | None = None) -> None:
        """Open a place; nothing is sent yet. Requests are counted in `stats` where it is given."""
        super().__init__(stats)
        self.url = place.url
        self.place = place
        self._filesystems = PerProcess(lambda: open_filesystem(place, self.stats))
        self._bucket_seen = False
        self._first = FirstAnswer()

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `s3://bucket/path?endpoint=...&region=...`; `backends.s3_place` has the forms.

        Args:
            url: Bucket, path and query; credentials in it are taken out of it.
            options: As of `s3fs.S3FileSystem`: key, secret, token, profile, anon, endpoint_url, client_kwargs,
                config_kwargs, s3_additional_kwargs; further part_size (bytes), concurrency, and root, which begins every
                key as it is, in place of the URL's path: for objects of others under keys that begin with a slash.

        Raises:
            ConfigError: The URL or an option is wrong.
        """
        return cls(parse(url, options))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object; a range that depends on its size costs a `head`."""
        check_range(end)
        name = self._name(key)
        if end is not None:
            if start < 0:
                start = max(0, self.head(key).size + start)
            if start >= end:
                self.head(key)
                return b""
            span = f"bytes={start}-{end - 1}"
        else:
            span = f"bytes={start}{'-' if start > 0 else ''}" if start else ""
        with self._translated(key, "get_object"):
            filesystem = self._filesystems.get()
            data: bytes = sync(filesystem.loop, self._read, filesystem, name, span)
        self._bucket_seen = True
        self.stats.count(received=len(data))
        return data

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges, 32 of them at once; the answers are in the order asked."""
        if any(start < 0 or end is None or end <= start for _, start, end in pieces):
            return super().get_ranges(pieces)
        names = [self._name(key) for key, _, _ in pieces]
        limit = asyncio.Semaphore(READS)

        async def read(filesystem: S3FileSystem, name: str, piece: Piece) -> bytes:
            key, start, end = piece
            async with limit:
                with self._translated(key, "get_object"):
                    return await self._read(filesystem, name, f"bytes={start}-{end - 1}")

        async def read_all(filesystem: S3FileSystem) -> builtins.list[bytes | BaseException]:
            reads = (read(filesystem, name, piece) for name, piece in zip(names, pieces, strict=True))
            return await asyncio.gather(*reads, return_exceptions=True)

        with self._translated(None, "get_object"):
            filesystem = self._filesystems.get()
            answers: builtins.list[bytes | BaseException] = sync(filesystem.loop, read_all, filesystem)
        found = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
        self._bucket_seen = True
        self.stats.count(received=sum(map(len, found)))
        return tuple(found)

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole; on failure no part of it is left."""
        check_put(timestamp_ms)
        about: Params = {"Key": self._name(key), "ContentType": CONTENT_TYPE}
        if timestamp_ms is not None:
            about["Metadata"] = {TIMESTAMP_NAME: rfc3339.format_ms(timestamp_ms)}
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        call, size = partial(self._call, key), size_of(data)
        whole = if_absent and self.place.endpoint and size <= _LARGEST_PUT
        if whole or size <= self.place.part_size:
            upload_whole(call, about | condition, data)
            return
        upload_parts(
            call,
            about,
            data,
            part_size=max(self.place.part_size, math.ceil(size / _MOST_PARTS)),
            concurrency=self.place.concurrency,
            executor=self._executor(),
            condition=condition,
            retry=Retry(),
        )

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        name = self._name(key)
        try:
            found = self._call(key, "head_object", Key=name)
        except (NotFoundError, PermissionDeniedError) as error:
            self._explain(key, name, error)
            raise
        metadata = {given.lower(): text for given, text in found.get("Metadata", {}).items()}
        return ObjectInfo(
            key,
            found["ContentLength"],
            found.get("LastModified"),
            rfc3339.parse_ms(metadata.get(TIMESTAMP_NAME, "")),
            found.get("ETag", ""),
        )

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order; all of them are held in memory.

        Services may list in another order (SeaweedFS goes folder by folder), so the answers are sorted here, and the
        service is asked to begin a little early.
        """
        found = (info for page in self._pages(prefix, start_after) for info in page.objects)
        return iter(sorted(found, key=lambda info: info.key))

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List what comes in one request: 1,000 objects on most services."""
        return next(self._pages(prefix, start_after))

    def _pages(self, prefix: str, start_after: str) -> Iterator[Page]:
        root = self.place.root
        asked = {"Prefix": root + check_prefix(prefix)}
        if begin := begin_early(start_after):
            asked["StartAfter"] = root + begin
        while True:
            page = self._call(None, "list_objects_v2", **asked)
            found: list[ObjectInfo] = []
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(root)
                if key > start_after and is_key(
                    key
                ):  # others put names there that are no keys, such as `folder/`
                    found.append(
                        ObjectInfo(key, item["Size"], item["LastModified"], None, item.get("ETag", ""))
                    )
            is_last = not page.get("IsTruncated")
            yield Page(tuple(sorted(found, key=lambda info: info.key)), is_last)
            if is_last:
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, 1,000 a request; a missing key is fine."""
        failed: BackendError | None = None
        wanted_keys = check_keys(keys)
        for begin in range(0, len(wanted_keys), _DELETE_BATCH):
            names = {self._name(key): key for key in wanted_keys[begin : begin + _DELETE_BATCH]}
            objects = [{"Key": name} for name in names]
            answer = self._call(None, "delete_objects", Delete={"Objects": objects, "Quiet": True})
            for fault in answer.get("Errors", ()):
                error = of_answer(self.place, names.get(fault.get("Key")), "delete_objects", 0, fault)
                if not isinstance(error, NotFoundError):
                    failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Release connections and threads."""
        super().close()
        if (filesystem := self._filesystems.pop()) is not None:
            close_filesystem(filesystem)

    def _name(self, key: str) -> str:
        return self.place.root + check_key(key)

    def _call(self, key: str | None, operation: str, **params: object) -> Params:
        limit_s = float(cast("float", params.get("timeout", PATIENCE_S)))
        params["timeout"] = limit_s - PATIENCE_S + self._first.limit_s(PATIENCE_S)
        with self._translated(key, operation):
            filesystem = self._filesystems.get()
            answer: Params = filesystem.call_s3(operation, Bucket=self.place.bucket, **params)
        self._bucket_seen = True
        return answer

    def _explain(self, key: str, name: str, error: BackendError) -> None:
        """Ask again in a way that has an answer in words, which `HEAD` has not: raise what it says."""
        if isinstance(error, NotFoundError) and self._bucket_seen:
            return
        with suppress(NotFoundError), self._translated(key, "get_object"):
            filesystem = self._filesystems.get()
            sync(filesystem.loop, self._read, filesystem, name, "bytes=0-0")
        self._bucket_seen = True

    async def _read(self, filesystem: S3FileSystem, name: str, span: str) -> bytes:
        """Read a range, or all where `span` is empty; a range past the end is empty."""
        asked = {"Range": span} if span else {}
        bucket = self.place.bucket
        try:
            async with asyncio.timeout(self._first.limit_s(math.inf)):
                answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=name, **asked)
        except OSError as error:
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            raise
        self._first.heard = True
        async with answer["Body"] as body:
            data: bytes = await body.read()
        if span and "ContentRange" not in answer:
            raise UnsupportedError(
                f"the service of the bucket {bucket} answers a range with the whole object"
            )
        return data

    @contextmanager
    def _translated(self, key: str | None, operation: str) -> Iterator[None]:
        """Turn what the libraries raise into our errors, and see whether the service is there at all."""
        try:
            with translated(self.place, key, operation):
                yield
        except BackendError as error:
            self._first.heard |= error.__cause__ is not None and bool(status_of(error.__cause__))
            if isinstance(error, UnavailableError):
                error.silent = error.reached and not self._first.heard
            raise
        self._first.heard = True
