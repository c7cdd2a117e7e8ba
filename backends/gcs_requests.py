"""Requests to Google Cloud Storage on gcsfs's session, with its credentials: one each, in bounded time, in our errors.

gcsfs's own calls try six times over half a minute and log what they retry; here a retry is a wrapper's business.
"""

import asyncio
import functools
import json
import math
import os
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from fsspec.asyn import sync
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError, NonRetryableError
from google.auth import exceptions as auth
from yarl import URL

from backends.base import Stats
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from backends.patience import FirstAnswer
from backends.per_process import PerProcess

__all__ = ["Answer", "GCSRequests"]

CONNECT_TIMEOUT_S = 10
"""For finding the host's addresses and connecting to one of them."""

READ_TIMEOUT_S = 30
"""Seconds without a byte of the answer."""

_LOGIN_TIMEOUT_S = 12
_SLOWEST = 64 << 10
"""Bytes a second below which an upload is given up."""

_KINDS: dict[int, type[BackendError]] = {
    HTTPStatus.UNAUTHORIZED: PermissionDeniedError,
    HTTPStatus.FORBIDDEN: PermissionDeniedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: UnavailableError,
    HTTPStatus.PRECONDITION_FAILED: AlreadyExistsError,
    HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
    HTTPStatus.NOT_IMPLEMENTED: BackendError,
}
_SET_CREDENTIALS = (
    "set GOOGLE_APPLICATION_CREDENTIALS or the option token to a service account's file, "
    "or log in with `gcloud auth application-default login`; token=anon reads what is public"
)

