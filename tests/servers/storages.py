"""Every kind of storage as its users have it: a server, URLs, what they set for it, and Litestream's own settings."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryDirectory

from tests.servers.azure import azurite
from tests.servers.daemon import PASSWORD, USER
from tests.servers.ftp import ftp
from tests.servers.gcs import fake_gcs
from tests.servers.seaweedfs import seaweedfs
from tests.servers.sftp import sshd
from tests.servers.webdav import apache, nginx

__all__ = ["SCHEMES", "STORAGES", "Storage"]


@dataclass(frozen=True)
class Storage:
    """One storage, ready for use.

    Attributes:
        urls: The URL of a path on it, by each scheme that leads there.
        environment: What our commands need in their environment.
        options: What our commands need besides, `--storage-option` included.
        peer: Litestream's settings of a replica at a path; None where it cannot go there.
        peer_environment: What Litestream needs in its environment.
    """

    urls: Mapping[str, Callable[[str], str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    peer: Callable[[str], Mapping[str, object]] | None = None
    peer_environment: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def _folder() -> Iterator[Storage]:
    with TemporaryDirectory(prefix="ltx-folder-") as folder:
        yield Storage(
            {"file": lambda path: f"file://{folder}/{path}"},
            peer=lambda path: {"path": f"{folder}/{path}"},
        )


@contextlib.contextmanager
def _memory() -> Iterator[Storage]:
    name = secrets.token_hex(6)
    yield Storage({"memory": lambda path: f"memory://{name}/{path}"})


@contextlib.contextmanager
def _s3() -> Iterator[Storage]:
    with seaweedfs() as server:
        login = server.environment
        settings = {"type": "s3", "bucket": server.bucket, "endpoint": server.endpoint, "region": "us-east-1"}
        keys = {
            "access-key-id": login["AWS_ACCESS_KEY_ID"],
            "secret-access-key": login["AWS_SECRET_ACCESS_KEY"],
        }
        yield Storage(
            {"s3": server.url},
            login,
            peer=lambda path: {**settings, **keys, "force-path-style": True, "path": path},
        )


@contextlib.contextmanager
def _webdav() -> Iterator[Storage]:
    """Apache, basic authentication, the login in the environment."""
    with apache("basic") as server:
        yield Storage(
            {"webdav": lambda path: f"webdav://127.0.0.1:{server.port}/backups/{path}"},
            {"LITESTREAM_WEBDAV_USERNAME": USER, "LITESTREAM_WEBDAV_PASSWORD": PASSWORD},
            peer=partial(_webdav_settings, f"http://127.0.0.1:{server.port}"),
        )


@contextlib.contextmanager
def _webdav_digest() -> Iterator[Storage]:
    """Apache, digest authentication, the login in the URL."""
    with apache("digest") as server:
        yield Storage(
            {"webdav": lambda path: f"{server.url}/backups/{path}"},
            peer=partial(_webdav_settings, f"http://127.0.0.1:{server.port}"),
        )


@contextlib.contextmanager
def _webdavs() -> Iterator[Storage]:
    """Nginx with TLS and a certificate of its own making."""
    with nginx(tls=True) as server:
        certificate = str(server.root.parent / "certificate.pem")
        yield Storage(
            {"webdavs": lambda path: f"webdavs://127.0.0.1:{server.port}/backups/{path}"},
            {"LITESTREAM_WEBDAV_USERNAME": USER, "LITESTREAM_WEBDAV_PASSWORD": PASSWORD},
            ["--storage-option", f"verify={certificate}"],
            partial(_webdav_settings, f"https://127.0.0.1:{server.port}"),
            {"SSL_CERT_FILE": certificate},
        )


def _webdav_settings(url: str, path: str) -> Mapping[str, object]:
    login = {"webdav-username": USER, "webdav-password": PASSWORD}
    return {"type": "webdav", "webdav-url": url, **login, "path": f"/backups/{path}"}


@contextlib.contextmanager
def _gcs() -> Iterator[Storage]:
    with fake_gcs("bkt") as endpoint:
        yield Storage(
            {
                "gs": lambda path: f"gs://bkt/in/{path}",
                "gcs": lambda path: f"gcs://bkt/in/{path}?endpoint={endpoint}",
            },
            {"STORAGE_EMULATOR_HOST": endpoint},
            peer=lambda path: {"type": "gs", "bucket": "bkt", "path": f"in/{path}"},
            peer_environment={"STORAGE_EMULATOR_HOST": endpoint},
        )


@contextlib.contextmanager
def _azure() -> Iterator[Storage]:
    with azurite("box") as server:
        where = f"{server.account}@box/in"
        settings = {
            "type": "abs",
            "bucket": "box",
            "account-name": server.account,
            "endpoint": server.endpoint,
        }

        def url(scheme: str, path: str) -> str:
            return f"{scheme}://{where}/{path}?endpoint={server.endpoint}"

        yield Storage(
            {scheme: partial(url, scheme) for scheme in ("abs", "az", "abfs")},
            {"LITESTREAM_AZURE_ACCOUNT_KEY": server.key},
            peer=lambda path: {**settings, "account-key": server.key, "path": f"in/{path}"},
        )


@contextlib.contextmanager
def _sftp() -> Iterator[Storage]:
    """OpenSSH: the user's key in the environment, the server's in a file of known hosts."""
    with sshd() as server:
        known_hosts = server.folder.parent / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
        where = f"127.0.0.1:{server.port}"
        login = {"user": server.user, "key-path": server.key_path, "host-key": server.host_key}
        yield Storage(
            {"sftp": lambda path: f"sftp://{server.user}@{where}{server.folder}/{path}"},
            {"LITESTREAM_SFTP_KEY_PATH": server.key_path},
            ["--storage-option", f"known_hosts={known_hosts}"],
            lambda path: {"type": "sftp", "host": where, "path": f"{server.folder}/{path}", **login},
        )


@contextlib.contextmanager
def _fsspec() -> Iterator[Storage]:
    """FTP, which only fsspec speaks; Litestream gets at the server's folder itself."""
    with ftp() as (url, folder):
        yield Storage(
            {"ftp": lambda path: f"{url}/{path}"},
            peer=lambda path: {"path": f"{folder}/{path}"},
        )


STORAGES: Mapping[str, Callable[[], AbstractContextManager[Storage]]] = {
    "folder": _folder,
    "memory": _memory,
    "s3": _s3,
    "webdav": _webdav,
    "webdav-digest": _webdav_digest,
    "webdavs": _webdavs,
    "gcs": _gcs,
    "azure": _azure,
    "sftp": _sftp,
    "fsspec": _fsspec,
}
"""What starts each of them."""

SCHEMES: Mapping[str, frozenset[str]] = {
    "folder": frozenset({"file"}),
    "memory": frozenset({"memory"}),
    "s3": frozenset({"s3"}),
    "webdav": frozenset({"webdav"}),
    "webdav-digest": frozenset({"webdav"}),
    "webdavs": frozenset({"webdavs"}),
    "gcs": frozenset({"gs", "gcs"}),
    "azure": frozenset({"abs", "az", "abfs"}),
    "sftp": frozenset({"sftp"}),
    "fsspec": frozenset({"ftp"}),
}
"""The schemes that lead to each of them."""
