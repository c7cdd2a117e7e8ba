"""A replica that is merged and pruned in tests, held against the history that it is of at every step."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from backends import Backend, Data, ObjectInfo
from backends.memory import MemoryBackend
from ltx import Replica
from ltx.format import to_timestamp_ms
from ltx.replica.plan import reach_of
from tests.test_replica.histories import BEGIN, History, store

__all__ = [
    "SECOND",
    "Killed",
    "Stepping",
    "at",
    "checked",
    "copy_of",
    "merged",
    "put_timed",
    "states",
    "txids",
]

SECOND = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    """Return a time counted from the beginning of every history."""
    return BEGIN + timedelta(seconds=seconds)


def put_timed(backend: Backend, history: History, times_s: Mapping[int, float], level: int = 0) -> None:
    """Store transactions on level 0, each with a time of its own."""
    for txid, time_s in times_s.items():
        spec = history.specs[txid - 1]
        store(backend, level, replace(spec, timestamp_ms=to_timestamp_ms(at(time_s))))


def merged(replica: Replica, level: int) -> list[tuple[int, int]]:
    """Return the TXIDs of a level's files."""
    return [(file.min_txid, file.max_txid) for file in replica.files(level)]


def txids(replica: Replica) -> Sequence[int]:
    """Return every TXID that can be restored."""
    return reach_of(replica.files()).txids


def states(replica: Replica, folder: Path) -> dict[int, bytes]:
    """Restore every TXID that can be."""
    found = {}
    for txid in txids(replica):
        output = folder / f"{txid}.db"
        replica.restore(output, txid=txid, force=True)
        found[txid] = output.read_bytes()
    return found


def checked(replica: Replica, history: History, folder: Path) -> Sequence[int]:
    """Hold every TXID that can be restored against the history; return them."""
    found = states(replica, folder)
    for txid, state in found.items():
        assert state == history.state(txid), f"TXID {txid}"
    return list(found)


class Killed(BaseException):
    """The process ends here."""


class Stepping(Backend):
    """Another backend; before each of its calls a function is told. Deletions reach it one by one."""

    def __init__(self, backend: Backend, before: Callable[[str, str], None]) -> None:
        super().__init__()
        self.backend = backend
        self.scheme, self.url, self.capabilities = backend.scheme, backend.url, backend.capabilities
        self.stats = backend.stats
        self._before = before

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        raise NotImplementedError

    @classmethod
    def killed_after(cls, backend: Backend, calls: int) -> Self:
        """Let so many calls through; whoever asks for more is killed."""
        left, lock = calls, threading.Lock()

        def before(_: str, __: str) -> None:
            nonlocal left
            with lock:
                left -= 1
                if left < 0:
                    raise Killed

        return cls(backend, before)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._before("get", key)
        return self.backend.get(key, start, end)

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        self._before("put", key)
        self.backend.put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)
        self._before("done", key)

    def head(self, key: str) -> ObjectInfo:
        self._before("head", key)
        return self.backend.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        self._before("list", prefix)
        return self.backend.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._before("delete", key)
            self.backend.delete([key])


def copy_of(backend: Backend, name: str) -> MemoryBackend:
    """Return a storage with the same objects."""
    copy = MemoryBackend(name)
    copy.delete([info.key for info in copy.list()])
    for info in backend.list():
        copy.put(info.key, backend.get(info.key), timestamp_ms=info.timestamp_ms)
    return copy
