"""Both programs as child processes that replicate any number of databases, at their defaults, and what they take."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backends import NotFoundError
from bench.measure import peer_environment
from ltx import Replica
from ltx.format import TXID
from ltx.format.frame import decode_frame
from ltx.format.index import PageIndex, index_range

__all__ = ["PROGRAMS", "Place", "Probe", "Running", "Usage", "make_small", "running", "wait_until"]

PROGRAMS = ("ltx", "litestream")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_TAIL_SIZE = 24
_ENDS_S = 120


@dataclass(frozen=True)
class Place:
    """Where replicas go.

    Attributes:
        name: For the table.
        url: Of the replica at a path, for ours and for the probe.
        peer: The real Litestream's settings of the same.
        environment: What both need in their environment.
    """

    name: str
    url: Callable[[str], str]
    peer: Callable[[str], Mapping[str, object]]
    environment: Mapping[str, str]


class Usage(NamedTuple):
    """Seconds of processor so far, and MiB of memory now; children included."""

    cpu_s: float
    rss_mib: float


@dataclass(frozen=True)
class Running:
    """A replicator that runs."""

    process: "subprocess.Popen[bytes]"

    def usage(self) -> Usage:
        """Return what it and its children have taken."""
        cpu, rss, waiting = 0.0, 0, [self.process.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu += (int(fields[11]) + int(fields[12])) / _TICKS
                rss += int(fields[21])
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
        return Usage(cpu, rss * _PAGE_SIZE / (1 << 20))


class Probe:
    """What can be read on a replica, looked at in the same way for both programs. Close it after use."""

    def __init__(self, url: str) -> None:
        self._replica = Replica.open(url)
        self._seen = 0

    def txid(self) -> int:
        """Return the newest TXID of level 0."""
        return max((file.max_txid for file in self._replica.files(0)), default=0)

    def has(self, txid: int) -> bool:
        """Whether the file of a transaction is there."""
        key = self._replica.layout.key(0, TXID(txid), TXID(txid))
        try:
            self._replica.backend.head(key)
        except NotFoundError:
            return False
        return True

    def holds(self, pgno: int, marker: bytes) -> bool:
        """Whether a page is there in a version with these bytes in it. Each file is read once."""
        found = False
        for file in self._replica.files(0):
            if file.max_txid <= self._seen:
                continue
            backend = self._replica.backend
            start, end = index_range(backend.get(file.key, -_TAIL_SIZE), file.size)
            index = PageIndex.decode(backend.get(file.key, start, end), file.size)
            if index.holds(pgno):
                at = index.place(pgno)
                offset, end = index.offset(at), index.offset(at + 1)
                page_size = self._replica.headers([file])[0].page_size
                page = decode_frame(backend.get(file.key, offset, end), pgno, page_size)
                found |= marker in page
            self._seen = file.max_txid
        return found

    def stored(self) -> tuple[int, int]:
        """Return how many files there are over all levels, and their bytes."""
        files = self._replica.files()
        return len(files), sum(file.size for file in files)

    def restore(self, output: Path) -> None:
        """Restore the newest state."""
        self._replica.restore(output, force=True)

    def close(self) -> None:
        """Release the connections."""
        self._replica.close()


@contextlib.contextmanager
def running(program: str, folder: Path, databases: Mapping[Path, str], place: Place) -> Iterator[Running]:
    """Let a program replicate databases to paths of a place; it is ended as its users end it.

    Args:
        program: One of `PROGRAMS`.
        folder: For its configuration and its log.
        databases: Each with the path of its replica.
        place: Where the replicas go.
    """
    folder.mkdir(exist_ok=True)
    argv = _ours(folder, databases, place) if program == "ltx" else _peers(folder, databases, place)
    environment = {**peer_environment(), **place.environment, "XDG_RUNTIME_DIR": str(folder)}
    with open(folder / f"{program}.log", "ab") as log:
        process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield Running(process)
        if process.poll() is not None:
            raise RuntimeError(f"{program} ended by itself: {(folder / f'{program}.log').read_text()[-500:]}")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ours(folder: Path, databases: Mapping[Path, str], place: Place) -> Sequence[str]:
    if len(databases) == 1:  # as most people do it
        [(database, path)] = databases.items()
        return [sys.executable, "-m", "ltx", "replicate", str(database), place.url(path)]
    config = folder / "ltx.yml"
    config.write_text(
        json.dumps({
            "dbs": [{"path": str(database), "replica": {"url": place.url(path)}} for database, path in databases.items()]
        })
    )  # fmt: skip
    return [sys.executable, "-m", "ltx", "replicate", "--config", str(config)]


def _peers(folder: Path, databases: Mapping[Path, str], place: Place) -> Sequence[str]:
    config = folder / "litestream.json"
    listed = [{"path": str(database), "replica": place.peer(path)} for database, path in databases.items()]
    config.write_text(json.dumps({"dbs": listed}))
    return [str(Path(sys.executable).parent / "litestream"), "replicate", "-config", str(config)]


def make_small(path: Path, rows: int = 20) -> Path:
    """Make a small database in WAL mode, with a table `t` and a table `marker` of one row."""
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute("PRAGMA journal_mode = WAL")
        app.execute("PRAGMA synchronous = OFF")
        app.execute("BEGIN")
        app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB)")
        app.execute("CREATE TABLE marker (token BLOB)")
        app.execute("INSERT INTO marker VALUES (zeroblob(16))")
        app.executemany("INSERT INTO t (a, b) VALUES (?, randomblob(300))", [(row,) for row in range(rows)])
        app.execute("COMMIT")
    return path


def wait_until(holds: Callable[[], bool], *, step_s: float, timeout_s: float = 120) -> None:
    """Ask again and again.

    Raises:
        RuntimeError: It did not come about in time.
    """
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError("a replica did not get there in time")
        time.sleep(step_s)
