"""Storages through obstore, where it is installed: the faster engine behind the schemes of S3, Google and Azure.

obstore does what is asked often and answered soon: reads, looks, small writes, on S3 also listings. The scheme's own
library does the rest: what obstore does not do as `Backend` promises it (large files without their whole size in
memory, deletions with an error a key, listings with timestamps), and everything while obstore cannot be used: in a
child forked after obstore was loaded, whose runtime is not there any more and would wait for ever; where the service
sends us to another place, or shows a certificate that obstore refuses; and while it asks for patience, since obstore
does not tell for how long.

obstore is called in threads: its calls do not notice an interrupt. Its calls for event loops would, but now and then
they end a program that has done its work with a signal, when a thread of obstore's asks for the interpreter at exit.
"""

import io
import os
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, TypeVar

from backends import rfc3339
from backends.base import Backend, Capabilities, Data, ObjectInfo, Page, Piece, check_put, check_range, cut
from backends.callers import Callers
from backends.errors import (
    BackendError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.keys import check_key, is_key
from backends.obstore_errors import Failure, failure
from backends.patience import FirstAnswer
from backends.per_process import PerProcess

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

__all__ = ["AskLibraryError", "ObstoreBackend", "client_options"]

T = TypeVar("T")

READ_TIMEOUT_S = 30
"""Seconds without a byte of the answer."""

CONNECT_TIMEOUT_S = 5
_CONTENT_TYPE = "application/octet-stream"
_SMALL = 256 << 10
"""Bytes of the largest object that obstore writes, which it has to do within `READ_TIMEOUT_S`."""

_callers = Callers(32, "obstore")
_ASIDE_S = 30
"""How long the library is asked in obstore's place after the service asked for patience."""

_THROTTLED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_ELSEWHERE = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)


class _Process:
    """What is known about this process.

    Attributes:
        obstore_is_dead: It was forked after obstore was loaded.
    """

    obstore_is_dead = False


def _after_fork() -> None:
    _Process.obstore_is_dead |= "obstore" in sys.modules


os.register_at_fork(after_in_child=_after_fork)


class AskLibraryError(Exception):
    """obstore cannot do this call, and the library can."""


class _PastEndError(Exception):
    """The range begins at the object's end or after it."""


def client_options(endpoint: str) -> "ClientConfig":
    """Return how obstore is to connect to this endpoint; "" is the cloud's own."""
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(days=1),  # of a whole answer, however large; it must keep coming
        "user_agent": "ltx",
    }
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    return options


