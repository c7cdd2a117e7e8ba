"""WebDAV: the contract on three servers and both logins, and what only WebDAV does."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

import backends.webdav_http
from backends import Backend, open_backend
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.testing import UNUSUAL_KEYS, BackendContract, content, objects
from backends.webdav import WebDAVBackend
from tests.servers.daemon import PASSWORD, USER
from tests.servers.webdav import DAVServer, apache, lighttpd, like_nextcloud, nginx, rclone


@pytest.fixture(scope="module")
def apache_basic() -> Iterator[DAVServer]:
    with apache("basic") as server:
        yield server


@pytest.fixture(scope="module")
def apache_digest() -> Iterator[DAVServer]:
    with apache("digest") as server:
        yield server


@pytest.fixture(scope="module")
def nginx_server() -> Iterator[DAVServer]:
    with nginx() as server:
        yield server


@pytest.fixture(scope="module")
def lighttpd_server() -> Iterator[DAVServer]:
    with lighttpd() as server:
        yield server


@pytest.fixture
def url(apache_basic: DAVServer) -> str:
    return f"{apache_basic.url}/{secrets.token_hex(4)}"


class _WebDAVContract(BackendContract):
    schemes = ("webdav", "webdavs")
    secrets = (PASSWORD,)
    base = "remote.php/dav files/ü%"

    @pytest.fixture
    def backend(self, served: DAVServer) -> Iterator[Backend]:
        self.served_by = served
        self.root = f"{self.base}/{secrets.token_hex(4)}"
        with self.reopen(None) as backend:
            yield backend

    def reopen(self, backend: Backend | None) -> Backend:
        return open_backend(f"{self.served_by.url}/{quote(self.root)}")

    def raw_get(self, backend: Backend, key: str) -> bytes:
        return (self.served_by.root / self.root / key).read_bytes()


class TestApacheBasic(_WebDAVContract):
    @pytest.fixture
    def served(self, apache_basic: DAVServer) -> DAVServer:
        return apache_basic


class TestApacheDigest(_WebDAVContract):
    @pytest.fixture
    def served(self, apache_digest: DAVServer) -> DAVServer:
        return apache_digest


class TestLighttpd(_WebDAVContract):
    @pytest.fixture
    def served(self, lighttpd_server: DAVServer) -> DAVServer:
        return lighttpd_server


class TestNginx(_WebDAVContract):
    @pytest.fixture
    def served(self, nginx_server: DAVServer, monkeypatch: pytest.MonkeyPatch) -> DAVServer:
        """Nginx never lists a name that begins with a dot; the contract has one such key, tested below."""
        kept = tuple(key for key in UNUSUAL_KEYS if not key.startswith("."))
        monkeypatch.setattr(objects, "UNUSUAL_KEYS", kept)
        return nginx_server

    def test_a_dot_hides(self, backend: Backend) -> None:
        backend.put("..a", b"x")
        assert backend.get("..a") == b"x"
        assert list(backend.list()) == []


# Login.


@pytest.mark.parametrize("auth", ["auto", "basic", "digest"])
@pytest.mark.parametrize("offered", ["basic", "digest"])
def test_login(
    auth: str,
    offered: str,
    apache_basic: DAVServer,
    apache_digest: DAVServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The login that the server offers is found out, unless one was named; it costs requests once a process."""
    monkeypatch.setenv("LITESTREAM_WEBDAV_USERNAME", USER)
    monkeypatch.setenv("LITESTREAM_WEBDAV_PASSWORD", PASSWORD)
    server = apache_basic if offered == "basic" else apache_digest
    with open_backend(f"webdav://127.0.0.1:{server.port}/{secrets.token_hex(4)}?auth={auth}") as backend:
        if auth not in ("auto", offered):
            with pytest.raises(
                PermissionDeniedError, match=f"wants {offered} .*user 'user' with a password was tried"
            ):
                backend.put("k", b"x")
            return
        data = content(300_000)
        backend.put("k", data)
        for _ in range(5):
            backend.get("k", 0, 10)
        assert backend.stats.requests["get"] == 5
        assert backend.stats.sent == len(data), "the body went out once"
        assert sum(backend.stats.requests.values()) <= 5 + 9


