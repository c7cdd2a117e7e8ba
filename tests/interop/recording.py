"""What the tests know of a replica that the real Litestream wrote."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["PRUNED", "RECORDINGS", "Recording"]

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
