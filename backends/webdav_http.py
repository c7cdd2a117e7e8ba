"""The HTTP below WebDAV: webdavclient3's client made fit for many threads, large bodies and either login.

webdavclient3 sends every request through one `requests.Session`. What that session lacks is put into it here: a
pool wide enough for parallel reads, an authentication that takes what the server offers, and a response hook that
reads refusals whole (an unread answer costs its connection) and carries them past webdavclient3, which would drop
their headers.
"""

import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from webdav3.client import Client

from backends.base import Data, Stats
from backends.patience import FirstAnswer

__all__ = [
    "CONNECT_TIMEOUT_S",
    "READ_TIMEOUT_S",
    "Auth",
    "Body",
    "Login",
    "RefusedError",
    "body_of",
    "new_client",
]

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""Seconds without a byte, not for a whole answer."""

_POOL_SIZE = 32
_BLOCK_SIZE = 64 << 10
"""Sent at once. A socket's time limit is for a whole `sendall`, so a body must not be one."""

Auth = Literal["auto", "basic", "digest"]
_KINDS = {"GET": "get", "PUT": "put", "DELETE": "delete"}


class Login(NamedTuple):
    """Who asks and how they prove it. `auto` takes what the server offers."""

    username: str = ""
    password: str = ""
    auth: Auth = "auto"

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


class RefusedError(Exception):
    """An answer of 300 or above, read whole."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Body:
    """A request's body, read in blocks and again from its start where the server asks for a login."""

    def __init__(self, data: Data) -> None:
        self._view = None if _is_file(data) else memoryview(cast("bytes", data)).cast("B")
        self._file = cast("BinaryIO", data)
        self._size = self._file.seek(0, 2) if self._view is None else len(self._view)
        self._at = 0
        self.broken: BaseException | None = None
        """What reading the file raised, if it did."""
        self.seek(0)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        while block := self.read(_BLOCK_SIZE):
            yield block

    def read(self, size: int = _BLOCK_SIZE) -> bytes | memoryview:
        """Return the next bytes, at most `size`."""
        if self._view is None:
            try:
                return self._file.read(size)
            except BaseException as error:
                self.broken = error
                raise
        block = self._view[self._at : self._at + size]
        self._at += len(block)
        return block

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._file.tell() if self._view is None else self._at

    def seek(self, offset: int) -> int:
        """Go to where the next read shall begin."""
        if self._view is None:
            return self._file.seek(offset)
        self._at = offset
        return offset


def body_of(data: Data) -> "Body | bytes":
    """Return what can be sent again after a request for a login; an empty one is plain bytes."""
    return (
        Body(data) if _is_file(data) or len(cast("bytes", data)) > _BLOCK_SIZE else bytes(cast("bytes", data))
    )


def new_client(origin: str, login: Login, *, verify: bool | str, stats: Stats, first: FirstAnswer) -> Client:
    """Make a client of webdavclient3; nothing is sent.

    Args:
        origin: Scheme, host and port.
        login: Who asks.
        verify: Whether to check the certificate, or the file with the CA certificates to check it by.
        stats: Counts every request that is sent, those that are answered by 401 too.
        first: Whether the server has ever answered.
    """
    client = Client(
        {
            "webdav_hostname": origin,
            "webdav_disable_check": True,  # else every call begins with up to three HEADs
        }
    )
    # What the environment says about proxies and certificates, read once: requests reads it for every request.
    client.session.proxies = requests.utils.get_environ_proxies(origin)
    client.session.trust_env = False
    client.verify = verify
    if verify is True:
        client.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    client.http_header["list"] = ["Accept: */*", "Content-Type: application/xml"]
    adapter = _Adapter(stats, first)
    client.session.mount("http://", adapter)
    client.session.mount("https://", adapter)
    client.session.hooks["response"].append(_refuse)
    if login.username:
        client.session.auth = _Auth(login)
    return client


def _refuse(response: requests.Response, **_: object) -> None:
    if response.status_code >= 300:
        response.content  # noqa: B018 - reads it
        raise RefusedError(response)


class _Adapter(HTTPAdapter):
    def __init__(self, stats: Stats, first: FirstAnswer) -> None:
        self._stats = stats
        self._first = first
        super().__init__(pool_connections=2, pool_maxsize=_POOL_SIZE, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, blocksize=_BLOCK_SIZE, **options)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        method = request.method or ""
        if method == "PROPFIND":
            self._stats.count("head" if request.headers.get("Depth") == "0" else "list")
        else:
            sent = int(request.headers.get("Content-Length") or 0) if method == "PUT" else 0
            self._stats.count(_KINDS.get(method, method.lower()), sent=sent)
        options["timeout"] = (CONNECT_TIMEOUT_S, self._first.limit_s(READ_TIMEOUT_S))
        response = super().send(request, *args, **options)
        self._first.heard = True
        return response


class _Auth(HTTPDigestAuth):
    """Basic or digest, whichever the server offers; a challenge that one thread met serves all of them."""

    def __init__(self, login: Login) -> None:
        super().__init__(login.username, login.password)
        self.mode: Auth = login.auth
        self._basic = HTTPBasicAuth(login.username.encode(), login.password.encode())
        self._challenge: dict[str, str] = {}
        self._uses = 0
        self._lock = threading.Lock()

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.mode == "basic":
            return self._basic(r)
        self.init_per_thread_state()
        if challenge := self._challenge:
            self._thread_local.chal = challenge
            self._thread_local.last_nonce = challenge["nonce"]
        return super().__call__(r)

    def build_digest_header(self, method: str, url: str) -> str | None:
        with self._lock:  # a server may refuse a nonce count that it has seen
            challenge = self._thread_local.chal
            if challenge["nonce"] != self._challenge.get("nonce"):
                self._challenge, self._uses = challenge, 0
            self._thread_local.last_nonce = challenge["nonce"]
            self._thread_local.nonce_count = self._uses
            self._uses += 1
        return super().build_digest_header(method, url)

    def handle_401(self, r: requests.Response, **kwargs: Any) -> requests.Response:
        if r.status_code == requests.codes.unauthorized and self.mode == "auto":
            offered = r.headers.get("www-authenticate", "").lower()
            if "digest" in offered:
                self.mode = "digest"
            elif "basic" in offered:
                self.mode = "basic"
                return self._again_with_basic(r, **kwargs)
        return super().handle_401(r, **kwargs)

    def _again_with_basic(self, r: requests.Response, **kwargs: Any) -> requests.Response:
        r.content  # noqa: B018 - reads it, which frees the connection
        body: object = r.request.body
        if isinstance(body, Body):
            body.seek(0)
        again = self._basic(r.request.copy())
        response: requests.Response = r.connection.send(again, **kwargs)
        response.history.append(r)
        response.request = again
        return response


def _is_file(data: Data) -> bool:
    return not isinstance(data, bytes | bytearray | memoryview)