Body = bytes | AsyncIterator[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object; an empty one where it is none."""
        with suppress(ValueError):
            parsed = json.loads(self.body)
            if isinstance(parsed, dict):
                return parsed
        return {}


class GCSRequests:
    """Requests about one bucket. Safe to use from several threads and after a fork."""

    def __init__(self, bucket: str, options: Mapping[str, object], endpoint: str, stats: Stats) -> None:
        """Prepare; nothing is sent and no credentials are looked for.

        Args:
            bucket: Its name.
            options: Of `gcsfs.core.GCSFileSystem`.
            endpoint: Of an emulator or a private service; "" for Google's.
            stats: Counts every request.
        """
        self._bucket = bucket
        self._options = dict(options)
        self._endpoint = endpoint
        self._stats = stats
        self._proxy: str | None = None
        self._first = FirstAnswer()
        self._filesystems = PerProcess(self._open)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which the requests run, in a thread of its own."""
        return cast("asyncio.AbstractEventLoop", self._filesystem().loop)

    def ask(self, kind: str, method: str, what: str, **rest: Any) -> Answer:
        """Send one request from any thread; see `send`."""
        filesystem = self._filesystem()
        return cast("Answer", sync(filesystem.loop, self.send, kind, method, what, **rest))

    async def send(
        self,
        kind: str,
        method: str,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        size: int = 0,
        accept: Container[int] = (),
    ) -> Answer:
        """Send one request, on the event loop.

        Args:
            kind: What it is counted as.
            method: Of HTTP.
            what: Path below the bucket, quoted, such as `/o/name`; or a whole URL that the service gave.
            params: Query.
            headers: Besides the credentials.
            body: What is sent.
            size: Bytes of the body where it is not bytes.
            accept: Answers of 300 and above that are returned and not raised.

        Raises:
            BackendError: Of the kind that the answer or the failure asks for.
        """
        filesystem = self._filesystem()
        size = len(body) if isinstance(body, bytes) else size
        try:
            session = await self._session(filesystem)
            login: dict[str, str] = filesystem._get_headers(None)
            self._stats.count(kind)
            timeout = aiohttp.ClientTimeout(
                total=None if method == "GET" else READ_TIMEOUT_S + CONNECT_TIMEOUT_S + size / _SLOWEST,
                connect=CONNECT_TIMEOUT_S,
                sock_connect=CONNECT_TIMEOUT_S,
                sock_read=READ_TIMEOUT_S,
            )
            sent = {"Content-Length": str(size)} if method in ("POST", "PUT") else {}
            request = functools.partial(
                session.request,
                method,
                self._url(filesystem, what, params or {}),
                data=body or None,
                headers={**login, "Accept-Encoding": "identity", **sent, **(headers or {})},
                timeout=timeout,
                proxy=self._proxy,
                allow_redirects=False,
            )
            answer = await _exchange(request, self._first, size, again=method == "GET")
        except (aiohttp.ClientError, auth.GoogleAuthError, OSError, TimeoutError) as error:
            raise self._failure(error) from error
        if answer.status >= 300 and answer.status not in accept:
            raise self.refusal(answer, what)
        return answer

    def token(self) -> str:
        """Return what to log in with, renewed where it runs out soon; "" where nobody logs in.

        Raises:
            BackendError: There are no credentials, or they cannot be renewed.
        """
        filesystem = self._filesystem()
        if not _is_valid(filesystem):
            try:
                sync(filesystem.loop, self._renew, filesystem)
            except (aiohttp.ClientError, auth.GoogleAuthError, OSError, TimeoutError) as error:
                raise self._failure(error) from error
        credentials = filesystem.credentials.credentials
        return "" if credentials is None else str(credentials.token)

    def close(self) -> None:
        """Close this process's connections; the next request opens new ones."""
        filesystem = self._filesystems.pop()
        if filesystem is not None and filesystem._session is not None:
            sync(filesystem.loop, filesystem._session.close)

    def _filesystem(self) -> GCSFileSystem:
        try:
            return self._filesystems.get()
        except (auth.GoogleAuthError, OSError, ValueError, LookupError) as error:
            raise self._failure(error) from error

    def _open(self) -> GCSFileSystem:
        filesystem = GCSFileSystem(
            **self._options,
            endpoint_url=self._endpoint or None,
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self._proxy = _proxy_for(
            filesystem._location
        )  # once: aiohttp would ask the environment for every request
        return filesystem

    async def _session(self, filesystem: GCSFileSystem) -> aiohttp.ClientSession:
        """Return the connected session; a token that runs out is renewed first."""
        await self._renew(filesystem)
        await filesystem._set_session()
        session: aiohttp.ClientSession = filesystem.session
        session._retry_connection = False  # aiohttp would send a lost PUT again in secret
        return session

    async def _renew(self, filesystem: GCSFileSystem) -> None:
        """Renew a token that runs out soon, beside the event loop."""
        if not _is_valid(filesystem):
            renewing = asyncio.to_thread(filesystem.credentials.maybe_refresh)
            try:
                await asyncio.wait_for(renewing, _LOGIN_TIMEOUT_S)
            except TimeoutError as error:
                raise auth.TransportError(f"silent for {_LOGIN_TIMEOUT_S} s") from error  # type: ignore[no-untyped-call]
            except (HttpError, NonRetryableError) as error:  # gcsfs hides what Google's library said
                raise error.__cause__ or error from None

    def _url(self, filesystem: GCSFileSystem, what: str, params: Mapping[str, str]) -> URL:
        if what.startswith("http"):
            return URL(what, encoded=True)
        upload = "/upload" if "uploadType" in params else ""
        query = urlencode({**params, **filesystem._get_params({})}, quote_via=quote)
        path = f"{filesystem._location}{upload}/storage/v1/b/{quote(self._bucket, safe='')}{what}"
        return URL(f"{path}?{query}" if query else path, encoded=True)

    def _place(self) -> str:
        return f"gs://{self._bucket}" + (f" at {self._endpoint}" if self._endpoint else "")

    def refusal(self, answer: Answer, what: str) -> BackendError:
        """Say in our terms what the service answered to a request about this path."""
        found = answer.json().get("error", {})
        text = found.get("message", "") if isinstance(found, dict) else str(found)
        said = f"{self._place()}: {answer.status} {text or HTTPStatus(answer.status).phrase}"
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return PermissionDeniedError(f"{said}; {self._who()} asked; {_SET_CREDENTIALS}")
        if answer.status == HTTPStatus.FORBIDDEN:
            return PermissionDeniedError(f"{said}; {self._who()} may not do this here")
        if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return NotFoundError(f"{self._place()}{what}: not there")
        kind = _KINDS.get(answer.status, UnavailableError if answer.status >= 500 else BackendError)
        if kind is UnavailableError:
            wait = answer.headers.get("Retry-After", "")
            return UnavailableError(said, retry_after_s=float(wait) if wait.isdecimal() else None)
        return kind(said)

    def _who(self) -> str:
        credentials = self._filesystem().credentials.credentials
        if credentials is None:
            return "nobody"
        return getattr(credentials, "service_account_email", "") or f"a user's {type(credentials).__name__}"

    def _failure(self, error: BaseException) -> BackendError:
        place = self._place()
        if isinstance(error, auth.DefaultCredentialsError):
            return PermissionDeniedError(f"{place}: no credentials were found; {_SET_CREDENTIALS}")
        if isinstance(error, auth.MalformedError):
            return ConfigError(f"{place}: the credentials cannot be read: {error.args[0]}")
        if isinstance(error, auth.TransportError):
            return UnavailableError(
                f"{place}: the service that gives out tokens does not answer: {error}", reached=False
            )
        if isinstance(error, auth.GoogleAuthError):
            return PermissionDeniedError(
                f"{place}: the credentials were refused: {error.args[0]}; {_SET_CREDENTIALS}"
            )
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            return BackendError(f"{place}: {error}")
        if isinstance(error, aiohttp.ClientConnectorError):
            return UnavailableError(
                f"{place} does not answer: {error.os_error.strerror or error}", reached=False
            )
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            reason = f"no connection within {CONNECT_TIMEOUT_S} s"
            return UnavailableError(f"{place} does not answer: {reason}", reached=False)
        if isinstance(error, TimeoutError):
            limit_s = self._first.limit_s(READ_TIMEOUT_S)
            said = f"{place} does not answer: silent for {limit_s:g} s"
            return UnavailableError(said, silent=not self._first.heard)
        if isinstance(error, ValueError | LookupError) and not isinstance(error, aiohttp.ClientError):
            return ConfigError(f"{place}: the option token cannot be understood: {error!r}")
        return UnavailableError(f"{place} does not answer: {error or type(error).__name__}")


def _is_valid(filesystem: GCSFileSystem) -> bool:
    """Say whether the login is good for a while, or none is needed."""
    login = filesystem.credentials
    return login.credentials is None or bool(login._credentials_valid(300))


async def _exchange(
    request: Callable[[], "aiohttp.client._RequestContextManager"],
    first: FirstAnswer,
    size: int,
    *,
    again: bool,
) -> Answer:
    """Send a request and read the answer; a read is sent again where the service had let an idle connection go."""
    try:
        return await _exchange_once(request, first, size)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        if not again:
            raise
    return await _exchange_once(request, first, size)


async def _exchange_once(
    request: Callable[[], "aiohttp.client._RequestContextManager"], first: FirstAnswer, size: int
) -> Answer:
    async with asyncio.timeout(first.limit_s(math.inf, size)):
        response = await request()
    first.heard = True
    async with response:
        return Answer(response.status, response.headers, await response.read())


def _proxy_for(location: str) -> str | None:
    """Return the proxy that the environment names for a server."""
    parts = urlsplit(location)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def emulator() -> str:
    """Return the endpoint that the environment names, as Google's own libraries read it; "" where it names none."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if host in ("", "default"):
        return ""
    return host.rstrip("/") if host.startswith(("http://", "https://")) else f"http://{host.rstrip('/')}"
