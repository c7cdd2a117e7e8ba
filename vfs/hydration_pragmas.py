"""What pragmas tell of hydration, also where there is none."""

from typing import Protocol

__all__ = ["OFF", "Told", "told"]

OFF = "0"
"""What stands for the progress where nothing is hydrated."""


class Told(Protocol):
    """What there is to tell of: `vfs.hydration.Hydrator` is one."""

    @property
    def progress(self) -> str:
        """How many percent are there."""

    @property
    def file(self) -> str:
        """The file that the pages are in."""

    @property
    def status(self) -> str:
        """What it does, as one line of JSON."""


def told(pragma: str, hydrator: Told | None) -> str | None:
    """Return what a pragma tells of hydration, where there may be none; None for a pragma about something else."""
    match pragma:
        case "litestream_hydration_progress":
            return hydrator.progress if hydrator else OFF
        case "litestream_hydration_file":
            return hydrator.file if hydrator else ""
        case "litestream_hydration_status":
            return hydrator.status if hydrator else '{"state": "off"}'
    return None