def test_many_threads_share_a_digest_challenge(apache_digest: DAVServer) -> None:
    with open_backend(f"{apache_digest.url}/{secrets.token_hex(4)}") as backend:
        backend.put("k", b"0123456789")
        before = backend.stats.requests["get"]
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda at: backend.get("k", at % 10, at % 10 + 1), range(200))) == {
                b"%d" % at for at in range(10)
            }
        assert backend.stats.requests["get"] - before <= 202


@pytest.mark.parametrize("login", ["", "user:wrong-secret@", "nobody:wrong-secret@"])
def test_wrong_login(login: str, apache_basic: DAVServer, apache_digest: DAVServer) -> None:
    for server in (apache_basic, apache_digest):
        with open_backend(f"webdav://{login}127.0.0.1:{server.port}/x") as backend:
            for call in (
                lambda: backend.get("k"),
                lambda: backend.put("k", b"x"),
                lambda: list(backend.list()),
            ):
                with pytest.raises(PermissionDeniedError, match="authentication") as caught:
                    call()
                assert "127.0.0.1" in str(caught.value)
                assert "secret" not in repr(caught.value)
                assert ("set username" in str(caught.value)) == (not login)


def test_where_a_login_comes_from(apache_basic: DAVServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins over the query, the query over the URL's own part, that over the environment."""
    monkeypatch.setenv("LITESTREAM_WEBDAV_USERNAME", "from-environment")
    monkeypatch.setenv("LITESTREAM_WEBDAV_PASSWORD", "from-environment")
    where = f"127.0.0.1:{apache_basic.port}/x"
    with pytest.raises(PermissionDeniedError, match="from-environment"):
        open_backend(f"webdav://{where}").get("k")
    with pytest.raises(PermissionDeniedError, match="from-url"):
        open_backend(f"webdav://from-url:x@{where}").get("k")
    with pytest.raises(PermissionDeniedError, match="from-query"):
        open_backend(f"webdav://from-url:x@{where}?username=from-query").get("k")
    with pytest.raises(NotFoundError):
        open_backend(f"webdav://{where}?username=from-query", username=USER, password=PASSWORD).get("k")
    backend = open_backend(f"webdav://us%40er:p%2Fw@{where}?password=hidden")
    assert backend.url == f"webdav://{where}"
    assert "hidden" not in repr(vars(backend))
    assert "p/w" not in repr(vars(backend))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("webdav://host/x?user=1", "takes username, password, auth, verify, not user"),
        ("webdav://host:port/x", "port"),
        ("webdav:///x", "names no server"),
        ("webdav://host/x?auth=ntlm", "auto, basic or digest"),
        ("webdav://:secret@host/x", "no username"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_backend(url)
    assert "secret" not in str(caught.value)


def test_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with nginx(tls=True) as server:
        url = f"{server.url.replace('webdav:', 'webdavs:')}/x"
        with (
            open_backend(url) as backend,
            pytest.raises(BackendError, match=r"certificate.*set verify") as caught,
        ):
            backend.get("k")
        assert type(caught.value) is BackendError, "no retry helps"
        with open_backend(url, verify=str(server.root.parent / "certificate.pem")) as backend:
            backend.put("k", b"x")
            assert backend.get("k") == b"x"
            assert backend.url.startswith("webdavs://")


# Failures.


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        backend = open_backend(f"webdav://user:secret@127.0.0.1:{taken.getsockname()[1]}/x")
        began = time.monotonic()
        for call in (lambda: backend.get("k"), lambda: backend.put("k", bytes(1 << 20))):
            with pytest.raises(UnavailableError, match=r"127\.0\.0\.1.*refused") as caught:
                call()
            assert not caught.value.reached
        assert time.monotonic() - began < 5


def test_no_connection_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that swallows packets is given up after the limit for connecting; a silent one after that for reading."""
    monkeypatch.setattr(backends.webdav_http, "CONNECT_TIMEOUT_S", 1)
    monkeypatch.setattr(backends.webdav_http, "READ_TIMEOUT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        where = silent.getsockname()
        with socket.create_connection(where), open_backend(f"webdav://127.0.0.1:{where[1]}/x") as backend:
            began = time.monotonic()
            with pytest.raises(UnavailableError, match=r"silent|no connection"):
                backend.get("k")
            assert time.monotonic() - began < 4


def test_no_webdav_there(apache_basic: DAVServer) -> None:
    """A web server without WebDAV is said to be one; a redirect is not followed to another method."""
    import http.server

    class Plain(http.server.BaseHTTPRequestHandler):
        def do_PROPFIND(self) -> None:
            self.send_response(301 if "moved" in self.path else 200)
            self.send_header("Location", "https://me:secret@elsewhere.example/dav")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            with open_backend(f"webdav://127.0.0.1:{server.server_address[1]}") as backend:
                with pytest.raises(ConfigError, match="not 207: no WebDAV"):
                    list(backend.list())
                with pytest.raises(ConfigError, match=r"https://elsewhere\.example/dav") as caught:
                    list(backend.list("moved/"))
                assert "secret" not in str(caught.value)
                with pytest.raises(UnavailableError) as unavailable:
                    backend.put("k", b"x")
                assert unavailable.value.retry_after_s == 7
        finally:
            server.shutdown()


# What each call costs.


def test_requests(url: str) -> None:
    """Collections are made once; then a put is two requests, and everything else one."""
    with open_backend(url) as backend:
        backend.put("a/b/0", b"x")
        made = backend.stats.requests["mkcol"]
        before = dict(backend.stats.requests)
        for number in range(1, 10):
            backend.put(f"a/b/{number}", b"x" * number)
        backend.put("a/b/large", bytes(1 << 20))
        for number in range(1, 10):
            backend.get(f"a/b/{number}", -1)
        backend.head("a/b/1")
        assert len(list(backend.list("a/b/"))) == 11
        backend.delete(f"a/b/{number}" for number in range(10))
        after = {kind: count - before.get(kind, 0) for kind, count in backend.stats.requests.items()}
        assert after == {"put": 10, "move": 10, "get": 9, "head": 1, "list": 2, "delete": 10, "mkcol": 0}
        assert made <= 6
    with open_backend(url) as backend:
        backend.put("a/b/late", bytes(1 << 20))
        assert backend.stats.requests["mkcol"] == 1


def test_one_connection(url: str) -> None:
    """Refusals too are read to their end, so that their connection serves the next request."""
    backend = open_backend(url)
    assert isinstance(backend, WebDAVBackend)
    with backend:
        backend.put("k", b"x")
        for _ in range(20):
            with pytest.raises(NotFoundError):
                backend.get("missing")
            backend.get("k")
        adapter = backend._fs._dav._client().session.get_adapter("http://")
        assert isinstance(adapter, requests.adapters.HTTPAdapter)
        pools = adapter.poolmanager.pools
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118 - no mapping


def test_a_new_object_appears_whole(url: str, nginx_server: DAVServer, lighttpd_server: DAVServer) -> None:
    """Who reads a key while it is written first finds nothing, then all of it."""
    for place in (url, f"{nginx_server.url}/w", f"{lighttpd_server.url}/w"):
        data = content(3 << 20)
        with open_backend(place) as writer, open_backend(place) as reader, ThreadPoolExecutor(1) as pool:
            for number in range(5):
                writing = pool.submit(writer.put, f"new/{number}", data)
                while not writing.done():
                    try:
                        assert reader.get(f"new/{number}") == data
                    except NotFoundError:
                        continue
                writing.result()


# Collections.


def test_a_collection_is_no_object(url: str) -> None:
    """Nothing that is done to a key takes a collection of that name along."""
    with open_backend(url) as backend:
        backend.put("a/b", b"stays")
        backend.delete(["a"])
        backend.delete(["a", "a/c"])
        with pytest.raises(ConfigError):
            backend.put("a", b"x")
        with pytest.raises(AlreadyExistsError):
            backend.mark("a")
        with pytest.raises(NotFoundError):
            backend.head("a")
        assert [info.key for info in backend.list()] == ["a/b"]


def test_unmark_keeps_what_is_no_marker(url: str) -> None:
    with open_backend(url) as backend:
        backend.put("a/b", b"stays")
        with pytest.raises(ConfigError, match="holds objects"):
            backend.unmark("a")
        assert backend.get("a/b") == b"stays"


def test_collections_that_went_away(url: str) -> None:
    """A collection that somebody removed is made again."""
    with open_backend(url) as backend, open_backend(url) as other:
        backend.put("a/b/1", bytes(1 << 20))
        assert isinstance(other, WebDAVBackend)
        other._fs.rm(f"{other._root}/a", recursive=True)
        backend.put("a/b/2", bytes(1 << 20))
        backend.put("a/c/3", b"x")
        assert [info.key for info in backend.list()] == ["a/b/2", "a/c/3"]


def test_leftovers_are_not_listed(url: str, apache_basic: DAVServer) -> None:
    with open_backend(url) as backend:
        backend.put("a/k", b"x")
        requests.put(
            f"http://127.0.0.1:{apache_basic.port}/{url.rpartition('/')[2]}/a/.tmp-left",
            b"part",
            auth=(USER, PASSWORD),
            timeout=5,
        ).raise_for_status()
        assert [info.key for info in backend.list()] == ["a/k"]


# What some servers do and others do not.


def test_marks_need_an_exclusive_server() -> None:
    """Rclone makes a collection twice: that is found out by the first marker, not assumed."""
    with rclone() as server, open_backend(f"{server.url}/x") as backend:
        with pytest.raises(UnsupportedError, match="twice"):
            backend.mark("m")
        assert not backend.capabilities.exclusive_marker


def test_modification_times_by_proppatch(url: str) -> None:
    with rclone() as server, open_backend(f"{server.url}/x") as backend:
        for time_ms in (1_700_000_000_123, 1_000_000_000_999):
            backend.put("k", b"x", timestamp_ms=time_ms)
            assert backend.capabilities.timestamps
            assert backend.head("k").timestamp_ms == time_ms // 1000 * 1000
            assert (server.root / "x/k").stat().st_mtime == time_ms // 1000


def test_modification_times_like_nextcloud(apache_basic: DAVServer) -> None:
    with like_nextcloud(apache_basic) as server, open_backend(f"{server.url}/oc") as backend:
        for number, time_ms in enumerate((1_700_000_000_123, 1_000_000_000_999)):
            backend.put(f"k{number}", b"x", timestamp_ms=time_ms)
            assert backend.head(f"k{number}").timestamp_ms == time_ms // 1000 * 1000
        assert [info.timestamp_ms for info in backend.list()] == [1_700_000_000_000, 1_000_000_000_000]
        assert "proppatch" not in backend.stats.requests


def test_modification_times_that_are_not_kept(url: str) -> None:
    """Whether a time is kept is asked once."""
    with open_backend(url) as backend:
        for number in range(3):
            backend.put(f"k{number}", b"x", timestamp_ms=1_700_000_000_123)
        assert not backend.capabilities.timestamps
        assert backend.head("k0").timestamp_ms is None
        assert backend.stats.requests["proppatch"] == 1


def test_large_files_need_little_memory(url: str, tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "large"
    path.write_bytes(content(32 << 20))
    with open_backend(url) as backend, path.open("rb") as file:
        assert isinstance(backend, WebDAVBackend)
        backend.put("warm", b"x")
        tracemalloc.start()
        try:
            backend.put("large", file)
            backend._fs.get_file(f"{backend._root}/large", str(tmp_path / "back"))
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
