"""Truth under load: a replica that is written, merged and pruned all the time, and readers that check a promise.

Each transaction takes from one table what it gives to another, so that the sum over both never changes, and counts
itself. Whoever reads a page of one state and a page of another sees another sum, or a count that goes back.

Run as a program this is a writer: `python -m tests.support.truth DATABASE SEED SECONDS`, with a pause of that many
seconds from one transaction to the next; it writes until it is killed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import apsw

from backends import BackendError
from ltx import LTXError, Replica
from tests.support.replicating import ROOT, eventually

__all__ = [
    "TOTAL",
    "Connect",
    "Verdict",
    "in_children",
    "in_threads",
    "prepare",
    "said",
    "watch",
    "writing",
    "written",
]

_ROWS = 600
TOTAL = 100 * _ROWS
_WRITERS = 2
_ENDS_S = 60

_CONFIGURATION = """\
snapshot: {{interval: 3s, retention: {kept}s}}
levels: [{{interval: 500ms}}, {{interval: 2s}}]
l0-retention: {kept}s
l0-retention-check-interval: 1s
dbs:
  - path: {database}
    replica: {{url: "{url}", sync-interval: 10ms}}
"""

Connect = Callable[[], apsw.Connection]
IsOver = Callable[["Verdict"], bool]


@dataclass
class Verdict:
    """What a reader found.

    Attributes:
        reads: Transactions that it read.
        moves: How often it saw a newer state.
        count: How many transactions were written in the newest state that it saw.
        wrong: Broken promises.
        errors: Errors by type.
        longest_s: Seconds that the longest transaction took.
    """

    reads: int = 0
    moves: int = 0
    count: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps({**vars(self), "wrong": self.wrong[:20]})

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Read what `to_json` returned."""
        fields = json.loads(text)
        return cls(**{**fields, "errors": Counter(fields["errors"])})


@contextmanager
def writing(
    folder: Path, url: str, *, seed: int, kept_s: float, per_second: float, published: str = ""
) -> Iterator[Path]:
    """Let two processes write to a database, and `ltx replicate` publish, merge and prune it, until the block ends.

    The replica has a state when the block begins, and the newest one after it.

    Args:
        folder: Where the database, the configuration and the log lie.
        url: The replica.
        seed: What is written.
        kept_s: How long old states and merged files of level 0 stay: longer than any reader's transaction.
        per_second: How many transactions to write, if the machine can.
        published: The URL by which the replica is written; the same where it is empty.

    Yields:
        The database.
    """
    path = folder / "busy.db"
    prepare(path)
    configuration = folder / "litestream.yml"
    configuration.write_text(_CONFIGURATION.format(kept=kept_s, database=path, url=published or url))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder)}
    replicate = [sys.executable, "-m", "ltx", "replicate", "--config", str(configuration)]
    write = [sys.executable, "-m", "tests.support.truth", str(path)]
    with open(folder / "log", "ab") as log:
        replicator = subprocess.Popen(replicate, env=environment, stderr=log)
        writers: list[subprocess.Popen[bytes]] = []
        try:
            with Replica.open(url) as replica:
                eventually(lambda: bool(replica.files()), seconds=30)
            writers += [
                subprocess.Popen([*write, str(seed + place), str(_WRITERS / per_second)], stderr=log)
                for place in range(_WRITERS)
            ]
            yield path
            assert [writer.poll() for writer in writers] == [None] * _WRITERS, _end_of(folder / "log")
            for writer in writers:
                writer.kill()
                writer.wait()
            replicator.send_signal(signal.SIGTERM)
            assert replicator.wait(_ENDS_S) == 0, _end_of(folder / "log")
        finally:
            for process in (*writers, replicator):
                process.kill()
                process.wait()


def written(path: Path) -> int:
    """Return how many transactions were written."""
    with closing(apsw.Connection(str(path))) as db:
        return int(str(db.execute("SELECT count FROM written").fetchall()[0][0]))


def watch(connect: Connect, is_over: IsOver, *, schema: str = "main", pause_s: float = 0.01) -> Verdict:
    """Read transaction after transaction until it is over.

    Args:
        connect: Makes a connection.
        is_over: Is told what was found so far.
        schema: Where the replica is attached.
        pause_s: Seconds between two transactions.
    """
    verdict, last = Verdict(), (0, 0)
    db: apsw.Connection | None = None
    while not is_over(verdict):
        began = time.monotonic()
        try:
            if db is None:
                db = connect()
                db.execute("PRAGMA cache_size = 10")
            last = _check(db, schema, last, verdict)
        except (LTXError, BackendError, apsw.Error) as error:
            verdict.errors[f"{type(error).__name__}: {str(error)[:400]}"] += 1
            if db is not None and db.in_transaction:
                with suppress(apsw.Error):
                    db.execute("ROLLBACK")
        verdict.longest_s = max(verdict.longest_s, time.monotonic() - began)
        time.sleep(pause_s)
    return verdict


