"""Google Cloud Storage: the contract on its emulator, credentials, and failures that only it has."""

import http.server
import json
import secrets
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from backends import Backend, gcs_requests
from backends.errors import AlreadyExistsError, ConfigError, PermissionDeniedError, UnavailableError
from backends.gcs import GCSBackend
from backends.obstore_gcs import ObstoreGCSBackend
from backends.testing import BackendContract, content
from tests.servers.faults import Fault, FaultyProxy, faulty_proxy
from tests.servers.gcs import fake_gcs

BUCKET = "bkt"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with fake_gcs(BUCKET, "other") as endpoint:
        yield endpoint


class TestGCS(BackendContract):
    schemes = ("gs", "gcs")
    part_size = 1 << 20
    kind: type[Backend] = GCSBackend

    @pytest.fixture
    def backend(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        monkeypatch.setattr(GCSBackend, "part_size", self.part_size)
        self.endpoint, self.root = endpoint, f"a root%41/{secrets.token_hex(4)}"
        with self.reopen(None) as backend:
            yield backend

    def reopen(self, backend: Backend | None) -> Backend:
        return self.kind.from_url(f"gs://{BUCKET}/{urllib.parse.quote(self.root)}", endpoint=self.endpoint)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        name = urllib.parse.quote(f"{self.root}/{key}", safe="")
        with urllib.request.urlopen(f"{self.endpoint}/storage/v1/b/{BUCKET}/o/{name}?alt=media") as answer:
            data: bytes = answer.read()
            return data


class TestObstoreGCS(TestGCS):
    kind = ObstoreGCSBackend


@pytest.fixture
def proxied(endpoint: str) -> Iterator[tuple[GCSBackend, FaultyProxy]]:
    """A backend with small parts, and what can go wrong between it and the emulator."""
    with faulty_proxy(int(endpoint.rpartition(":")[2])) as proxy:
        where = f"gs://{BUCKET}/{secrets.token_hex(4)}"
        with GCSBackend.from_url(where, endpoint=f"http://127.0.0.1:{proxy.port}") as backend:
            backend.part_size = 1 << 20
            yield backend, proxy


# Places.


def test_emulator_of_the_environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (endpoint, endpoint.removeprefix("http://")):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", value)
        with GCSBackend.from_url(f"gcs://{BUCKET}/env%20x") as backend:
            backend.put("k", b"x")
            assert backend.url == f"gcs://{BUCKET}/env x"
            assert backend.get("k") == b"x"
    with GCSBackend.from_url(f"gs://{BUCKET}?endpoint={endpoint}") as backend:
        assert "env x/k" in [info.key for info in backend.list()]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs:///x", "names no bucket"),
        ("gs://user:secret@bucket/x", "names no bucket"),
        ("gs://bucket/x?region=eu", "takes endpoint, project, token, requester_pays, not region"),
        ("gs://bucket/x?endpoint=localhost:1", "begins with http"),
        ("gs://bucket/x?token=/no/such/file.json", "there is no file"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        GCSBackend.from_url(url)
    assert "secret" not in str(caught.value)


def test_who_pays(endpoint: str) -> None:
    for said, asked in (("true", "p"), ("payer", "payer"), ("false", "")):
        with faulty_proxy(int(endpoint.rpartition(":")[2])) as proxy:
            where = f"endpoint=http://127.0.0.1:{proxy.port}&project=p&requester_pays={said}"
            with GCSBackend.from_url(f"gs://{BUCKET}/x?{where}") as backend:
                list(backend.list())
            assert (f"userProject={asked}" in proxy.seen[-1][1]) == bool(asked)
            assert ("userProject" in proxy.seen[-1][1]) == bool(asked)


def test_missing_bucket(endpoint: str) -> None:
    """A bucket that is not there is no missing key: the URL is wrong."""
    calls: list[Callable[[Backend], object]] = [
        lambda backend: backend.get("k"),
        lambda backend: backend.get_ranges([("k", 0, 1), ("k", 1, 2)]),
        lambda backend: backend.head("k"),
        lambda backend: backend.put("k", b"x"),
        lambda backend: backend.put("k", b"x", if_absent=True),
        lambda backend: list(backend.list()),
    ]
    for call in calls:
        with (
            GCSBackend.from_url("gs://absent/x", endpoint=endpoint) as backend,
            pytest.raises(ConfigError, match="gs://absent/x: there is no such bucket"),
        ):
            call(backend)


# Credentials.


class _TokenServer(http.server.BaseHTTPRequestHandler):
    """What a service account's file names as its token server."""

    answer: ClassVar[tuple[int, bytes]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Path]:
    """A service account's file whose token server is a real one on loopback."""
    key = subprocess.run(["openssl", "genpkey", "-algorithm", "RSA"], check=True, capture_output=True).stdout
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _TokenServer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        path = tmp_path / "account.json"
        content = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "robot@p.example",
            "token_uri": f"http://127.0.0.1:{server.server_address[1]}/token",
        }
        path.write_text(json.dumps(content))
        yield path
        server.shutdown()


def test_service_account(endpoint: str, account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = b'{"access_token": "secret-token", "expires_in": 3600, "token_type": "Bearer"}'
    _TokenServer.answer = (200, token)
    with faulty_proxy(int(endpoint.rpartition(":")[2])) as proxy:
        where = f"gs://{BUCKET}/account?endpoint=http://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        for backend in (
            GCSBackend.from_url(where, token=str(account)),
            GCSBackend.from_url(where, token="google_default"),
        ):
            with backend:
                backend.put("k", b"x")
                assert backend.get("k") == b"x"
                proxy.faults.append(
                    Fault("GET", status=401, body=b'{"error": {"message": "Invalid Credentials"}}')
                )
                with pytest.raises(PermissionDeniedError, match=r"robot@p\.example asked") as caught:
                    backend.get("k")
                assert "secret" not in str(caught.value)
                proxy.faults.append(
                    Fault("GET", status=403, body=b'{"error": {"message": "no storage.objects.get"}}')
                )
                with pytest.raises(
                    PermissionDeniedError, match=r"storage\.objects\.get; robot@p\.example may not"
                ):
                    backend.head("k")


def test_refused_service_account(endpoint: str, account: Path) -> None:
    _TokenServer.answer = (400, b'{"error": "invalid_grant", "error_description": "account not found"}')
    with GCSBackend.from_url(f"gs://{BUCKET}/account", endpoint=endpoint, token=str(account)) as backend:
        for call in (lambda: backend.get("k"), lambda: backend.put("k", b"x")):
            with pytest.raises(PermissionDeniedError, match=r"refused.*invalid_grant"):
                call()


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with (
        GCSBackend.from_url("gs://bucket/x") as backend,
        pytest.raises(
            PermissionDeniedError, match="no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS"
        ),
    ):
        backend.get("k")
    (tmp_path / "broken.json").write_text("{}")
    with (
        GCSBackend.from_url("gs://bucket/x", token=str(tmp_path / "broken.json")) as backend,
        pytest.raises(ConfigError, match="token cannot be understood"),
    ):
        backend.get("k")


# Failures.


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        backend = GCSBackend.from_url(f"gs://{BUCKET}/x", endpoint=endpoint)
        began = time.monotonic()
        calls: list[Callable[[], object]] = [
            lambda: backend.get("k"),
            lambda: backend.put("k", b"x"),
            lambda: list(backend.list()),
            lambda: backend.delete(["k"]),
        ]
        for call in calls:
            with pytest.raises(UnavailableError, match=endpoint) as caught:
                call()
            assert not caught.value.reached
        assert time.monotonic() - began < 5


def test_silent_service(proxied: tuple[GCSBackend, FaultyProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_requests, "READ_TIMEOUT_S", 1)
    backend, proxy = proxied
    proxy.faults.append(Fault("", action="stall", times=2))
    for call in (lambda: backend.get("k"), lambda: backend.put("k", b"x")):
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="silent") as caught:
            call()
        assert caught.value.reached
        assert time.monotonic() - began < 14


def test_asked_to_wait(proxied: tuple[GCSBackend, FaultyProxy]) -> None:
    backend, proxy = proxied
    proxy.faults.append(Fault("POST", status=429, headers={"Retry-After": "7"}))
    with pytest.raises(UnavailableError) as caught:
        backend.put("k", b"x")
    assert (caught.value.retry_after_s, caught.value.key) == (7, "k")
    proxy.faults.append(Fault("DELETE", "k2", status=500))
    backend.put("k1", b"x")
    with pytest.raises(UnavailableError) as caught:
        backend.delete(["k1", "k2", "k3"])
    assert caught.value.key == "k2"
    assert list(backend.list()) == []


def test_lost_answer_is_not_asked_again_in_secret(proxied: tuple[GCSBackend, FaultyProxy]) -> None:
    backend, proxy = proxied
    backend.put("warm", b"x")
    proxy.faults.append(Fault("", "uploadType", action="lose"))
    with pytest.raises(UnavailableError) as caught:
        backend.put("k", b"x", if_absent=True)
    assert caught.value.reached
    assert len([path for _, path in proxy.seen if "uploadType" in path]) == 2
    assert backend.get("k") == b"x"


class _Uploads(http.server.BaseHTTPRequestHandler):
    """Google's upload in parts as its documentation has it; fake-gcs-server cannot be asked how far one got."""

    protocol_version = "HTTP/1.1"
    stored: ClassVar[bytearray]
    cancelled: ClassVar[bool]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        port = self.connection.getsockname()[1]
        self.reply(200, Location=f"http://127.0.0.1:{port}/upload/1")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        span, _, total = self.headers["Content-Range"].removeprefix("bytes ").partition("/")
        if span != "*":
            start = int(span.partition("-")[0])
            assert start <= len(self.stored)
            self.stored[start:] = body[: max(1, len(body) * 3 // 4)] if len(body) > 600_000 else body
        if len(self.stored) == int(total):
            self.reply(200)
        elif self.stored:
            self.reply(308, Range=f"bytes=0-{len(self.stored) - 1}")
        else:
            self.reply(308)

    def do_DELETE(self) -> None:
        type(self).cancelled = True
        self.reply(499)

    def reply(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def uploads() -> Iterator[tuple[GCSBackend, FaultyProxy]]:
    """A backend that takes what it talks to for Google itself, and what can go wrong between the two."""
    _Uploads.stored, _Uploads.cancelled = bytearray(), False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Uploads) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        with faulty_proxy(server.server_address[1]) as proxy:
            backend = GCSBackend("bucket", endpoint=f"http://127.0.0.1:{proxy.port}")
            backend.part_size, backend.endpoint = 1 << 20, ""
            with backend:
                yield backend, proxy
        server.shutdown()


@pytest.mark.parametrize("action", ["drop", "lose", "answer"])
@pytest.mark.parametrize("part", range(6))
def test_upload_in_parts_goes_on(
    uploads: tuple[GCSBackend, FaultyProxy], action: Literal["drop", "lose", "answer"], part: int
) -> None:
    """A part that was lost, or whose answer was, or that was taken in half, is sent as far as it is lacking."""
    backend, proxy = uploads
    data = content(3_500_000)
    proxy.faults += [Fault("PUT", action="pass", times=part), Fault("PUT", action=action)]
    backend.put("large", data)
    assert bytes(_Uploads.stored) == data
    assert not _Uploads.cancelled


def test_upload_in_parts_is_given_up(uploads: tuple[GCSBackend, FaultyProxy]) -> None:
    backend, proxy = uploads
    proxy.faults.append(Fault("PUT", status=403, times=100))
    with pytest.raises(PermissionDeniedError):
        backend.put("large", bytes(3 << 20))
    assert _Uploads.cancelled
    proxy.faults[:] = [Fault("PUT", status=410)]
    with pytest.raises(UnavailableError, match="forgot the upload"):
        backend.put("large", bytes(3 << 20))


def test_real_google_gets_the_condition_with_parts_too(proxied: tuple[GCSBackend, FaultyProxy]) -> None:
    """Google checks it when the upload ends; the emulator does not, so there it goes in one request."""
    backend, proxy = proxied
    backend.put("small-emulator", bytes(3 << 20), if_absent=True)
    assert not [path for _, path in proxy.seen if "resumable" in path]
    backend.endpoint = ""
    backend.put("large", bytes(3 << 20), if_absent=True)
    assert [path for _, path in proxy.seen if "resumable" in path and "ifGenerationMatch=0" in path]
    proxy.faults.append(Fault("PUT", status=412))
    with pytest.raises(AlreadyExistsError) as caught:
        backend.put("large", bytes(3 << 20), if_absent=True)
    assert caught.value.key == "large"
    assert proxy.seen[-1][0] == "DELETE", "the upload was given up"
