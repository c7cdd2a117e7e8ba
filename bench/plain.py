"""The client libraries by themselves, each used as its own documentation says: what our backends are measured beside."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from backends.base import PARALLEL_READS
from tests.servers.storages import Storage

__all__ = ["PATH", "Plain", "plain_client", "plain_obstore"]

PATH = "bench"
"""Where on the storage all of them work."""


class Plain(ABC):
    """One library on one server."""

    name: str

    @abstractmethod
    def read(self, key: str, start: int, end: int) -> bytes:
        """Read a range."""

    @abstractmethod
    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Read ranges, at once where the library can."""

    @abstractmethod
    def upload(self, source: Path, key: str) -> None:
        """Write an object from a file."""

    @abstractmethod
    def download(self, key: str) -> bytes:
        """Read an object whole."""


def plain_client(kind: str, storage: Storage) -> Plain:
    """Connect the library of a kind of storage, by the settings that the real Litestream would get."""
    assert storage.peer
    settings: Mapping[str, Any] = storage.peer(PATH)
    return _CLIENTS[kind](settings, storage.peer_environment)


def plain_obstore(kind: str, storage: Storage) -> Plain:
    """Connect obstore to a kind of storage, by the same settings."""
    assert storage.peer
    return _Obstore(kind, storage.peer(PATH), storage.peer_environment)


