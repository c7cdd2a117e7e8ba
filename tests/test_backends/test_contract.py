"""The contract, once for every backend and every wrapper."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Backend
from backends.local import LocalBackend
from backends.memory import MemoryBackend
from backends.testing import BackendContract


class TestLocal(BackendContract):
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
