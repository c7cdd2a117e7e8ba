"""WebDAV requests: one method a verb, ranges read as ranges, and failures as our errors."""

import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

import requests
import urllib3
from lxml import etree
from webdav3.client import Client
from webdav3.exceptions import WebDavException

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
from backends.webdav_http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, Body, Login, RefusedError, new_client

__all__ = ["DAVEntry", "DAVSession"]

_PROPFIND = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/>'
    b"<getlastmodified/><getetag/></prop></propfind>"
)
_KIND_BY_STATUS: dict[int, type[BackendError]] = {
    401: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    407: PermissionDeniedError,
    408: UnavailableError,
    410: NotFoundError,
    412: AlreadyExistsError,
    423: UnavailableError,
    425: UnavailableError,
    429: UnavailableError,
    501: BackendError,
    505: BackendError,
    507: BackendError,
}
_NO_COLLECTION = (400, 403, 405, 409)
"""What servers say to a file's name with a slash behind it."""

_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Sendable(Protocol):
    """What a request can have as its body: bytes, or something of known length to read blocks from."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[object]: ...


@dataclass(frozen=True, slots=True)
class DAVEntry:
    """What a PROPFIND says about one resource.

    Attributes:
        name: Last component of its path; "" for the resource that was asked about.
        is_folder: Whether it is a collection.
        size: Bytes; 0 for a collection.
        modified: By the server's clock, in whole seconds; None where it does not say.
        etag: Without quotes; "" where the server has none.
    """

    name: str
    is_folder: bool
    size: int
    modified: datetime | None
    etag: str


class DAVSession:
    """Requests to one WebDAV server. Safe to use from several threads and after a fork.

    Paths are from the server's root, not quoted.
    """

    def __init__(
        self,
        origin: str,
        home: str = "/",
        login: Login | None = None,
        *,
        verify: bool | str = True,
        stats: Stats | None = None,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            origin: Such as `https://cloud.example:8443`.
            home: A path below which the server speaks WebDAV.
            login: Who asks; None for nobody.
            verify: Whether to check the server's certificate, or the file of the CA certificates to check it by.
            stats: Counts every request.
        """
        self.origin = origin
        self._home = home
        self._login = login or Login()
        self._verify = verify
        self._stats = stats or Stats()
        self._first = FirstAnswer()
        self._made: tuple[int, Client] | None = None

    def request(
        self,
        action: str,
        path: str,
        *,
        data: Sendable | None = None,
        headers: tuple[str, ...] = (),
        accept: Container[int] = (),
    ) -> int:
        """Send one request, read its answer and return its status.

        Args:
            action: webdavclient3's name of the method: upload, move, mkdir, clean, ...
            path: Where to.
            data: The body.
            headers: As `Name: value`.
            accept: Answers of 300 and above that are returned and not raised.

        Raises:
            BackendError: Of the kind that the status or the failure asks for.
        """
        return self.send(action, path, data=data, headers=headers, accept=accept)[0].status_code

    def send(
        self,
        action: str,
        path: str,
        *,
        data: Sendable | None = None,
        headers: tuple[str, ...] = (),
        accept: Container[int] = (),
    ) -> tuple[requests.Response, bytes]:
        """Send one request as `request` does, and return the answer with its body."""
        client = self._client()
        try:
            response: requests.Response = client.execute_request(action, quote(path), data, list(headers))
            body = cast("bytes", response.raw.read(decode_content=True))
        except RefusedError as refused:
            if refused.response.status_code in accept:
                return refused.response, refused.response.content
            raise self._error(client.requests[action], path, refused.response) from None
        except _TRANSPORT_ERRORS as error:
            if isinstance(data, Body) and data.broken is error:
                raise
            raise self._unavailable(error) from error
        except WebDavException as error:
            raise BackendError(f"{self.origin}{path}: {error}") from error
        return response, body

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of a file; a negative start counts from the end."""
        if start < 0 and end is not None:
            start = max(0, self.entry(path).size + start)
        if end is not None and end <= start:
            if self.entry(path).is_folder:  # a missing file is an error also where nothing of it is wanted
                raise NotFoundError(f"{self.origin}{path} is a collection")
            return b""
        headers: tuple[str, ...] = ("Accept-Encoding: identity",)
        if start < 0:
            headers += (f"Range: bytes={start}",)
        elif start or end is not None:
            headers += (f"Range: bytes={start}-{'' if end is None else end - 1}",)
        response, body = self.send("download", path, headers=headers, accept=(416,))
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        self._stats.count(received=len(body))
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            return body[
                start:end
            ]  # whole, since none or no part was asked for, or the server knows no ranges
        _check_range(response, start, len(body), f"{self.origin}{path}")
        return body

    def entry(self, path: str) -> DAVEntry:
        """Look one resource up."""
        return self._propfind(path, 0)[0]

    def children(self, path: str) -> list[DAVEntry]:
        """List what a collection holds directly, in no order; a file holds nothing."""
        path = path.rstrip("/")
        answer = self._propfind(path + "/", 1, accept=_NO_COLLECTION)
        if not answer and self.entry(path).is_folder:
            answer = self._propfind(path + "/", 1)  # raises what the server says
        return [entry for entry in answer if entry.name]

    def url(self, path: str) -> str:
        """Return the absolute URL of a path, as a `Destination` header wants it."""
        return self.origin + quote(path)

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        made, self._made = self._made, None
        if made is not None:
            made[1].session.close()

    def _client(self) -> Client:
        """Return this process's client. Two threads may both make one: the later one stays, both work."""
        made = self._made
        if made is None or made[0] != os.getpid():
            client = new_client(
                self.origin, self._login, verify=self._verify, stats=self._stats, first=self._first
            )
            if self._login.username and self._login.auth != "basic":
                self._introduce(client)
            made = self._made = (os.getpid(), client)
        return made[1]

    def _introduce(self, client: Client) -> None:
        """Let the server ask for a login before a body is sent for nothing."""
        try:
            _ = client.execute_request("list", quote(self._home), _PROPFIND, ["Depth: 0"]).content
        except RefusedError as refused:
            if refused.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise self._error("PROPFIND", self._home, refused.response) from None
        except _TRANSPORT_ERRORS as error:
            raise self._unavailable(error) from error

    def _propfind(self, path: str, depth: int, *, accept: Container[int] = ()) -> list[DAVEntry]:
        """Return the resource that the path names and, with depth 1, what it holds; nothing where refused."""
        where = f"{self.origin}{path}"
        response, body = self.send("list", path, data=_PROPFIND, headers=(f"Depth: {depth}",), accept=accept)
        if response.status_code in accept:
            return []
        if response.status_code != HTTPStatus.MULTI_STATUS:
            raise ConfigError(
                f"{where} answers PROPFIND with {response.status_code}, not 207: no WebDAV is served there"
            )
        entries = _parse_multistatus(body, where)
        if not entries:
            raise NotFoundError(f"{where} is not there")
        return entries

    def _error(self, method: str, path: str, response: requests.Response) -> BackendError:
        status = response.status_code
        said = f"{method} {self.origin}{path}: {status} {response.reason or ''}".rstrip() + _detail(response)
        if "location" in response.headers and 300 <= status < 400:
            target = urlsplit(urljoin(self.url(path), response.headers["location"]))
            if target.path == quote(path) + "/":
                return NotFoundError(f"{self.origin}{path} is a collection")
            return ConfigError(
                f"{said}: the server sends to {target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            return PermissionDeniedError(f"{said}: {self._tried(response)}")
        kind = _KIND_BY_STATUS.get(status, UnavailableError if status >= 500 else BackendError)
        if kind is UnavailableError:
            return UnavailableError(said, retry_after_s=_retry_after_s(response))
        return kind(said)

    def _tried(self, response: requests.Response) -> str:
        offered = re.match(r"\s*(\w+)", response.headers.get("www-authenticate", ""))
        wanted = (
            f"the server wants {offered[1].lower()} authentication"
            if offered
            else "the server names no way to log in"
        )
        if not self._login.username:
            return f"{wanted}, and no user was given; set username and password"
        return f"{wanted}, and user {self._login.username!r} with a password was tried; check both"

    def _unavailable(self, error: BaseException) -> BackendError:
        if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
            hint = "where its certificate is of your own making, set verify to the file of the CA"
            return BackendError(f"{self.origin}: {_innermost(error)}; {hint}")
        if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
            return ConfigError(f"{self.origin} is no URL that can be asked: {error}")
        if isinstance(error, requests.ConnectTimeout):
            reason = f"no connection within {CONNECT_TIMEOUT_S} s"
            return UnavailableError(f"{self.origin} does not answer: {reason}", reached=False)
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            limit_s = self._first.limit_s(READ_TIMEOUT_S)
            said = f"{self.origin} does not answer: silent for {limit_s:g} s"
            return UnavailableError(said, silent=not self._first.heard)
        inside = _innermost(error)
        reached = not isinstance(inside, urllib3.exceptions.NewConnectionError)
        said = re.sub(r"^HTTPS?Connection\([^)]*\): ", "", str(inside)) or type(inside).__name__
        return UnavailableError(f"{self.origin} does not answer: {said}", reached=reached)


def _innermost(error: BaseException) -> BaseException:
    """Return what is below the wrappings of requests and urllib3."""
    while True:
        candidates = (getattr(error, "reason", None), *error.args)
        inside = next((item for item in candidates if isinstance(item, BaseException)), None)
        if inside is None:
            return error
        error = inside


def _detail(response: requests.Response) -> str:
    """Return what a SabreDAV server (Nextcloud, ownCloud) says beyond the status."""
    found = re.search(rb"<s:message>([^<]{1,300})", response.content)
    return f" ({found[1].decode(errors='replace').strip()})" if found else ""


def _retry_after_s(response: requests.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    when = _date(value)
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when else None


def _check_range(response: requests.Response, start: int, size: int, where: str) -> None:
    """Refuse an answer that holds other bytes than those asked for."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", ""))
    if not found or (start >= 0 and int(found[1]) != start) or int(found[2]) - int(found[1]) + 1 != size:
        raise UnavailableError(
            f"{where}: asked for bytes from {start}, got {size} as {response.headers.get('content-range')!r}"
        )


def _parse_multistatus(body: bytes, where: str) -> list[DAVEntry]:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise BackendError(f"{where} answers PROPFIND with what is no XML: {error}") from error
    found = [(_path(answer), answer) for answer in root.iterfind("{DAV:}response")]
    # The shortest path is the collection itself: what stands before it may differ from ours behind a proxy.
    base = min((path for path, _ in found), key=len, default="")
    return [_entry(path[len(base) :].strip("/"), answer) for path, answer in found]


def _path(answer: etree._Element) -> str:
    return unquote(urlsplit((answer.findtext("{DAV:}href") or "").strip()).path).rstrip("/")


def _entry(name: str, answer: etree._Element) -> DAVEntry:
    values: dict[str, str] = {}
    is_folder = False
    for part in answer.iterfind("{DAV:}propstat"):
        if " 200" not in (part.findtext("{DAV:}status") or " 200"):
            continue
        for value in part.iterfind("{DAV:}prop/*"):
            values[value.tag] = value.text or ""
            is_folder = is_folder or value.find("{DAV:}collection") is not None
    size = values.get("{DAV:}getcontentlength", "")
    return DAVEntry(
        name,
        is_folder,
        int(size) if size.isdecimal() and not is_folder else 0,
        _date(values.get("{DAV:}getlastmodified", "")),
        values.get("{DAV:}getetag", "").removeprefix("W/").strip('"'),
    )


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None
