"""Truth under load: a replica that is written, merged and pruned all the time, and readers that check a promise.

Each transaction takes from one table what it gives to another, so that the sum over both never changes, and counts
itself. Whoever reads a page of one state and a page of another sees another sum, or a count that goes back.

Run as a program this is the writer: `python -m tests.support.truth DATABASE URL TRANSACTIONS SEED SECONDS`. Each transaction
is published as one TXID; merges follow every few of them, snapshots and retention every few dozens.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

import apsw

from backends import BackendError
from ltx import LTXError, Replica, replicate_once
from ltx.replica.compaction import compact, snapshot
from ltx.replica.levels import LevelPolicy
from ltx.replica.retention import RetentionPolicy, retain

__all__ = ["TOTAL", "Verdict", "check", "prepare", "watch", "writing"]

TOTAL = 60_000
_ROWS = 600

_POLICY = LevelPolicy(intervals=(timedelta(milliseconds=300), timedelta(seconds=1)))


@dataclass
class Verdict:
    """What a reader found.

    Attributes:
        reads: Transactions that it read.
        moves: How often it saw a newer state.
        wrong: Broken promises.
        errors: Errors by type.
    """

    reads: int = 0
    moves: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def prepare(path: Path) -> None:
    """Make the database."""
    with apsw.Connection(str(path)) as db:
        db.execute(
            "PRAGMA page_size = 1024; PRAGMA auto_vacuum = incremental; PRAGMA journal_mode = wal"
        ).fetchall()
        for table in "ab":
            db.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, n INTEGER, filler BLOB)")
            db.executemany(
                f"INSERT INTO {table} VALUES (?, ?, zeroblob(200))",
                ((row, TOTAL // 2 // _ROWS) for row in range(1, _ROWS + 1)),
            )
        db.execute("CREATE TABLE written (count); INSERT INTO written VALUES (0)")
    db.close()


@contextmanager
def writing(
    path: Path, url: str, transactions: int, seed: int, kept_s: float
) -> Iterator["subprocess.Popen[str]"]:
    """Let a process write meanwhile; it ends when it is done.

    Args:
        path: The database.
        url: The replica.
        transactions: How many to write.
        seed: What they are.
        kept_s: How long old states and merged files of level 0 stay: longer than any reader's transaction.
    """
    command = [
        sys.executable,
        "-m",
        "tests.support.truth",
        str(path),
        url,
        str(transactions),
        str(seed),
        str(kept_s),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "writes\n"
            yield process
        finally:
            process.kill()


def check(db: apsw.Connection, schema: str, last: tuple[int, int], verdict: Verdict) -> tuple[int, int]:
    """Read one transaction and hold it to the promise.

    Returns:
        The TXID that it saw, and how many transactions were written then.
    """
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
    return txid, count


def watch(
    connect: Callable[[], apsw.Connection],
    is_over: Callable[[], bool],
    *,
    schema: str = "main",
    pause_s: float = 0.002,
) -> Verdict:
    """Read transaction after transaction until it is over."""
    verdict, last = Verdict(), (0, 0)
    db: apsw.Connection | None = None
    while not is_over():
        try:
            if db is None:
                db = connect()
                db.execute("PRAGMA cache_size = 10")
            last = check(db, schema, last, verdict)
        except (LTXError, BackendError, apsw.Error) as error:
            verdict.errors[f"{type(error).__name__}: {str(error)[:400]}"] += 1
            if db is not None and db.in_transaction:
                with suppress(apsw.Error):
                    db.execute("ROLLBACK")
        time.sleep(pause_s)
    return verdict


def _write(path: Path, url: str, transactions: int, seed: int, kept: timedelta) -> None:
    chosen = Random(seed)
    policy = RetentionPolicy(window=kept, level0=kept, grace=kept)
    db = apsw.Connection(str(path))
    with Replica.open(url) as replica:
        replicate_once(path, replica)
        print("writes", flush=True)
        for done in range(1, transactions + 1):
            _change(db, chosen, done)
            replicate_once(path, replica)
            if done % 7 == 0:
                compact(replica, 1, policy=_POLICY)
            if done % 40 == 0:
                compact(replica, 2, policy=_POLICY)
            if done % 60 == 0:
                snapshot(replica)
            if done % 25 == 0:
                retain(replica, policy)
            time.sleep(3 * kept.total_seconds() / transactions)  # so that what is kept for a time goes, too
    print(f"wrote {transactions}", flush=True)


def _change(db: apsw.Connection, chosen: Random, done: int) -> None:
    amount = chosen.randrange(100)
    with db:
        for table, by in (("a", -amount), ("b", amount)):
            db.execute(f"UPDATE {table} SET n = n + ? WHERE id = ?", (by, chosen.randrange(1, _ROWS + 1)))
        if done % 9 == 0:
            db.execute(f"INSERT INTO a SELECT NULL, 0, randomblob(900) FROM b LIMIT {chosen.randrange(40)}")
        if done % 17 == 0:
            db.execute("DELETE FROM a WHERE id > ? AND id % 3 = ?", (_ROWS, chosen.randrange(3)))
        db.execute("UPDATE written SET count = ?", (done,))
    if done % 50 == 0:
        db.execute("PRAGMA incremental_vacuum(60)").fetchall()


if __name__ == "__main__":
    _write(
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        timedelta(seconds=float(sys.argv[5])),
    )
