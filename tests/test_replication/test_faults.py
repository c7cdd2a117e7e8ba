"""A storage and a disk that fail at random moments: everything arrives, once, in order."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from backends import UnavailableError
from ltx import Replica
from ltx.replication import line as line_module
from ltx.replication.database import Database, Settings
from ltx.sqlite import sync_folder
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import restored


@pytest.fixture
def choice() -> Random:
    seed = time.time_ns() % 1_000_000
    print(f"seed: {seed}")
    return Random(seed)


def test_a_storage_that_fails_before_and_after_doing_what_it_was_asked(
    tmp_path: Path, choice: Random
) -> None:
    path, url = make(tmp_path / "a.db"), str(tmp_path / "replica")
    with Replica.open(url) as replica:
        backend = replica.backend.backend  # type: ignore[attr-defined]  # below the one that tries again
        replica.backend.retry = type(replica.backend.retry)(tries=1)  # type: ignore[attr-defined]

        def failing(method: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                moment = choice.random()
                if moment < 0.2:
                    raise UnavailableError("no answer, not done")
                found = method(*args, **kwargs)
                if moment > 0.8:
                    raise UnavailableError("no answer, done")
                return found

            return call

        for name in ("put", "get", "list"):
            setattr(backend, name, failing(getattr(backend, name)))
        database = Database(path, [replica], Settings())
        for _ in range(80):
            with connected(path) as db:
                fill(db, 2)
            try:
                database.sync()
            except UnavailableError:
                continue  # nothing is known of the replica yet
            database.uploaders[0].push()
        for _ in range(200):
            if database.uploaders[0].push():
                break
        assert database.uploaders[0].is_current
        assert database.compared == 1
        database.close()
    assert restored(url, tmp_path / "out.db") == image(path)
    with Replica.open(url) as replica:
        assert [file.max_txid for file in replica.files()] == list(range(1, database.line.txid + 1))
        assert replica.verify().is_sound


def test_a_disk_that_is_full_now_and_then(
    tmp_path: Path, choice: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that makes something durable may fail; what was true before stays true."""
    path, url = make(tmp_path / "a.db"), str(tmp_path / "replica")

    def failing(method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if choice.random() < 0.2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return method(*args, **kwargs)

        return call

    class Failing:
        """The module `os` as the line sees it."""

        def __getattr__(self, name: str) -> object:
            found = getattr(os, name)
            return failing(found) if name in ("fsync", "replace") else found

    failures = 0
    with Replica.open(url) as replica:
        database = Database(path, [replica], Settings())
        with monkeypatch.context() as patch:
            patch.setattr(line_module, "os", Failing())
            patch.setattr(line_module, "sync_folder", failing(sync_folder))
            for _ in range(80):
                with connected(path) as db:
                    fill(db, 2)
                try:
                    database.sync()
                except OSError as error:
                    failures += error.errno == errno.ENOSPC
                database.uploaders[0].push()
        database.sync()
        assert database.uploaders[0].push()
        assert failures > 10
        database.close()
        assert restored(url, tmp_path / "out.db") == image(path)
        assert replica.verify().is_sound
    assert not [
        name for _, _, names in os.walk(tmp_path / ".a.db-litestream") for name in names if "tmp" in name
    ]
