"""The contract, once for every backend and every wrapper."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from backends.base import Backend
from backends.fsspec import FsspecBackend
from backends.local import LocalBackend
from backends.memory import MemoryBackend
from backends.obstore_s3 import ObstoreS3Backend
from backends.registry import open_backend
from backends.s3 import S3Backend
from backends.testing import BackendContract
from tests.servers.seaweedfs import S3Server


class TestLocal(BackendContract):
    schemes = ("file",)
    part_size = 1 << 20

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        with LocalBackend(tmp_path / "a root%41") as backend:
            yield backend

    def reopen(self, backend: Backend) -> Backend:
        return LocalBackend.from_url(backend.url)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        assert isinstance(backend, LocalBackend)
        return (backend.root / key).read_bytes()


class TestMemory(BackendContract):
    schemes = ("memory",)
    part_size = 1 << 20

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Iterator[Backend]:
        with MemoryBackend(request.node.nodeid) as backend:
            yield backend
            backend.delete([info.key for info in backend.list()])

    def reopen(self, backend: Backend) -> Backend:
        return MemoryBackend.from_url(backend.url)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        assert isinstance(backend, MemoryBackend)
        return backend._store.objects[key].data


class TestS3(BackendContract):
    schemes = ("s3",)
    secrets = ("testsecret1234567890",)
    kind: type[ObstoreS3Backend | S3Backend] = S3Backend

    @pytest.fixture
    def backend(self, s3_server: S3Server, s3_url: str) -> Iterator[Backend]:
        self.server = s3_server
        with self.kind.from_url(s3_url.replace("?", "/a root%2541?"), **s3_server.options) as backend:
            yield backend

    def reopen(self, backend: Backend) -> Backend:
        return self.kind.from_url(backend.url, **self.server.options)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        assert isinstance(backend, self.kind)
        name = backend.place.root + key
        body: bytes = self.server.client.get_object(Bucket=self.server.bucket, Key=name)["Body"].read()
        return body


class TestObstoreS3(TestS3):
    kind = ObstoreS3Backend


class TestFsspecThatRenames(BackendContract):
    """`local` is fsspec's other name for files; ours serves `file` only."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        self.root = tmp_path / "root"
        with open_backend(f"local://{self.root}") as backend:
            assert isinstance(backend, FsspecBackend)
            yield backend

    def reopen(self, backend: Backend) -> Backend:
        return open_backend(backend.url)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        return (self.root / key).read_bytes()


class TestFsspecThatDoesNotRename(BackendContract):
    secrets = ("pass-word",)

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        self.root = f"/{token_hex(6)}"
        with FsspecBackend(f"memory:/{self.root}", {"token": "pass-word"}) as backend:
            yield backend
        for path in [path for path in MemoryFileSystem.store if path.startswith(f"{self.root}/")]:
            del MemoryFileSystem.store[path]

    def reopen(self, backend: Backend) -> Backend:
        return FsspecBackend(backend.url)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        data: bytes = MemoryFileSystem.store[f"{self.root}/{key}"].getvalue()
        return data