def in_threads(readers: Sequence[Connect], is_over: IsOver) -> list[Verdict]:
    """Let connections read at the same time, each in a thread of its own."""
    verdicts: dict[int, Verdict] = {}

    def read(place: int) -> None:
        verdicts[place] = watch(readers[place], is_over)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(len(readers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(verdicts) == len(readers), "a thread ended with an error of its own"
    return [verdicts[place] for place in range(len(readers))]


def in_children(readers: Sequence[Connect], is_over: IsOver) -> list[int]:
    """Let each read in a forked child; return pipes for `said`."""
    pipes = []
    for connect in readers:
        reader, writer = os.pipe()
        if os.fork() == 0:
            status = 1
            try:
                os.write(writer, watch(connect, is_over).to_json().encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        pipes.append(reader)
    return pipes


def said(pipe: int) -> Verdict:
    """Return what a child found, when it ends."""
    with os.fdopen(pipe) as answer:
        text = answer.read()
    os.wait()
    assert text, "a child ended with an error of its own"
    return Verdict.from_json(text)


def prepare(path: Path, *, rows: int = _ROWS) -> None:
    """Make the database: two tables of which the sums together are and stay 100 a row, and a count."""
    db = apsw.Connection(str(path))
    made = "PRAGMA page_size = 1024; PRAGMA auto_vacuum = incremental; PRAGMA journal_mode = wal"
    assert db.execute(made).fetchall() == [("wal",)]  # which no transaction can change
    with db:
        for table in "ab":
            db.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, n INTEGER, filler BLOB)")
            db.executemany(
                f"INSERT INTO {table} VALUES (?, ?, zeroblob(200))",
                ((row, 50) for row in range(1, rows + 1)),
            )
        db.execute("CREATE TABLE written (count); INSERT INTO written VALUES (0)")
    db.close()


def _check(db: apsw.Connection, schema: str, last: tuple[int, int], verdict: Verdict) -> tuple[int, int]:
    """Read one transaction, hold it to the promise, and return its TXID and how many were written by then."""
    sums = f"SELECT (SELECT sum(n) FROM {schema}.a) + (SELECT sum(n) FROM {schema}.b), count FROM {schema}.written"
    with db:
        [(total, count)] = db.execute(sums).fetchall()
        again = db.execute(sums).fetchall()
        txid = int(str(db.pragma("litestream_txid", schema=schema)), 16)
    if total != TOTAL or again != [(total, count)]:
        verdict.wrong.append(f"sums {total} and {again} at TXID {txid}")
    assert isinstance(count, int)
    if txid < last[0] or count < last[1]:
        verdict.wrong.append(f"went back from {last} to {(txid, count)}")
    verdict.reads += 1
    verdict.moves += (txid, count) != last
    verdict.count = max(verdict.count, count)
    return txid, count


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _write(path: str, seed: int, pause_s: float) -> None:
    """Write for ever, at a steady pace as far as the machine keeps up."""
    chosen = Random(seed)
    db = apsw.Connection(path)
    db.set_busy_timeout(30_000)
    began = time.monotonic()
    for done in range(1, sys.maxsize):
        _change(db, chosen, done)
        time.sleep(max(0.0, began + done * pause_s - time.monotonic()))


def _change(db: apsw.Connection, chosen: Random, done: int) -> None:
    amount = chosen.randrange(100)
    db.execute("BEGIN IMMEDIATE")
    for table, by in (("a", -amount), ("b", amount)):
        db.execute(f"UPDATE {table} SET n = n + ? WHERE id = ?", (by, chosen.randrange(1, _ROWS + 1)))
    if done % 9 == 0:
        db.execute(f"INSERT INTO a SELECT NULL, 0, randomblob(900) FROM b LIMIT {chosen.randrange(40)}")
    if done % 17 == 0:
        db.execute("DELETE FROM a WHERE id > ? AND id % 3 = ?", (_ROWS, chosen.randrange(3)))
    db.execute("UPDATE written SET count = count + 1")
    db.execute("COMMIT")
    if done % 50 == 0:
        db.execute("PRAGMA incremental_vacuum(60)").fetchall()
    if done % 400 == 0:
        db.execute("VACUUM")


if __name__ == "__main__":
    _write(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
