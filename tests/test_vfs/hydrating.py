"""Connections that hydrate, for the tests of it."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

import vfs
from tests.test_vfs.origin import Origin, rows
from tests.test_vfs.storages import Hooks, Request, hooked

__all__ = ["ALL", "Told", "hydrated", "progress", "status", "until", "wait_until_complete"]

ALL = "SELECT id, b FROM t ORDER BY id"
_sizes = itertools.count(1 << 20)


@dataclass(frozen=True)
class Told:
    """What `PRAGMA litestream_hydration_status` says."""

    state: str
    bytes: int = 0
    bytes_of_all: int = 0
    requests: int = 0
    bytes_fetched: int = 0
    error: str | None = None


def status(db: apsw.Connection) -> Told:
    """Return what is told of the hydration of a connection's replica."""
    return Told(**json.loads(str(rows(db, "PRAGMA litestream_hydration_status")[0][0])))


def progress(db: apsw.Connection) -> str:
    """Return the percent of the hydration, as text."""
    return str(rows(db, "PRAGMA litestream_hydration_progress")[0][0])


def until(reached: Callable[[], bool], what: str = "it does not come") -> None:
    """Wait for something."""
    deadline = time.monotonic() + 40
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def wait_until_complete(db: apsw.Connection) -> None:
    """Wait until all of the database is on the disk."""
    until(lambda: status(db).state == "complete")


def _slowly(request: Request) -> None:
    """Leave a test the time to say what is to happen while the database is fetched."""
    if (request.end or 0) - request.start > 1 << 20:
        time.sleep(0.1)


def hydrated(
    source: Origin, folder: Path | None = None, *, poll_interval: float = 3600, **options: object
) -> tuple[apsw.Connection, Hooks]:
    """Return a connection that hydrates and keeps few pages in memory, and the hooks of its storage."""
    url, hooks = hooked(source.url)
    hooks.clear()
    hooks.before = _slowly
    hooks.log.clear()
    options.setdefault("cache_size", next(_sizes))
    db = vfs.connect(url, poll_interval=poll_interval, hydrate=True, cache_dir=folder, **options)  # type: ignore[arg-type]
    db.execute("PRAGMA cache_size = 1")
    return db, hooks
