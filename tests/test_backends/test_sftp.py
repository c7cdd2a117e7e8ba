"""SFTP: the contract on OpenSSH, host keys, logins, and servers that can less."""

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from backends import Backend, open_backend, sftp_connection
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.sftp import SFTPBackend
from backends.testing import BackendContract, content
from tests.servers.daemon import PASSWORD, USER
from tests.servers.faults import cable
from tests.servers.sftp import SFTPServer, rclone_sftp, sshd


@pytest.fixture(scope="module")
def server() -> Iterator[SFTPServer]:
    with sshd() as server:
        yield server


@pytest.fixture(scope="module")
def poor_server() -> Iterator[SFTPServer]:
    with rclone_sftp() as server:
        yield server


class TestSFTP(BackendContract):
    schemes = ("sftp",)
    part_size = 4 << 20

    @pytest.fixture
    def backend(self, server: SFTPServer) -> Iterator[Backend]:
        self.server = server
        self.root = server.folder / f"a root%41/{secrets.token_hex(4)}"
        with self.reopen(None) as backend:
            yield backend

    def reopen(self, backend: Backend | None) -> Backend:
        url = f"sftp://{self.server.user}@127.0.0.1:{self.server.port}{quote(str(self.root))}"
        return open_backend(url, key_path=self.server.key_path, host_key=self.server.host_key)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        return (self.root / key).read_bytes()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys, agent or known hosts."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("LITESTREAM_SFTP_PASSWORD", raising=False)
    monkeypatch.delenv("LITESTREAM_SFTP_KEY_PATH", raising=False)
    return tmp_path


def _url(server: SFTPServer, path: str = "") -> str:
    return f"sftp://{server.user}@127.0.0.1:{server.port}{path or server.folder}"


# The server's key.


def test_unknown_host_key(server: SFTPServer, home: Path) -> None:
    """It is refused, and the message says what to write where; written there, it is accepted."""
    with pytest.raises(PermissionDeniedError, match="the server's key is not known: SHA256:") as caught:
        open_backend(_url(server), key_path=server.key_path).get("k")
    line = str(caught.value).partition("add the line '")[2].partition("'")[0]
    assert line == f"[127.0.0.1]:{server.port} {server.host_key}"
    assert f"set host_key to '{server.host_key}'" in str(caught.value)
    (home / ".ssh/known_hosts").write_text(f"{line}\n")
    with open_backend(_url(server), key_path=server.key_path) as backend, pytest.raises(NotFoundError):
        backend.get("k")
    (home / "elsewhere").write_text(f"{line}\n")
    (home / ".ssh/known_hosts").unlink()
    url = f"{_url(server)}?known-hosts={home}/elsewhere&key-path={server.key_path}"
    with open_backend(url) as backend, pytest.raises(NotFoundError):
        backend.get("k")


def test_changed_host_key(server: SFTPServer, home: Path) -> None:
    other = server.host_key[:-10] + "A" * 10
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {other}\n")
    for options in ({}, {"host_key": other}):
        with pytest.raises(PermissionDeniedError, match="another key than the known one") as caught:
            open_backend(_url(server), key_path=server.key_path, **options).put("k", b"x")
        assert "Only if you know" in str(caught.value)


# Logins.


def test_key_of_the_agent(server: SFTPServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ssh-agent"):
        raise FileNotFoundError("ssh-agent is not installed: tests/servers/install.sh installs it")
    path = str(home / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not Path(path).exists():
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        subprocess.run(["ssh-add", "-q", server.key_path], check=True)
        with open_backend(_url(server), host_key=server.host_key) as backend, pytest.raises(NotFoundError):
            backend.get("k")
    finally:
        agent.terminate()
        agent.wait()


def test_key_with_a_passphrase(server: SFTPServer, home: Path) -> None:
    path = home / "locked"
    shutil.copy(server.key_path, path)
    path.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "hidden phrase", "-f", path], check=True)
    options = {"key_path": path, "host_key": server.host_key}
    with (
        open_backend(_url(server), passphrase="hidden phrase", **options) as backend,
        pytest.raises(NotFoundError),
    ):
        backend.get("k")
    for wrong in ("", "hidden wrong"):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            open_backend(_url(server), passphrase=wrong, **options).get("k")
        assert "hidden" not in str(caught.value)


