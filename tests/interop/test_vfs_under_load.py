"""Readers while the real Litestream replicates, merges and prunes: they see whole transactions, and no time goes back."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import vfs
from tests.interop.peer import Database, Peer
from tests.support.truth import prepare
from tests.test_vfs.origin import number, rows, seen

SECONDS = 14.0
ROWS = 1000
TOTAL = 100 * ROWS

WRITER = """
import random, sys, time, apsw
db = apsw.Connection(sys.argv[1])
db.set_busy_timeout(5000)
chosen = random.Random(int(sys.argv[2]))
print("writes", flush=True)
written = 0
while True:
    with db:
        amount = chosen.randrange(100)
        db.execute("UPDATE a SET n = n - ? WHERE id = ?", (amount, chosen.randrange(1, 1001)))
        db.execute("UPDATE b SET n = n + ? WHERE id = ?", (amount, chosen.randrange(1, 1001)))
        if written % 7 == 0:
            db.execute("INSERT INTO a SELECT NULL, 0, randomblob(900) FROM b LIMIT 60")
        if written % 13 == 0:
            db.execute("DELETE FROM a WHERE id > 1000 AND id % 3 = ?", (written % 3,))
        db.execute("UPDATE written SET count = count + 1")
    written += 1
    if written % 101 == 0:
        db.execute("PRAGMA incremental_vacuum(40)").fetchall()
    time.sleep(0.004)
"""

SUMS = "SELECT (SELECT sum(n) FROM a) + (SELECT sum(n) FROM b), (SELECT count FROM written)"


class Reader(threading.Thread):
    """Reads until told to stop; whatever is wrong is kept for the test."""

    def __init__(self, url: str, poll_interval: float, cache_size: int, stop: threading.Event) -> None:
        super().__init__()
        self.url, self.poll_interval, self.cache_size, self.stop = url, poll_interval, cache_size, stop
        self.reads = self.moves = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            self.read()
        except Exception as error:  # noqa: BLE001 - the test tells
            self.wrong.append(f"{type(error).__name__}: {error}")

    def read(self) -> None:
        db = vfs.connect(self.url, poll_interval=self.poll_interval, cache_size=self.cache_size)
        db.execute("PRAGMA cache_size = 20")
        last = (0, 0)
        while not self.stop.is_set():
            with db:
                ((total, written),) = rows(db, SUMS)
                again = rows(db, SUMS)
                now = (seen(db), int(str(written)))
            if total != TOTAL or again != [(total, written)]:
                self.wrong.append(f"the sums are {total} and {again} at TXID {now[0]}")
            if now[0] < last[0] or now[1] < last[1]:
                self.wrong.append(f"went back from {last} to {now}")
            self.moves += now != last
            self.reads += 1
            last = now


def test_four_readers_see_whole_transactions_and_no_errors_while_files_come_and_go(
    peer: Peer, tmp_path: Path
) -> None:
    path, replica = tmp_path / "busy.db", tmp_path / "replica"
    prepare(path, rows=ROWS)
    url, stop = f"file://{replica}", threading.Event()
    with peer.replicating(
        tmp_path,
        [Database(path, {"path": str(replica)})],
        levels=("500ms", "2s"),
        snapshot_interval="3s",
        snapshot_retention="4s",
        l0_retention="4s",  # longer than a transaction: a state that is gone cannot be read
    ):
        deadline = time.monotonic() + 20
        while not list(replica.glob("ltx/*/*.ltx")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "1"], stdout=subprocess.PIPE, text=True
        ) as writer:
            try:
                assert writer.stdout
                assert writer.stdout.readline() == "writes\n"
                readers = [
                    Reader(url, 0, 0, stop),
                    Reader(url, 0.05, 1 << 24, stop),
                    Reader(url, 0.3, 200_000, stop),
                    Reader(url, 1, 1 << 20, stop),
                ]
                for reader in readers:
                    reader.start()
                time.sleep(SECONDS)
                assert writer.poll() is None
            finally:
                stop.set()
                writer.kill()
        for reader in readers:
            reader.join()
    assert [reader.wrong for reader in readers] == [[], [], [], []]
    assert min(reader.moves for reader in readers) >= 5
    assert sum(reader.reads for reader in readers) >= 100
    assert not list(replica.glob("ltx/0/0000000000000001-*.ltx")), "nothing was pruned"
    levels = {int(file.parent.name) for file in replica.glob("ltx/*/*.ltx")}
    assert {0, 1, 9} <= levels
    with vfs.connect(url) as db:
        assert number(db, "SELECT count(*) FROM b") == 1000
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
