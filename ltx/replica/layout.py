"""Where the files of a replica lie: two layouts, as the real Litestream has them (docs/formats/replica.md, Keys).

On S3 and its like a level is four hex digits, `0000/<name>`; everywhere else it is a digit below `ltx/`,
`ltx/0/<name>`. Either is recognised on any storage.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ltx.format import TXID, file_name, parse_file_name

__all__ = [
    "FLAT",
    "FOLDERS",
    "LEVELS",
    "LINEAGE_KEY",
    "SNAPSHOT_LEVEL",
    "Layout",
    "Location",
    "elsewhere",
    "native_layout",
    "parse_key",
]

SNAPSHOT_LEVEL = 9
LEVELS = range(SNAPSHOT_LEVEL + 1)
"""Level 0 as written, levels 1 to 8 merged, level 9 snapshots."""

LINEAGE_KEY = "lineage.json"
"""Whose files they are: `ltx.replica.lineage`."""

_FLAT_SCHEMES = frozenset({"s3", "oss"})
_KEY = re.compile(r"(?:ltx/([0-9])|000([0-9]))/([^/]+)", re.ASCII)
_BELOW = r"(?s)(.+?)/((?:ltx/[0-9]|000[0-9])/[^/]+)"
_INSIDE = r"(?:[0-9]/)?([^/]+)"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """One of the two ways to name a replica's files."""

    template: str

    def key(self, level: int, min_txid: int, max_txid: int) -> str:
        """Return the key of a file."""
        return self.prefix(level) + file_name(min_txid, max_txid)

    def prefix(self, level: int) -> str:
        """Return what the keys of a level begin with."""
        return self.template.format(level=level)


FOLDERS = Layout("ltx/{level}/")
FLAT = Layout("{level:04x}/")


@dataclass(frozen=True, slots=True)
class Location:
    """What a key says of the file under it."""

    layout: Layout
    level: int
    min_txid: TXID
    max_txid: TXID


def native_layout(scheme: str) -> Layout:
    """Return the layout that the real Litestream uses on a storage."""
    return FLAT if scheme in _FLAT_SCHEMES else FOLDERS


def parse_key(key: str) -> Location | None:
    """Return what a key says, in either layout, or None where it is not an LTX file of a replica."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    txids = parse_file_name(match[3])
    if txids is None:
        return None
    layout, level = (FOLDERS, int(match[1])) if match[1] else (FLAT, int(match[2]))
    return Location(layout, level, *txids)


def elsewhere(keys: Iterable[str]) -> str:
    """Return where LTX files lie instead, if a place has none; "" where its keys do not tell.

    Args:
        keys: What is listed there.
    """
    below: dict[str, None] = {}
    for key in keys:
        found = re.fullmatch(_BELOW, key)
        if found and parse_key(found[2]):
            below[found[1]] = None
        elif (found := re.fullmatch(_INSIDE, key)) and parse_file_name(found[1]):
            return "it goes on inside a replica, so leave out its end"
    if not below:
        return ""
    more = f" and {len(below) - _SHOWN} more" if len(below) > _SHOWN else ""
    return f"below it there {'is a replica' if len(below) == 1 else 'are replicas'} at {', '.join([*below][:_SHOWN])}{more}"