class ObstoreBackend(Backend):
    """A root on a storage that obstore knows. Each subclass is one kind of service."""

    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True)

    timestamp_name: ClassVar[str]
    """User metadata, where Litestream looks for it too."""

    has_suffixes: ClassVar[bool] = True
    """The service can count a range from the object's end."""

    def __init__(self, scheme: str, url: str, root: str, service: str) -> None:
        """Prepare; nothing is sent.

        Args:
            scheme: Of the URL.
            url: Without a secret.
            root: Begins every name: empty, or with a slash at its end.
            service: How errors name the service.

        Raises:
            UnsupportedError: obstore would take something off the root.
        """
        if root and not (root.endswith("/") and is_key(root[:-1])):
            raise UnsupportedError(f"obstore would not leave the path as it is: {url}")
        super().__init__()
        self.scheme, self.url, self.root, self._service = scheme, url, root, service
        self._stores = PerProcess(self._open_store)
        self._libraries = PerProcess(self._open_library)
        self._first = FirstAnswer()
        self._place_seen = False
        self._is_elsewhere = False
        self._aside_until = 0.0

    @abstractmethod
    def _open_store(self) -> "ObjectStore":
        """Make obstore's store; nothing is sent."""

    @abstractmethod
    def _open_library(self) -> Backend:
        """Open the same place with the scheme's own library, counting into `self.stats`."""

    @abstractmethod
    def _of_answer(self, kind: str, key: str | None, failed: Failure) -> BackendError:
        """Say in our terms what the service answered to a request of this kind.

        Raises:
            AskLibraryError: It takes the library to say.
        """

    def _log_in(self) -> None:
        """Have credentials ready, renewed where they run out.

        Raises:
            BackendError: There are none.
        """

    @property
    def library(self) -> Backend:
        """The same place through the scheme's own library; nothing is sent."""
        return self._libraries.get()

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object; a range that depends on its size costs a `head`."""
        check_key(key)
        check_range(end)
        return self._run(lambda: self._read(key, start, end), lambda library: library.get(key, start, end))

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges, 32 of them at once; the answers are in the order asked."""
        for key, _, end in pieces:
            check_key(key)
            check_range(end)
        calls = [partial(self._read, *piece) for piece in pieces]
        return self._run_all(calls, lambda library: library.get_ranges(pieces)) if pieces else ()

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole, a large one with the library; on failure no part of it is left."""
        check_key(key)
        check_put(timestamp_ms)
        if _size(data) > _SMALL:
            self.library.put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)
            return
        whole = b"".join(cut(data, _SMALL))
        self._run(
            lambda: self._write(key, whole, if_absent, timestamp_ms),
            lambda library: library.put(key, whole, if_absent=if_absent, timestamp_ms=timestamp_ms),
        )

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        check_key(key)
        return self._run(lambda: self._look(key), lambda library: library.head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order, with the library."""
        return self.library.list(prefix, start_after=start_after)

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List what comes in one request."""
        return self.library.list_page(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, with the library; a missing key is fine."""
        self.library.delete(keys)

    def close(self) -> None:
        """Release connections and threads."""
        super().close()
        self._stores.pop()
        if (library := self._libraries.pop()) is not None:
            library.close()

    def _run(self, call: Callable[[], T], instead: Callable[[Backend], T]) -> T:
        """Call obstore, or in its place the library."""
        return self._run_all([call], lambda library: (instead(library),))[0]

    def _run_all(
        self, calls: Sequence[Callable[[], T]], instead: Callable[[Backend], Sequence[T]]
    ) -> Sequence[T]:
        """Call obstore so many times at once, or in its place the library; raise the first error in their order."""
        aside = time.monotonic() < self._aside_until
        if not (aside or self._is_elsewhere or _Process.obstore_is_dead):
            try:
                self._log_in()
                under_way = [_callers.submit(call) for call in calls]
                try:
                    return tuple(map(self._wait, under_way))
                finally:
                    for future in under_way:
                        future.cancel()
            except AskLibraryError:
                pass
        return instead(self.library)

    def _wait(self, future: "Future[T]") -> T:
        """Wait for a call: for the first answer of all not long, then as long as obstore does."""
        if not self._first.heard:
            limit_s = self._first.limit_s(READ_TIMEOUT_S)
            with suppress(TimeoutError):
                return future.result(limit_s)
            if not self._first.heard:
                said = f"{self._service} did not answer within {limit_s:g} s: {self.url}"
                raise UnavailableError(said, silent=True)
        return future.result()

    def _read(self, key: str, start: int, end: int | None) -> bytes:
        import obstore

        if start < 0 and (end is not None or not self.has_suffixes):
            start = max(0, self._look(key).size + start)
        if end is not None and end <= start:
            self._look(key)
            return b""
        options: GetOptions = {}
        if start < 0:
            options["range"] = {"suffix": -start}
        elif end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        name = self.root + key
        try:
            answer = self._send("get", key, lambda store: obstore.get(store, name, options=options))
            with self._translated("get", key):
                data = bytes(answer.bytes())
        except _PastEndError:
            return b""
        self.stats.count(received=len(data))
        return data

    def _look(self, key: str) -> ObjectInfo:
        import obstore

        name = self.root + key
        try:
            found = self._send("head", key, lambda store: obstore.get(store, name, options={"head": True}))
        except (NotFoundError, PermissionDeniedError) as error:
            raise self._explained(key, error) from None
        meta = found.meta
        metadata = {given.lower(): text for given, text in found.attributes.items()}
        timestamp_ms = rfc3339.parse_ms(metadata.get(self.timestamp_name, ""))
        return ObjectInfo(key, meta["size"], meta["last_modified"], timestamp_ms, self._version(meta))

    def _version(self, meta: "ObjectMeta") -> str:
        """Return what the library calls this object's version."""
        return meta["e_tag"] or ""

    def _explained(self, key: str, error: BackendError) -> BackendError:
        """Ask again in a way that has an answer in words, which `HEAD` has not; return what to raise."""
        if isinstance(error, NotFoundError) and self._place_seen:
            return error
        try:
            self._read(key, 0, 1)
        except NotFoundError:
            self._place_seen = True
        except BackendError as told:
            return told
        return error

    def _write(self, key: str, data: bytes, if_absent: bool, timestamp_ms: int | None) -> None:
        import obstore

        about: Attributes = {"Content-Type": _CONTENT_TYPE}
        if timestamp_ms is not None:
            about[self.timestamp_name] = rfc3339.format_ms(timestamp_ms)
        self._send(
            "put",
            key,
            lambda store: obstore.put(
                store,
                self.root + key,
                io.BytesIO(
                    data
                ),  # copied here; else a thread of obstore's would give it back, at exit too late
                attributes=about,
                mode="create" if if_absent else "overwrite",
                use_multipart=False,
            ),
            sent=len(data),
        )

    def _send(self, kind: str, key: str | None, call: "Callable[[ObjectStore], T]", *, sent: int = 0) -> T:
        """Send one request, count it, and translate its errors.

        Args:
            kind: What it is counted as.
            key: The object; None for a listing.
            call: Asks obstore.
            sent: Bytes of the object that go with it.
        """
        try:
            store = self._stores.get()
        except Exception as error:
            self._is_elsewhere = True
            raise AskLibraryError from error
        self.stats.count(kind, sent=sent)
        with self._translated(kind, key):
            answer = call(store)
        self._first.heard = self._place_seen = True
        return answer

    @contextmanager
    def _translated(self, kind: str, key: str | None) -> Iterator[None]:
        """Turn obstore's errors into ours, and see whether the library should be asked in its place."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - obstore's errors and Python's have no other root
            found = failure(error)
        else:
            return
        silent = not self._first.heard
        self._first.heard |= bool(found.status)
        if found.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._place_seen = True
            raise _PastEndError
        if found.status in _ELSEWHERE or found.code == "AuthorizationHeaderMalformed":
            self._is_elsewhere = True
            raise AskLibraryError
        if found.status in _THROTTLED:
            self._aside_until = time.monotonic() + _ASIDE_S
        told = self._of_answer(kind, key, found) if found.status else self._of_none(kind, key, found, silent)
        raise told from None  # obstore's text may hold a secret

    def _of_none(self, kind: str, key: str | None, failed: Failure, silent: bool) -> BackendError:
        """Say in our terms why there was no answer.

        Raises:
            AskLibraryError: obstore does not understand the answer.
        """
        if failed.kind == "connect":
            return UnavailableError(
                f"cannot connect to {self._service} for {self.url}", key=key, reached=False
            )
        if failed.kind == "certificate":  # one that signed itself is refused also where it is named as a CA
            self._is_elsewhere = True
            raise AskLibraryError
        if failed.kind == "timeout":
            said = f"{self._service} did not answer a {kind} in time: {self.url}"
            return UnavailableError(said, key=key, silent=silent)
        if failed.kind == "broken":
            return UnavailableError(
                f"the connection to {self._service} broke during a {kind}: {self.url}", key=key
            )
        if failed.kind == "whole":
            return UnsupportedError(
                f"{self._service} answers a range with the whole object: {self.url}", key=key
            )
        if kind != "put":
            raise AskLibraryError
        self._is_elsewhere = True  # it may have landed, so this put must fail; the next is the library's
        return UnavailableError(f"a {kind} failed: {failed.message}: {self.url}", key=key)


def _size(data: Data) -> int:
    if isinstance(data, bytes | bytearray | memoryview):
        return memoryview(data).nbytes
    return data.seek(0, os.SEEK_END)
