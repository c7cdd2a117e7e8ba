"""A database across the page at 1 GiB, which SQLite never writes and no LTX file holds."""

import filecmp
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

import ltx
from ltx import Replica
from ltx.format import Decoder, lock_page
from tests.interop.peer import Peer

PAGE_SIZE = 65536
LOCK_PAGE = lock_page(PAGE_SIZE)
pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Big:
    """A database in rollback-journal mode whose pages are nearly all zeros: big on disk, small when compressed."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "big.db"

    def grow_to(self, page_count: int) -> None:
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.execute(f"PRAGMA page_size={PAGE_SIZE}; PRAGMA synchronous=OFF; BEGIN")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, note TEXT, filling BLOB)"
            )
            while (missing := page_count - self._page_count(connection)) > 0:
                size = min(missing, 4096) * (PAGE_SIZE - 8)
                connection.execute(
                    "INSERT INTO t (note, filling) VALUES (?, zeroblob(?))", (f"{missing} to go", size)
                )
            connection.execute("COMMIT")

    def change(self) -> None:
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.execute("UPDATE t SET note = note || ' and changed'")

    @staticmethod
    def _page_count(connection: apsw.Connection) -> int:
        [(count,)] = connection.execute("PRAGMA page_count").fetchall()
        assert isinstance(count, int)
        return count


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Big]:
    yield Big(tmp_path)
    shutil.rmtree(tmp_path)  # gigabytes that pytest would keep


def test_growing_across_it_ours_and_theirs_restore_the_source(peer: Peer, big: Big, tmp_path: Path) -> None:
    big.grow_to(LOCK_PAGE - 5)
    with Replica.open(f"file://{tmp_path}/ours") as replica:
        assert ltx.replicate_once(big.path, replica)
        big.grow_to(LOCK_PAGE + 20)
        assert ltx.replicate_once(big.path, replica)
        big.change()
        assert ltx.replicate_once(big.path, replica)
        assert [file.max_txid for file in replica.files()] == [1, 2, 3]
        restored = replica.restore(tmp_path / "restored.db").path
        assert filecmp.cmp(restored, big.path, shallow=False)
        restored.unlink()
        peer.run("restore", "-o", restored, replica.url)
        assert filecmp.cmp(restored, big.path, shallow=False)


def test_their_replica_across_it_is_restored_and_gone_on_with(peer: Peer, big: Big, tmp_path: Path) -> None:
    big.grow_to(LOCK_PAGE + 20)
    url = f"file://{tmp_path}/theirs"
    peer.replicate_once(big.path, url)
    with Replica.open(url) as replica:
        [file] = replica.files()
        pgnos = [pgno for pgno, _ in Decoder([replica.backend.get(file.key)])]
        assert LOCK_PAGE not in pgnos
        assert LOCK_PAGE + 1 in pgnos
        big.change()
        assert ltx.replicate_once(big.path, replica)
        restored = replica.restore(tmp_path / "restored.db").path
        assert filecmp.cmp(restored, big.path, shallow=False)
