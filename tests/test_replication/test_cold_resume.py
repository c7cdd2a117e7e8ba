"""Whatever happens to database, local state or replica while nobody replicates: nothing committed is lost after."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import apsw
import pytest

from ltx import Replica
from ltx.replica.compaction import compact
from ltx.replica.plan import reach_of
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, fill, image, make

PAGE_SIZE = 1024


@dataclass
class Place:
    """A database in use by an application that stays open, its replica, and copies of both from before."""

    folder: Path
    before: dict[str, bytes] = field(default_factory=dict)
    published: dict[int, bytes] = field(default_factory=dict)
    """What the database was at the TXIDs on the way."""

    @property
    def path(self) -> Path:
        return self.folder / "a.db"

    @property
    def url(self) -> str:
        return str(self.folder / "replica")

    @property
    def meta(self) -> Path:
        return self.folder / ".a.db-litestream"

    def local_files(self) -> list[Path]:
        return sorted((self.meta / "ltx" / "0").iterdir())

    def keep(self) -> None:
        """Remember the database, and copy all of the machine's state but the replica."""
        for side in ("", "-wal"):
            self.before[side] = Path(f"{self.path}{side}").read_bytes()
        shutil.copytree(self.meta, self.folder / "meta-then")

    def replicate(self, *, killed: bool = False) -> int:
        """Replicate until all is there; return the TXID."""
        if killed:
            program = (
                "import os, signal, sys\nfrom ltx import Replica\n"
                "from ltx.replication.database import Database, Settings\n"
                "database = Database(sys.argv[1], [Replica.open(sys.argv[2])], Settings())\n"
                "database.sync()\nassert database.uploaders[0].push()\n"
                "os.kill(os.getpid(), signal.SIGKILL)\n"
            )
            done = subprocess.run([sys.executable, "-c", program, str(self.path), self.url], check=False)
            assert done.returncode == -signal.SIGKILL
            return 0
        with Replica.open(self.url) as replica:
            database = Database(self.path, [replica], Settings())
            try:
                for _ in range(4):  # a replica that lost files is given a snapshot at the next look
                    database.sync()
                    if database.uploaders[0].push():
                        self.published[database.line.txid] = image(self.path)
                        return database.line.txid
                raise AssertionError(database.status)
            finally:
                database.close()

    def check(self) -> None:
        """Hold the newest state to the database, and each other that can be restored to what was there then."""
        output = self.folder / "out.db"
        with Replica.open(self.url) as replica:
            replica.restore(output, force=True)
            assert output.read_bytes() == image(self.path)
            for txid in self.published.keys() & set(reach_of(replica.files()).txids):
                replica.restore(output, txid=txid, force=True)
                assert output.read_bytes() == self.published[txid], txid


def nothing(place: Place, db: apsw.Connection) -> None:
    pass


def checkpoint(mode: str) -> Callable[[Place, apsw.Connection], None]:
    def run(place: Place, db: apsw.Connection) -> None:
        db.execute("UPDATE t SET a = a + 7 WHERE id % 3 = 0")
        db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        db.execute("UPDATE t SET a = a + 9 WHERE id % 5 = 0")

    run.__name__ = f"checkpoint_{mode.lower()}"
    return run


def wal_deleted(place: Place, db: apsw.Connection) -> None:
    db.execute("UPDATE t SET a = a + 7 WHERE id % 3 = 0")
    db.close()
    with connected(place.path) as alone:
        alone.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert not Path(f"{place.path}-wal").exists() or not Path(f"{place.path}-wal").stat().st_size


def older_copy(place: Place, db: apsw.Connection) -> None:
    db.execute("UPDATE t SET a = a + 7 WHERE id % 3 = 0")
    db.close()
    for side in ("-wal", "-shm"):
        Path(f"{place.path}{side}").unlink(missing_ok=True)
    for side, content in place.before.items():
        Path(f"{place.path}{side}").write_bytes(content)


def older_file_beside_the_wal(place: Place, db: apsw.Connection) -> None:
    db.execute("UPDATE t SET a = a + 7 WHERE id % 3 = 0")
    wal = Path(f"{place.path}-wal").read_bytes()
    db.close()
    place.path.write_bytes(place.before[""])
    Path(f"{place.path}-wal").write_bytes(wal)
    Path(f"{place.path}-shm").unlink(missing_ok=True)


