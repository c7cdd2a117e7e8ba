"""While four processes write, checkpoint in all modes and VACUUM, the replica is the database, page by page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import apsw
import pytest

from ltx import Replica
from ltx.replication.checkpoint import Limits
from ltx.replication.database import Database, Settings
from tests.support.databases import connected
from tests.support.replicating import differing
from tests.support.writers import check_promise, prepare, writing

SECONDS, LONGEST_S = 5, 60
ENOUGH = 10
WRITERS = 4


@contextmanager
def replicated(path: Path, *urls: str, settings: Settings | None = None) -> Iterator[Database]:
    """Replicate a database in this process, by hand."""
    replicas = [Replica.open(url) for url in urls]
    database = Database(path, replicas, settings or Settings(limits=Limits(min_pages=60, interval_s=0.5)))
    try:
        yield database
    finally:
        database.close()
        for replica in replicas:
            replica.close()


@contextmanager
def barred(path: Path) -> Iterator[apsw.Connection | None]:
    """Keep writers out; yield None where one of them is not to be moved soon."""
    with connected(path, busy_ms=20) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            yield None
        else:
            yield db


@pytest.mark.parametrize("page_size", [512, 4096])
def test_every_sealed_point_can_be_restored(page_size: int, tmp_path: Path) -> None:
    path, url, output = tmp_path / "a.db", str(tmp_path / "replica"), tmp_path / "out.db"
    prepare(path, mode="wal", page_size=page_size)
    seed = time.time_ns() % 1_000_000
    print(f"seed: {seed}")
    sealed: dict[int, bytes] = {}
    with replicated(path, url) as database, writing(path, processes=WRITERS, seed=seed):
        began, syncs = time.monotonic(), 0
        while (took := time.monotonic() - began) < SECONDS or (len(sealed) <= ENOUGH and took < LONGEST_S):
            syncs += 1
            database.sync()
            if syncs % 15 == 0:
                with barred(path) as db:
                    if db:
                        database.sync()
                        sealed[database.line.txid] = db.serialize("main")
            if syncs % 9 == 0:
                assert database.uploaders[0].push()
            time.sleep(0.002)
        assert database.uploaders[0].push()
        status = database.status
        with Replica.open(url) as replica:
            last = max(sealed)
            chosen = {last, *Random(seed).sample(sorted(sealed), min(20, len(sealed)))}
            for txid in sorted(chosen):
                replica.restore(output, txid=txid, force=True)
                assert differing(output.read_bytes(), sealed[txid], page_size) == [], txid
                check_promise(output)
            assert replica.verify().is_sound
            assert len(replica.files()) == status.txid
    print(f"{status.txid} TXIDs, {len(sealed)} sealed, {status}")
    assert status.compared == 1  # all the rest came from the WAL
    assert len(sealed) > ENOUGH
    assert status.longest_barrier_s < 0.1
    with connected(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert not [row for row in db.execute("SELECT name FROM sqlite_schema") if "litestream" in str(row)]