class _Obstore(Plain):
    """Its uploads in Google's protocol for users of S3 are unknown to the emulator: there gcsfs uploads for it."""

    name = "obstore"

    def __init__(self, kind: str, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        from obstore.store import AzureStore, GCSStore, S3Store

        self.root = settings["path"]
        self.uploader: Plain | None = None
        options: Any = {"client_options": {"allow_http": True}}
        self.store: Any
        if kind == "s3":
            self.store = S3Store(
                settings["bucket"],
                endpoint=settings["endpoint"],
                region=settings["region"],
                access_key_id=settings["access-key-id"],
                secret_access_key=settings["secret-access-key"],
                **options,
            )
        elif kind == "azure":
            self.store = AzureStore(
                settings["bucket"],
                account_name=settings["account-name"],
                account_key=settings["account-key"],
                endpoint=settings["endpoint"],
                **options,
            )
        else:
            endpoint = environment["STORAGE_EMULATOR_HOST"]
            self.store = GCSStore(settings["bucket"], base_url=endpoint, skip_signature=True, **options)
            self.uploader = _GCS(settings, environment)

    def read(self, key: str, start: int, end: int) -> bytes:
        import obstore

        return bytes(obstore.get_range(self.store, f"{self.root}/{key}", start=start, end=end))

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Read them one by one in parallel: joining near ones is a saving of its own, which `vfs` does for us."""
        import obstore

        starts, ends = zip(*ranges, strict=True)
        found = obstore.get_ranges(
            self.store, f"{self.root}/{key}", starts=[*starts], ends=[*ends], coalesce=0
        )
        return [bytes(each) for each in found]

    def upload(self, source: Path, key: str) -> None:
        import obstore

        if self.uploader is not None:
            self.uploader.upload(source, key)
        else:
            obstore.put(self.store, f"{self.root}/{key}", source)

    def download(self, key: str) -> bytes:
        import obstore

        return bytes(obstore.get(self.store, f"{self.root}/{key}").bytes())


class _Fsspec(Plain):
    """A library that is one of fsspec's asynchronous file systems."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem, self.root = filesystem, root

    def read(self, key: str, start: int, end: int) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{self.root}/{key}", start=start, end=end)
        return data

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        starts, ends = zip(*ranges, strict=True)
        paths = [f"{self.root}/{key}"] * len(ranges)
        found: Sequence[bytes] = self.filesystem.cat_ranges(paths, [*starts], [*ends], on_error="raise")
        return found

    def upload(self, source: Path, key: str) -> None:
        self.filesystem.put_file(str(source), f"{self.root}/{key}")

    def download(self, key: str) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{self.root}/{key}")
        return data


class _S3(_Fsspec):
    name = "s3fs"

    def __init__(self, settings: Mapping[str, Any], _: Mapping[str, str]) -> None:
        from s3fs import S3FileSystem

        filesystem = S3FileSystem(
            key=settings["access-key-id"],
            secret=settings["secret-access-key"],
            endpoint_url=settings["endpoint"],
            client_kwargs={"region_name": settings["region"]},
            use_listings_cache=False,
        )
        super().__init__(filesystem, f"{settings['bucket']}/{settings['path']}")


class _GCS(_Fsspec):
    name = "gcsfs"

    def __init__(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        from gcsfs.core import GCSFileSystem  # the default class asks an emulator for a minute what it is

        endpoint = environment["STORAGE_EMULATOR_HOST"]
        filesystem = GCSFileSystem(project="p", token="anon", endpoint_url=endpoint, use_listings_cache=False)
        super().__init__(filesystem, f"{settings['bucket']}/{settings['path']}")


class _Azure(_Fsspec):
    name = "adlfs"

    def __init__(self, settings: Mapping[str, Any], _: Mapping[str, str]) -> None:
        from adlfs import AzureBlobFileSystem

        login = f"AccountName={settings['account-name']};AccountKey={settings['account-key']}"
        connection = f"DefaultEndpointsProtocol=http;{login};BlobEndpoint={settings['endpoint']};"
        filesystem = AzureBlobFileSystem(connection_string=connection, use_listings_cache=False)
        super().__init__(filesystem, f"{settings['bucket']}/{settings['path']}")


class _SFTP(_Fsspec):
    """Its `cat_file` takes no range and its `cat_ranges` gives wrong bytes, so ranges are read from an open file."""

    name = "sshfs"

    def __init__(self, settings: Mapping[str, Any], _: Mapping[str, str]) -> None:
        from sshfs import SSHFileSystem

        host, _, port = settings["host"].partition(":")
        with tempfile.NamedTemporaryFile("w", prefix="known_hosts") as known_hosts:
            known_hosts.write(f"[{host}]:{port} {settings['host-key']}\n")
            known_hosts.flush()
            filesystem = SSHFileSystem(
                host,
                port=int(port),
                username=settings["user"],
                client_keys=[settings["key-path"]],
                known_hosts=known_hosts.name,
            )
        super().__init__(filesystem, settings["path"])
        filesystem.makedirs(self.root, exist_ok=True)

    def read(self, key: str, start: int, end: int) -> bytes:
        return self.read_many(key, [(start, end)])[0]

    def upload(self, source: Path, key: str) -> None:
        """Write it and have it synced, as ours is: else the disk would be waited for on one side only."""
        super().upload(source, key)
        with self.filesystem.open(f"{self.root}/{key}", "r+b") as file:
            file.fsync()

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        found = []
        with self.filesystem.open(f"{self.root}/{key}", "rb") as file:
            for start, end in ranges:
                file.seek(start)
                found.append(file.read(end - start))
        return found


class _WebDAV(Plain):
    """It has neither ranges nor threads of its own: a header and a pool, as many threads as ours."""

    name = "webdavclient3"

    def __init__(self, settings: Mapping[str, Any], _: Mapping[str, str]) -> None:
        from webdav3.client import Client

        self.client = Client(
            {
                "webdav_hostname": settings["webdav-url"],
                "webdav_login": settings["webdav-username"],
                "webdav_password": settings["webdav-password"],
                "webdav_disable_check": True,
            }
        )
        self.root = settings["path"]
        for above in (self.root.rpartition("/")[0], self.root):
            self.client.execute_request("mkdir", f"{above}/")
        self.pool = ThreadPoolExecutor(PARALLEL_READS)

    def read(self, key: str, start: int, end: int) -> bytes:
        return self._get(key, [f"Range: bytes={start}-{end - 1}"])

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return [*self.pool.map(lambda span: self.read(key, *span), ranges)]

    def upload(self, source: Path, key: str) -> None:
        with open(source, "rb") as file:
            self.client.execute_request("upload", f"{self.root}/{key}", data=file)

    def download(self, key: str) -> bytes:
        return self._get(key, [])

    def _get(self, key: str, headers: list[str]) -> bytes:
        answer = self.client.execute_request("download", f"{self.root}/{key}", headers_ext=headers)
        data: bytes = answer.content
        return data


_CLIENTS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], Plain]] = {
    "s3": _S3,
    "webdav": _WebDAV,
    "gcs": _GCS,
    "azure": _Azure,
    "sftp": _SFTP,
}