def test_refused_logins(server: SFTPServer, poor_server: SFTPServer, home: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "other"], check=True)
    with pytest.raises(PermissionDeniedError, match=f"user '{server.user}' with the key .*other was refused"):
        open_backend(_url(server), key_path=home / "other", host_key=server.host_key).get("k")
    with pytest.raises(PermissionDeniedError, match=r"the keys of the agent and of ~/\.ssh was refused"):
        open_backend(_url(server), host_key=server.host_key).get("k")
    url = f"sftp://{USER}:hidden-word@127.0.0.1:{poor_server.port}/x"
    backend = open_backend(url, host_key=poor_server.host_key)
    with pytest.raises(PermissionDeniedError, match="with a password was refused") as caught:
        backend.put("k", b"x")
    assert "hidden" not in f"{caught.value} {caught.value!r} {backend!r} {vars(backend)}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp:///x", "names no server"),
        ("sftp://host:port/x", "port"),
        ("sftp://host/x?region=eu", "not region"),
        ("sftp://user:hidden@host/x?key_path=/no/such/key", "key_path is no file"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_backend(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "root"),
    [("/a/b%20c/", "/a/b c"), ("/~/a/b", "a/b"), ("/~", ""), ("/", "/"), ("", "/"), ("/~x/a", "/~x/a")],
)
def test_paths(path: str, root: str) -> None:
    """Absolute, as Litestream has it, or below where the login leads."""
    backend = SFTPBackend.from_url(f"sftp://u:p@host:2022{path}")
    assert backend._place.root == root
    assert backend.url.startswith("sftp://u@host:2022/")


# Servers that can less.


def test_password_and_relative_folder(poor_server: SFTPServer) -> None:
    """Without links and with a rename that replaces there is no exclusive create: found out, and said."""
    for number, path in enumerate(("/~/deep/er", "/deep/er2")):
        url = f"sftp://{USER}:{PASSWORD}@127.0.0.1:{poor_server.port}{path}"
        with open_backend(url, host_key=poor_server.host_key) as backend:
            data = content(300_000)
            backend.put("a/b", data, timestamp_ms=1_700_000_000_123)
            backend.put("a/b", data, timestamp_ms=1_700_000_000_123)
            assert backend.get("a/b", 1000, 2000) == data[1000:2000]
            assert backend.head("a/b").timestamp_ms == 1_700_000_000_000
            assert [info.key for info in backend.list()] == ["a/b"]
            assert (poor_server.folder / "deep" / ("er2" if number else "er") / "a/b").read_bytes() == data
            outcome = _exclusive(backend)
            assert outcome == backend.capabilities.put_if_absent
            backend.delete(["a/b", "new"])
            assert list(backend.list()) == []


def _exclusive(backend: Backend) -> bool:
    try:
        backend.put("new", b"first", if_absent=True)
    except UnsupportedError:
        return False
    with pytest.raises(AlreadyExistsError):
        backend.put("new", b"second", if_absent=True)
    return backend.get("new") == b"first"


def test_latest_time(server: SFTPServer) -> None:
    backend = open_backend(_url(server), key_path=server.key_path, host_key=server.host_key)
    with backend, pytest.raises(ConfigError, match="2106"):
        backend.put("k", b"x", timestamp_ms=(1 << 32) * 1000)


# Failures.


def test_connection_that_is_lost(server: SFTPServer) -> None:
    """At worst one call is told that it went unanswered; then there is a new connection."""
    folder = server.folder / secrets.token_hex(4)
    with cable(server.port) as led:
        url = f"sftp://{server.user}@127.0.0.1:{led.port}{folder}"
        with open_backend(url, key_path=server.key_path, host_key=server.host_key) as backend:
            backend.put("k", b"x")
            for _ in range(3):
                led.cut()
                with suppress(UnavailableError):
                    backend.get("k")
                assert backend.get("k") == b"x"
            with ThreadPoolExecutor(1) as pool:
                writing = pool.submit(backend.put, "large", bytes(256 << 20))
                while not list(folder.glob(".tmp-*")):
                    time.sleep(0.01)
                led.cut()
                with pytest.raises(UnavailableError, match="does not answer") as caught:
                    writing.result()
            assert (caught.value.key, caught.value.reached) == ("large", True)
            assert [info.key for info in backend.list()] == ["k"]


def test_nobody_listens(server: SFTPServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"sftp://user:hidden@127.0.0.1:{taken.getsockname()[1]}/x"
        backend = open_backend(url, host_key=server.host_key)
        began = time.monotonic()
        calls: list[Callable[[], object]] = [
            lambda: backend.get("k"),
            lambda: backend.put("k", b"x"),
            lambda: list(backend.list()),
            lambda: backend.delete(["k"]),
        ]
        for call in calls:
            with pytest.raises(UnavailableError, match=r"sftp://user@127\.0\.0\.1") as caught:
                call()
            assert not caught.value.reached
        assert time.monotonic() - began < 5
    with pytest.raises(UnavailableError, match="nohost") as caught:
        open_backend("sftp://nohost.invalid/x", host_key=server.host_key).get("k")


def test_silent_server(server: SFTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_connection, "CONNECT_TIMEOUT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        backend = open_backend(f"sftp://127.0.0.1:{silent.getsockname()[1]}/x", host_key=server.host_key)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="no login within 1 s"):
            backend.get("k")
        assert time.monotonic() - began < 4


def test_not_allowed(server: SFTPServer) -> None:
    """Where no file can be made, the error says so and names the key."""
    url = _url(server, "/proc/self/x")  # root may not write there either
    with open_backend(url, key_path=server.key_path, host_key=server.host_key) as backend:
        with pytest.raises(BackendError) as caught:
            backend.put("k", b"x")
        assert caught.value.key == "k"
