"""A replica, and a place for the helper processes of the extension."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import helpers
from tests.test_vfs.origin import Origin, origin


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path, f"file://{tmp_path}/replica") as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, body)",
            "INSERT INTO t SELECT value, hex(randomblob(200)) FROM generate_series(1, 3000)",
        )
        yield made


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    """Where helper processes have their sockets; none is left behind."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    yield folder
    for each in helpers(folder):
        os.kill(each, signal.SIGTERM)
