"""Where an SFTP URL leads, and sshfs's file system connected there, with the server's key checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncssh
from fsspec.asyn import FSTimeoutError, sync
from sshfs import SSHFileSystem

from backends.errors import BackendError, ConfigError, PermissionDeniedError, UnavailableError

__all__ = ["SFTPPlace", "close", "connect"]

CONNECT_TIMEOUT_S = 12
"""For finding the host, connecting, and logging in."""

_KEEP_ALIVE_S = 15
"""A connection that is silent for three times as long is lost."""

_OPTIONS = ("username", "password", "key_path", "passphrase", "host_key", "known_hosts")


@dataclass(frozen=True, slots=True)
class SFTPPlace:
    """A folder on a server, and who asks.

    Attributes:
        host: Name or address.
        port: None for 22, or what `~/.ssh/config` says.
        root: The folder: absolute, or relative to where the login leads; no slash at its end.
        username: "" for the local user's, or what `~/.ssh/config` says.
        password: The secret.
        key_path: File of a private key; "" for the agent's and those in `~/.ssh`.
        passphrase: Of that file.
        host_key: The server's public keys, one a line; "" to look them up.
        known_hosts: Where to look them up; "" for `~/.ssh/known_hosts`.
    """

    host: str
    port: int | None
    root: str
    username: str = ""
    password: str = field(default="", repr=False)
    key_path: str = ""
    passphrase: str = field(default="", repr=False)
    host_key: str = ""
    known_hosts: str = ""

    @property
    def url(self) -> str:
        """Where it is, without a secret."""
        user = f"{self.username}@" if self.username else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        path = self.root if self.root.startswith("/") else f"/~/{self.root}".rstrip("/")
        return f"sftp://{user}{host}{f':{self.port}' if self.port else ''}{path}"

    @classmethod
    def parse(cls, url: str, options: Mapping[str, object]) -> Self:
        """Read `sftp://[user[:password]@]host[:port]/absolute/folder`, or `/~/folder` below where the login leads.

        Options, also in the query: `username`, `password`, `key_path`, `passphrase`, `host_key`, `known_hosts`.
        Environment: LITESTREAM_SFTP_PASSWORD, LITESTREAM_SFTP_KEY_PATH.

        Raises:
            ConfigError: The URL or an option is wrong.
        """
        parts = urlsplit(url)
        given = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
        given = {name.replace("-", "_"): value for name, value in given.items() if value is not None}
        if unknown := sorted(set(given) - set(_OPTIONS)):
            raise ConfigError(f"sftp:// takes {', '.join(_OPTIONS)}, not {', '.join(unknown)}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"the port in an sftp:// URL is wrong: {error}") from error
        if not host:
            raise ConfigError("the URL names no server: write sftp://user@host/absolute/folder")
        values = {
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or "") or os.environ.get("LITESTREAM_SFTP_PASSWORD", ""),
            "key_path": os.environ.get("LITESTREAM_SFTP_KEY_PATH", ""),
        }
        values |= {name: os.fspath(value) for name, value in given.items()}  # type: ignore[call-overload]
        for name in ("key_path", "known_hosts"):
            if (path := values.get(name)) and not os.path.isfile(os.path.expanduser(path)):
                raise ConfigError(f"sftp://{host}: {name} is no file: {path}")
        folder = unquote(parts.path)
        if folder == "/~" or folder.startswith("/~/"):
            root = folder[2:].strip("/")
        else:
            root = "/" + folder.strip("/")
        return cls(host, port, root.rstrip("/") if root != "/" else root, **values)


def connect(place: SFTPPlace) -> SSHFileSystem:
    """Connect and log in.

    Raises:
        PermissionDeniedError: The server's key is not the known one, or the login was refused.
        UnavailableError: There was no connection in time.
        ConfigError: A key cannot be read.
    """
    offered: list[asyncssh.SSHKey] = []

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, *about: Any, **_: Any) -> bool:
            """Refuse, but remember what there was to accept."""
            offered.append(about[-1])
            return False

    try:
        settings = _settings(place)
        return SSHFileSystem(
            place.host, timeout=CONNECT_TIMEOUT_S, client_factory=Client, skip_instance_cache=True, **settings
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise _unknown_key(place, offered, error) from error
    except (asyncssh.PermissionDenied, PermissionError) as error:
        raise PermissionDeniedError(f"{place.url}: {_tried(place)} was refused: {error}") from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, asyncssh.ConfigParseError) as error:
        raise ConfigError(f"{place.url}: a key or a configuration cannot be read: {error}") from error
    except (FSTimeoutError, TimeoutError) as error:
        reason = f"no login within {CONNECT_TIMEOUT_S} s"
        raise UnavailableError(f"{place.url} does not answer: {reason}", reached=False) from error
    except asyncssh.ProtocolNotSupported as error:
        raise BackendError(f"{place.url}: no SFTP is served there: {error}") from error
    except (asyncssh.Error, OSError) as error:
        raise UnavailableError(f"{place.url} does not answer: {error}", reached=False) from error


def close(filesystem: SSHFileSystem) -> None:
    """Close its connection."""

    async def end() -> None:
        await filesystem._pool.close()
        await filesystem._stack.aclose()

    try:
        sync(filesystem.loop, end, timeout=5)
    except (asyncssh.Error, FSTimeoutError, OSError):
        return  # it is gone already


def _settings(place: SFTPPlace) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "login_timeout": CONNECT_TIMEOUT_S,
        "keepalive_interval": _KEEP_ALIVE_S,
        "known_hosts": (),
    }
    if place.port:
        settings["port"] = place.port
    if place.username:
        settings["username"] = place.username
    if place.host_key:
        keys = [asyncssh.import_public_key(line) for line in place.host_key.splitlines() if line.strip()]
        settings["known_hosts"] = (keys, [], [])
        settings["server_host_key_algs"] = "default"
    elif place.known_hosts:
        settings["known_hosts"] = os.path.expanduser(place.known_hosts)
    if place.password:
        settings["password"] = place.password
    if place.key_path:
        path = os.path.expanduser(place.key_path)
        settings["client_keys"] = [asyncssh.read_private_key(path, place.passphrase or None)]
        settings["agent_path"] = None
    elif place.password:  # else every key of the agent is tried first, and many servers hang up after six
        settings["client_keys"] = settings["agent_path"] = None
    return settings


def _unknown_key(place: SFTPPlace, offered: list[asyncssh.SSHKey], error: Exception) -> PermissionDeniedError:
    if not offered:
        return PermissionDeniedError(f"{place.url}: the server's key was not accepted: {error}")
    key = offered[-1]
    text = key.export_public_key().decode().strip().rpartition(" ")[0] if key.has_comment() else None
    text = text or " ".join(key.export_public_key().decode().split()[:2])
    name = f"[{place.host}]:{place.port}" if place.port not in (None, 22) else place.host
    file = place.known_hosts or "~/.ssh/known_hosts"
    how = f"add the line '{name} {text}' to {file}, or set host_key to '{text}'"
    if place.host_key or _is_known(place, name):
        return PermissionDeniedError(
            f"{place.url}: the server has another key than the known one: {key.get_fingerprint()}. Somebody may be "
            f"listening in between. Only if you know that the server was set up anew, {how}"
        )
    return PermissionDeniedError(
        f"{place.url}: the server's key is not known: {key.get_fingerprint()}. If that is its fingerprint, {how}"
    )


def _is_known(place: SFTPPlace, name: str) -> bool:
    try:
        with open(os.path.expanduser(place.known_hosts or "~/.ssh/known_hosts"), encoding="utf-8") as file:
            return any(name in line.partition(" ")[0].split(",") for line in file)
    except OSError:
        return False


def _tried(place: SFTPPlace) -> str:
    user = f"user {place.username!r}" if place.username else "the local user's name"
    ways = [f"the key {place.key_path}"] if place.key_path else []
    ways += ["a password"] if place.password else []
    return f"{user} with {' and '.join(ways) or 'the keys of the agent and of ~/.ssh'}"