def machine_rolled_back(place: Place, db: apsw.Connection) -> None:
    older_copy(place, db)
    shutil.rmtree(place.meta)
    shutil.copytree(place.folder / "meta-then", place.meta)


def new_page_size(place: Place, db: apsw.Connection) -> None:
    db.execute("PRAGMA journal_mode = DELETE").fetchall()
    db.execute("PRAGMA page_size = 2048; VACUUM; PRAGMA journal_mode = WAL").fetchall()


def journal_mode_toggled(place: Place, db: apsw.Connection) -> None:
    db.execute("PRAGMA journal_mode = DELETE").fetchall()
    db.execute("UPDATE t SET a = a + 7 WHERE id % 3 = 0")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("UPDATE t SET a = a + 7 WHERE id % 3 = 1")


def rollback_journal_from_now_on(place: Place, db: apsw.Connection) -> None:
    db.execute("PRAGMA journal_mode = DELETE").fetchall()


def local_state_deleted(place: Place, db: apsw.Connection) -> None:
    shutil.rmtree(place.meta)


def newest_local_file_deleted(place: Place, db: apsw.Connection) -> None:
    place.local_files()[-1].unlink()


def newest_local_file_truncated(place: Place, db: apsw.Connection) -> None:
    newest = place.local_files()[-1]
    os.truncate(newest, newest.stat().st_size // 2)


def table_damaged(place: Place, db: apsw.Connection) -> None:
    for table in place.meta.glob("pages-*"):
        os.truncate(table, table.stat().st_size - 3)


def remote_level_0_deleted(place: Place, db: apsw.Connection) -> None:
    shutil.rmtree(f"{place.url}/ltx/0")


def newest_remote_file_deleted(place: Place, db: apsw.Connection) -> None:
    max(Path(f"{place.url}/ltx/0").iterdir()).unlink()


def everything_lost_but_the_database(place: Place, db: apsw.Connection) -> None:
    shutil.rmtree(place.meta)
    shutil.rmtree(place.url)


def merged_and_pruned(place: Place, db: apsw.Connection) -> None:
    with Replica.open(place.url) as replica:
        compact(replica, 1)
    shutil.rmtree(f"{place.url}/ltx/0")


HAPPENINGS = [
    nothing,
    *map(checkpoint, ("PASSIVE", "FULL", "RESTART", "TRUNCATE")),
    wal_deleted,
    older_copy,
    older_file_beside_the_wal,
    machine_rolled_back,
    new_page_size,
    journal_mode_toggled,
    rollback_journal_from_now_on,
    local_state_deleted,
    newest_local_file_deleted,
    newest_local_file_truncated,
    table_damaged,
    remote_level_0_deleted,
    newest_remote_file_deleted,
    merged_and_pruned,
    everything_lost_but_the_database,
]


def append(db: apsw.Connection) -> None:
    fill(db, 40)


def update(db: apsw.Connection) -> None:
    db.execute("UPDATE t SET b = randomblob(300) WHERE id % 4 = 0")


def vacuum(db: apsw.Connection) -> None:
    db.execute("DELETE FROM t WHERE id % 3 = 1; VACUUM")


CASES = list(product((False, True), HAPPENINGS, (append, update, vacuum)))


@pytest.mark.parametrize(
    ("killed", "happening", "work"),
    CASES,
    ids=[
        f"{'killed' if killed else 'stopped'}-{what.__name__}-{work.__name__}" for killed, what, work in CASES
    ],
)
def test_nothing_is_lost(
    killed: bool,
    happening: Callable[[Place, apsw.Connection], None],
    work: Callable[[apsw.Connection], None],
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    make(place.path, page_size=PAGE_SIZE, rows=200)
    with connected(place.path) as db:
        update(db)
        place.replicate()
        place.keep()
        append(db)
        place.replicate(killed=killed)
        happening(place, db)
        with connected(place.path) as app:
            work(app)
            place.replicate()
            place.check()
            work(app)
            txid = place.replicate()
            place.check()
            assert place.replicate() == txid  # nothing new, nothing published
