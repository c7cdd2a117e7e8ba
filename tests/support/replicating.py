"""`ltx replicate` as a process, and what its replica gives."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ltx import Replica, ReplicaError
from ltx.replication.checkpoint import Limits
from ltx.replication.database import Database, Settings

__all__ = ["ROOT", "differing", "eventually", "followed", "ltx_process", "replicating", "restored"]

ROOT = Path(__file__).parents[2]
_ENDS_S = 30


def ltx_process(*words: str | Path, folder: Path) -> "subprocess.Popen[str]":
    """Start `ltx`; its sockets lie in the folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "ltx", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def replicating(path: Path, *words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """Run `ltx replicate` meanwhile; at the end it gets a SIGTERM and must end well, unless it ended before."""
    process = ltx_process("replicate", path, *words, folder=path.parent)
    try:
        eventually(
            lambda: (path.parent / "ltx" / f"{process.pid}.sock").exists() or process.poll() is not None
        )
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=_ENDS_S)
        assert process.returncode in (0, -signal.SIGKILL), err
        assert out == ""
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def followed(path: Path, url: Path, limits: Limits) -> Iterator[Database]:
    """Follow a database in this process meanwhile; it was looked at once."""
    with Replica.open(str(url)) as replica:
        database = Database(path, [replica], Settings(limits=limits))
        try:
            database.sync()
            yield database
        finally:
            database.close()


def restored(url: str, output: Path, *, txid: int | None = None) -> bytes:
    """Return the database that a replica gives."""
    with Replica.open(url) as replica:
        replica.restore(output, txid=txid, force=True)
    return output.read_bytes()


def eventually(holds: Callable[[], bool], *, seconds: float = 15) -> None:
    """Wait until something holds; a replica without files is no error meanwhile."""
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except ReplicaError:
            pass
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def differing(one: bytes, other: bytes, page_size: int) -> list[int]:
    """Return the numbers of the pages that differ."""
    return [
        start // page_size + 1
        for start in range(0, max(len(one), len(other)), page_size)
        if one[start : start + page_size] != other[start : start + page_size]
    ]
