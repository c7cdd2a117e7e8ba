"""Hydration is asked for by the words of each way in."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from tests.test_vfs.origin import Origin, origin
from vfs import dbapi

STATUS = "PRAGMA litestream_hydration_status"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path) as made:
        made.commit("CREATE TABLE t AS SELECT value AS n FROM generate_series(1, 1000)")
        yield made


def wait_until_complete(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while json.loads(str(ask()))["state"] != "complete":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pep_249(source: Origin, tmp_path: Path) -> None:
    path = tmp_path / "pages"
    with closing(dbapi.connect(source.url, hydrate=True, hydration_path=path)) as db:
        wait_until_complete(lambda: db.execute(STATUS).fetchall()[0][0])
        assert db.execute("PRAGMA litestream_hydration_file").fetchall() == [(str(path),)]


def test_sqlalchemy(source: Origin, tmp_path: Path) -> None:
    path = str(tmp_path / "pages")
    query = {"replica_url": source.url, "hydrate": "true", "hydration_path": path}
    engine = sa.create_engine(sa.URL.create("sqlite+litestream", query=query))
    with engine.connect() as db:
        wait_until_complete(lambda: db.scalar(sa.text(STATUS)))
        assert db.scalar(sa.text("PRAGMA litestream_hydration_file")) == path
    engine.dispose()
    with pytest.raises(ArgumentError, match="hydrate must be true or false, not 'yes please'"):
        sa.create_engine(sa.URL.create("sqlite+litestream", query={**query, "hydrate": "yes please"}))
