"""What the tests know of a replica that the real Litestream wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from ltx import LTXFile, Replica
from ltx.replica.plan import reach_of

__all__ = ["PRUNED", "RECORDINGS", "Recording", "some", "times", "times_both_agree_on"]

PRUNED = "pruned"
RECORDINGS = ("512", "4096", "65536", PRUNED)
"""By page size, and one whose old files are gone."""


@dataclass(frozen=True)
class Recording:
    """A replica, and the database that it is of.

    Attributes:
        name: One of `RECORDINGS`.
        page_size: Bytes of a page.
        folder: The replica.
        source: The database's bytes as they were committed when the real Litestream stopped.
    """

    name: str
    page_size: int
    folder: Path
    source: bytes

    @property
    def url(self) -> str:
        """The replica's URL."""
        return f"file://{self.folder}"


def times(replica: Replica, files: Sequence[LTXFile]) -> Sequence[datetime]:
    """Return the times in the headers of files."""
    return [header.timestamp for header in replica.headers(files)]


def times_both_agree_on(replica: Replica) -> Sequence[tuple[datetime, int]]:
    """Find times after every file up to a TXID and before every file beyond it, snapshots made later included."""
    files = replica.files()
    timed = sorted((file.max_txid, time) for file, time in zip(files, times(replica, files), strict=True))
    agreed = []
    for txid in reach_of(files).txids[:-1]:
        after = max(time for max_txid, time in timed if max_txid <= txid) + timedelta(milliseconds=1)
        if after < min(time for max_txid, time in timed if max_txid > txid):
            agreed.append((after, int(txid)))
    return agreed


def some(states: Sequence[tuple[datetime, int]], most: int) -> Sequence[tuple[datetime, int]]:
    """Return about so many of the states, from the first on."""
    return states[:: max(1, len(states) // most)]
