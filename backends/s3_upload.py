"""How an object gets to S3: whole in one request, or in parts of which none is left when it fails."""

import io
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

from backends.base import Data, cut
from backends.errors import BackendError
from backends.retrying import Retry

__all__ = ["PATIENCE_S", "Call", "Params", "size_of", "upload_parts", "upload_whole"]

Params = dict[str, Any]
Call = Callable[..., Params]
"""Sends an operation of S3 about one object and returns the answer."""

PATIENCE_S = 60
_COMPLETE_S = 600
_SLOWEST = 16 << 10
"""Bytes a second: an upload that is slower has stalled."""


def size_of(data: Data) -> int:
    """Return the size of what is put, in bytes."""
    if isinstance(data, bytes | bytearray | memoryview):
        return memoryview(data).nbytes
    return data.seek(0, os.SEEK_END)


def _limit_s(size: int) -> float:
    """Return how long it may take to send so many bytes."""
    return PATIENCE_S + size / _SLOWEST


def upload_whole(call: Call, params: Params, data: Data) -> None:
    """Put an object in one request; a file is read twice, to be signed and to be sent, in pieces."""
    size = size_of(data)
    body = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else _Body(data)
    try:
        call("put_object", **params, Body=body, timeout=_limit_s(size))
    except Exception:
        if isinstance(body, _Body) and body.error is not None:
            raise body.error from None
        raise


def upload_parts(
    call: Call,
    params: Params,
    data: Data,
    *,
    part_size: int,
    concurrency: int,
    executor: Executor,
    condition: Params,
    retry: Retry,
) -> None:
    """Put an object in parts, `concurrency` at once. Memory holds at most one more than that.

    A part that breaks is sent again. When all fails the parts are deleted: they would not be seen, but paid for.
    """
    upload = {"Key": params["Key"], "UploadId": call("create_multipart_upload", **params)["UploadId"]}

    def send(number: int, piece: bytes) -> Params:
        part = partial(
            call, "upload_part", **upload, PartNumber=number, Body=piece, timeout=_limit_s(len(piece))
        )
        return {"PartNumber": number, "ETag": retry.run(part)["ETag"]}

    under_way: deque[Future[Params]] = deque()
    parts: list[Params] = []
    try:
        for number, piece in enumerate(cut(data, part_size), 1):
            under_way.append(executor.submit(send, number, bytes(piece)))
            if len(under_way) >= concurrency:
                parts.append(under_way.popleft().result())
        while under_way:
            parts.append(under_way.popleft().result())
        done = {"MultipartUpload": {"Parts": parts}, "timeout": _COMPLETE_S}
        call("complete_multipart_upload", **upload, **done, **condition)
    except BaseException:
        for future in under_way:
            future.cancel()
        wait(under_way)  # a part that lands after the abort would stay
        with suppress(BackendError):
            call("abort_multipart_upload", **upload)
        raise


class _Body(io.RawIOBase):
    """A file as aiohttp wants it.

    Attributes:
        error: What reading the file raised; aiohttp would hide it in an error of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.error = error
            raise
