"""Azure Blob Storage: the contract on Azurite, logins, and failures that only it has."""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

from backends import Backend, azure_account
from backends.azure import AzureBackend
from backends.azure_place import AzurePlace
from backends.errors import (
    AlreadyExistsError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from backends.obstore_azure import ObstoreAzureBackend
from backends.testing import BackendContract, content
from tests.servers.azure import ACCOUNT, ACCOUNT_KEY, AzureServer, azurite
from tests.servers.faults import Fault, FaultyProxy, faulty_proxy

CONTAINER = "box"


@pytest.fixture(scope="module")
def server() -> Iterator[AzureServer]:
    with azurite(CONTAINER) as server:
        yield server


class TestAzure(BackendContract):
    schemes = ("abfs", "abs", "az")
    part_size = 1 << 20
    secrets = (ACCOUNT_KEY,)
    kind: type[Backend] = AzureBackend

    @pytest.fixture
    def backend(self, server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        monkeypatch.setattr(AzureBackend, "part_size", self.part_size)
        self.server, self.root = server, f"a root%41/{secrets.token_hex(4)}"
        with self.reopen(None) as backend:
            yield backend

    def reopen(self, backend: Backend | None) -> Backend:
        url = f"abs://{self.server.account}@{CONTAINER}/{quote(self.root)}?endpoint={self.server.endpoint}"
        return self.kind.from_url(url, account_key=self.server.key)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        with self.server.client as client:
            data: bytes = client.get_blob_client(CONTAINER, f"{self.root}/{key}").download_blob().readall()
            return data


class TestObstoreAzure(TestAzure):
    kind = ObstoreAzureBackend


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LITESTREAM_AZURE_SAS_TOKEN", "LITESTREAM_AZURE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING",
                 "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCOUNT_NAME"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxied(server: AzureServer) -> Iterator[tuple[AzureBackend, FaultyProxy]]:
    """A backend with small parts, and what can go wrong between it and the server."""
    with faulty_proxy(server.port) as proxy:
        endpoint = f"http://127.0.0.1:{proxy.port}/{ACCOUNT}"
        url = f"az://{ACCOUNT}@{CONTAINER}/{secrets.token_hex(4)}"
        with AzureBackend.from_url(url, endpoint=endpoint, account_key=ACCOUNT_KEY) as backend:
            backend.part_size = 1 << 20
            yield backend, proxy


# Places and logins.


def _sas(server: AzureServer, **permissions: bool) -> str:
    return generate_account_sas(
        ACCOUNT,
        ACCOUNT_KEY,
        ResourceTypes(container=True, object=True),
        AccountSasPermissions(**permissions),
        datetime.now(UTC) + timedelta(hours=1),
    )


def test_logins(server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sas = _sas(server, read=True, write=True, list=True, delete=True, create=True)
    where = f"abs://{CONTAINER}/login"
    named = f"abs://{ACCOUNT}@{CONTAINER}/login"
    query = f"endpoint={server.endpoint}"
    opened: list[Callable[[], Backend]] = [
        lambda: AzureBackend.from_url(where, connection_string=server.connection_string),
        lambda: AzureBackend.from_url(named, connection_string=server.connection_string),
        lambda: AzureBackend.from_url(f"{named}?{query}&account_key={quote(ACCOUNT_KEY)}"),
        lambda: AzureBackend.from_url(f"{where}?{query}&account_name={ACCOUNT}&sas_token={quote(sas)}"),
        lambda: AzureBackend.from_url(f"{named}?{query}", sas_token=f"?{sas}"),
    ]
    for number, make in enumerate(opened):
        with make() as backend:
            assert backend.url in (where, named)
            backend.put(f"{number}", b"x")
            assert backend.get(f"{number}") == b"x"
            assert f"{number}" in [info.key for info in backend.list()]
            backend.delete([f"{number}"])
    for name, value in (
        ("LITESTREAM_AZURE_ACCOUNT_KEY", ACCOUNT_KEY),
        ("LITESTREAM_AZURE_SAS_TOKEN", sas),
        ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY),
        ("AZURE_STORAGE_SAS_TOKEN", sas),
        ("AZURE_STORAGE_CONNECTION_STRING", server.connection_string),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
            with AzureBackend.from_url(f"{where}?{query}") as backend, pytest.raises(NotFoundError):
                backend.get("missing")


@pytest.mark.parametrize(
    ("url", "account", "container", "root", "endpoint"),
    [
        ("abs://acct@box/a/b%20c", "acct", "box", "a/b c/", "https://acct.blob.core.windows.net"),
        ("az://box?account_name=acct", "acct", "box", "", "https://acct.blob.core.windows.net"),
        ("abfs://box@acct.dfs.core.windows.net/a", "acct", "box", "a/", "https://acct.blob.core.windows.net"),
        ("abfs://box@acct.blob.core.cn/", "acct", "box", "", "https://acct.blob.core.cn"),
        (
            "abs://acct@box/a?endpoint=http://127.0.0.1:1/acct/",
            "acct",
            "box",
            "a/",
            "http://127.0.0.1:1/acct",
        ),
    ],
)
def test_urls(url: str, account: str, container: str, root: str, endpoint: str) -> None:
    place = AzurePlace.parse(url, {})
    assert (place.account, place.container, place.root, place.endpoint) == (
        account,
        container,
        root,
        endpoint,
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("abs:///x", "names no container"),
        ("abs://box/x", "no account is named"),
        ("abs://a@box/x?region=eu", "not region"),
        ("abs://a@box/x?account_key=c2Vjcm", "not base64"),
        ("abs://a@box/x?endpoint=localhost", "begins with http"),
        ("abs://a@box/x?connection_string=hidden", "not of the form"),
        (
            "abs://a@box/x?connection_string=AccountName=b;AccountKey=c2VjcmV0",
            "names the account a, the connection string b",
        ),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        AzureBackend.from_url(url)
    assert "hidden" not in str(caught.value)
    assert "c2Vj" not in str(caught.value)


def test_an_explicit_login_wins_over_the_environment(
    server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=other;AccountKey=b3RoZXI=")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
    url = f"abs://{ACCOUNT}@{CONTAINER}/x?endpoint={server.endpoint}"
    with AzureBackend.from_url(url, account_key=ACCOUNT_KEY) as backend:
        backend.put("k", b"x")
        assert backend.get("k") == b"x"


def test_refused_logins(server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ACCOUNT_KEY[::-1].strip("=") + "=" * (len(ACCOUNT_KEY) - len(ACCOUNT_KEY.strip("=")))
    reading = _sas(server, read=True, list=True)
    url = f"abs://{ACCOUNT}@{CONTAINER}/x?endpoint={server.endpoint}"
    tries: list[tuple[dict[str, object], str]] = [
        ({"account_key": wrong}, "an account key was tried"),
        ({"sas_token": reading.replace("sig=", "sig=wrong")}, "a SAS token was tried"),
        ({"sas_token": reading}, "a SAS token was tried"),
        ({"anon": True}, "no login was tried"),
        ({"anon": "true"}, "no login was tried"),
    ]
    for options, said in tries:
        with (
            AzureBackend.from_url(url, **options) as backend,
            pytest.raises(PermissionDeniedError, match=said) as caught,
        ):
            backend.put("k", b"x")
        shown = f"{caught.value} {caught.value!r} {backend!r}"
        assert wrong not in shown
        assert "sig=" not in shown
        assert "LITESTREAM_AZURE_ACCOUNT_KEY" in shown
    with AzureBackend.from_url(url, sas_token=reading) as backend:
        assert list(backend.list()) == list(backend.list())


def test_default_credentials_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain looks everywhere, and says in one line that it found nothing."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with AzureBackend.from_url(f"abs://{ACCOUNT}@{CONTAINER}/x") as backend:
        began = time.monotonic()
        with pytest.raises(PermissionDeniedError, match=r"no credential was found.*az login") as caught:
            backend.get("k")
        assert time.monotonic() - began < 15
        assert "\n" not in str(caught.value)


def test_missing_container(server: AzureServer) -> None:
    """A container that is not there is no missing key: the URL is wrong."""
    calls: list[Callable[[Backend], object]] = [
        lambda backend: backend.get("k"),
        lambda backend: backend.head("k"),
        lambda backend: backend.put("k", b"x"),
        lambda backend: backend.put("k", bytes(9 << 20), if_absent=True),
        lambda backend: list(backend.list()),
        lambda backend: backend.delete(["k"]),
    ]
    url = f"abs://{ACCOUNT}@absent/x?endpoint={server.endpoint}"
    with AzureBackend.from_url(url, account_key=ACCOUNT_KEY) as backend:
        for call in calls:
            with pytest.raises(ConfigError, match=f"abs://{ACCOUNT}@absent/x: there is no such container"):
                call(backend)


def test_an_endpoint_that_is_no_blob_service(server: AzureServer) -> None:
    with faulty_proxy(server.port) as proxy:
        proxy.faults.append(Fault("GET", status=404))
        endpoint = f"http://127.0.0.1:{proxy.port}/{ACCOUNT}"
        url = f"abs://{ACCOUNT}@{CONTAINER}/x?endpoint={endpoint}"
        with (
            AzureBackend.from_url(url, account_key=ACCOUNT_KEY) as backend,
            pytest.raises(ConfigError, match=f"404.*{endpoint}: correct the endpoint"),
        ):
            list(backend.list())


# Failures.


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        backend = AzureBackend.from_url(f"abs://a@{CONTAINER}/x?endpoint={endpoint}", account_key=ACCOUNT_KEY)
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
        assert time.monotonic() - began < 10


def test_silent_service(proxied: tuple[AzureBackend, FaultyProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_account, "READ_TIMEOUT_S", 1)
    backend, proxy = proxied
    proxy.faults.append(Fault("", action="stall", times=2))
    for call in (lambda: backend.get("k"), lambda: backend.put("k", b"x")):
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="silent") as caught:
            call()
        assert caught.value.reached
        assert time.monotonic() - began < 14


def test_asked_to_wait(proxied: tuple[AzureBackend, FaultyProxy]) -> None:
    backend, proxy = proxied
    proxy.faults.append(
        Fault("PUT", status=503, headers={"Retry-After": "7", "x-ms-error-code": "ServerBusy"})
    )
    with pytest.raises(UnavailableError, match="ServerBusy") as caught:
        backend.put("k", b"x")
    assert (caught.value.retry_after_s, caught.value.key) == (7, "k")
    backend.put("k1", b"x")
    proxy.faults.append(Fault("DELETE", "k2", status=500))
    with pytest.raises(UnavailableError) as caught:
        backend.delete(["k1", "k2", "k3"])
    assert caught.value.key == "k2"
    assert list(backend.list()) == []


def test_lost_answer_is_not_asked_again_in_secret(proxied: tuple[AzureBackend, FaultyProxy]) -> None:
    backend, proxy = proxied
    backend.put("warm", b"x")
    proxy.faults.append(Fault("PUT", action="lose"))
    with pytest.raises(UnavailableError) as caught:
        backend.put("k", b"x", if_absent=True)
    assert caught.value.reached
    assert len([method for method, _ in proxy.seen if method == "PUT"]) == 2
    assert backend.get("k") == b"x"
    with pytest.raises(AlreadyExistsError):
        backend.put("k", b"x", if_absent=True)


def test_blocks_are_sent_again(proxied: tuple[AzureBackend, FaultyProxy]) -> None:
    backend, proxy = proxied
    data = content(5_500_000)
    proxy.faults += [
        Fault("PUT", "comp=block&", action="lose"),
        Fault("PUT", "comp=block&", status=500, times=2),
    ]
    backend.put("large", data, timestamp_ms=5)
    assert backend.get("large") == data
    assert backend.head("large").timestamp_ms == 5
    assert backend.stats.requests["put"] == 6 + 3
    assert backend.stats.requests["commit"] == 1


def test_a_second_writers_blocks(proxied: tuple[AzureBackend, FaultyProxy]) -> None:
    """A commit drops the blocks of everybody else: who comes second is told so, or told to try again."""
    backend, proxy = proxied
    dropped = Fault("PUT", "comp=blocklist", status=400, headers={"x-ms-error-code": "InvalidBlockList"})
    proxy.faults.append(dropped)
    with pytest.raises(NotFoundError):
        backend.put("large", bytes(3 << 20), if_absent=True)
    dropped.times = 1
    with pytest.raises(UnavailableError):
        backend.put("large", bytes(3 << 20))
    backend.put("large", b"winner")
    dropped.times = 1
    with pytest.raises(AlreadyExistsError):
        backend.put("large", bytes(3 << 20), if_absent=True)
    assert backend.get("large") == b"winner"
