"""Databases over 1 GiB, across the page that no file has: whichever way they are read, each page is the right one."""

from collections.abc import Iterable, Iterator
from itertools import count

import pytest

from ltx import TXID
from ltx.format import Encoder, Header, file_name
from tests.support.ltxfiles import lock_page
from vfs.file import ReplicaFile
from vfs.source import open_source

PAGE_SIZE = 65536
LOCK = lock_page(PAGE_SIZE)
COMMIT = LOCK + 300
_sizes = count(40 << 20)


def page(pgno: int) -> bytes:
    """Return what looks like a leaf of a table; the page that is left out is read as zeros."""
    return bytes(PAGE_SIZE) if pgno == LOCK else (b"\x0d" + pgno.to_bytes(4, "big")).ljust(PAGE_SIZE, b"\0")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("over-a-gigabyte")
    header = Header(page_size=PAGE_SIZE, commit=COMMIT, min_txid=TXID(1), max_txid=TXID(1), timestamp_ms=1)
    level = folder / "ltx" / "9"
    level.mkdir(parents=True)
    with open(level / file_name(TXID(1), TXID(1)), "wb") as file:
        file.writelines(
            Encoder(header, ((pgno, page(pgno)) for pgno in range(1, COMMIT + 1) if pgno != LOCK))
        )
    return f"file://{folder}"


@pytest.fixture
def file(url: str) -> Iterator[ReplicaFile]:
    made = ReplicaFile(open_source(url, next(_sizes), 20.0, {}), poll_interval_s=0)
    made.xLock(1)
    yield made
    made.xUnlock(0)


@pytest.mark.parametrize(
    "order",
    [
        range(LOCK - 200, COMMIT + 1),
        [pgno for pgno in range(LOCK - 200, COMMIT + 1) if pgno != LOCK],  # as SQLite copies a database
        range(COMMIT, LOCK - 200, -1),
        [*range(LOCK - 40, LOCK), *range(LOCK + 1, LOCK + 40), *range(LOCK - 40, LOCK + 40)],
    ],
    ids=["up", "as a copy", "down", "there and again"],
)
def test_every_page_around_the_lock_page_is_the_right_one(order: Iterable[int], file: ReplicaFile) -> None:
    wrong = [pgno for pgno in order if file.xRead(PAGE_SIZE, (pgno - 1) * PAGE_SIZE) != page(pgno)]
    assert not wrong
