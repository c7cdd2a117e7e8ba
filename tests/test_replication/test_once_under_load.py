"""While four processes write, each run publishes one committed state, and in the end the replica is the source."""

import time
from pathlib import Path

import pytest

from ltx import replicate_once
from tests.support.databases import connected, scalar, sealed
from tests.support.replicas import Case
from tests.support.writers import check_promise, prepare, writing

SECONDS = 3


@pytest.mark.parametrize(("mode", "page_size"), [("wal", 1024), ("delete", 4096)])
def test_any_txid_is_one_committed_state(mode: str, page_size: int, tmp_path: Path) -> None:
    case = Case(tmp_path)
    prepare(case.database, mode=mode, page_size=page_size)
    replica = case.replica()
    counters: list[int] = []
    seed = time.time_ns() % 1_000_000
    print(f"writers' seed: {seed}")
    with writing(case.database, processes=4, seed=seed):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or (len(counters) < 8 and time.monotonic() < end + 20):
            with connected(case.database, busy_ms=20_000) as db:
                before = scalar(db, "SELECT n FROM counter")
            assert isinstance(before, int)
            if replicate_once(case.database, replica):
                counters.append(before)
    replicate_once(case.database, replica)
    files = replica.files(level=0)
    assert [file.max_txid for file in files] == list(range(1, len(files) + 1))
    assert len(files) >= len(counters) > 5
    found = []
    for txid, before in list(enumerate(counters, 1))[:: len(counters) // 12 or 1]:
        (tmp_path / "at.db").write_bytes(case.restored(txid))
        found.append(check_promise(tmp_path / "at.db"))
        assert found[-1] >= before
    assert found == sorted(found)
    assert found[-1] > 20
    print(f"{len(counters)} TXIDs, {found[-1]} transactions")
    assert case.restored() == sealed(case.database)
