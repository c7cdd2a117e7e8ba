"""Transactions of a small database, as the files that hold them and as the database after each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from random import Random

from backends import Backend
from ltx.format import to_timestamp_ms
from ltx.replica.layout import FOLDERS, Layout
from tests.support.ltxfiles import FileSpec, apply

__all__ = ["BEGIN", "PAGE_SIZE", "History", "store", "time_of"]

PAGE_SIZE = 512
BEGIN = datetime(2026, 9, 21, 12, tzinfo=UTC)


def time_of(txid: int) -> datetime:
    """Return when a transaction of a history was committed: one a second."""
    return BEGIN + timedelta(seconds=txid)


@dataclass(frozen=True)
class History:
    """What happened to a database that grew, shrank and changed.

    Attributes:
        specs: One file of level 0 for each transaction, from TXID 1.
    """

    specs: Sequence[FileSpec]

    @classmethod
    def random(cls, count: int, seed: int = 1) -> "History":
        """Make a history of so many transactions; each grows or shrinks the database or only changes pages."""
        source = Random(seed)
        specs: list[FileSpec] = []
        commit = 0
        for txid in range(1, count + 1):
            old, commit = commit, max(1, commit + source.choice((-2, 0, 0, 1, 3)))
            changed = {pgno for pgno in range(1, commit + 1) if pgno > old or source.random() < 0.3}
            pages = {pgno: source.randbytes(PAGE_SIZE) for pgno in sorted(changed)}
            specs.append(FileSpec(pages=pages, min_txid=txid, commit=commit, timestamp_ms=_ms(time_of(txid))))
        return cls(specs)

    @cached_property
    def _databases(self) -> Sequence[Mapping[int, bytes]]:
        found: list[dict[int, bytes]] = [{}]
        for spec in self.specs:
            found.append(apply(found[-1], spec))
        return found

    def state(self, txid: int) -> bytes:
        """Return the database after a transaction."""
        return b"".join(self._databases[txid].values()) if txid else b""

    def file(self, first: int, last: int | None = None, *, later_s: float = 0) -> FileSpec:
        """Return the file that holds some transactions as one, whole from the first one on.

        Args:
            first: Its first TXID.
            last: Its last TXID; None for the same.
            later_s: How much later than its last transaction it says that it is, as snapshots do.
        """
        last = first if last is None else last
        pages: dict[int, bytes] = {}
        for spec in self.specs[first - 1 : last]:
            pages |= dict(spec.content)
        commit = self.specs[last - 1].page_count
        return FileSpec(
            pages={pgno: self._databases[last][pgno] for pgno in sorted(pages) if pgno <= commit},
            min_txid=first,
            max_txid=last,
            commit=commit,
            timestamp_ms=_ms(time_of(last) + timedelta(seconds=later_s)),
        )

    def put(self, backend: Backend, *places: str) -> None:
        """Store files: `0:5` is TXID 5 on level 0, `1:3-7` are TXIDs 3 to 7 merged on level 1."""
        for place in places:
            level, _, txids = place.partition(":")
            first, _, last = txids.partition("-")
            store(backend, int(level), self.file(int(first), int(last or first)))

    def put_all(self, backend: Backend) -> None:
        """Store every transaction on level 0."""
        for spec in self.specs:
            store(backend, 0, spec)


def store(backend: Backend, level: int, spec: FileSpec, layout: Layout = FOLDERS) -> str:
    """Put a file where its level and TXIDs belong; return its key."""
    key = layout.key(level, spec.min_txid, spec.last_txid)
    backend.put(key, spec.encode(), timestamp_ms=spec.timestamp_ms)
    return key


def _ms(time: datetime) -> int:
    return to_timestamp_ms(time)
