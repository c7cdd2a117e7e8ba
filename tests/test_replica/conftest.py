"""A replica in memory."""

from collections.abc import Iterator

import pytest

from backends.memory import MemoryBackend
from ltx import Replica


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[MemoryBackend]:
    """An empty storage of this test's own."""
    with MemoryBackend(request.node.nodeid) as backend:
        yield backend
        backend.delete([info.key for info in backend.list()])


@pytest.fixture
def replica(backend: MemoryBackend) -> Replica:
    """The replica on it."""
    return Replica(backend)
