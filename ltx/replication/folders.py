"""Finding the databases in a folder without disturbing those that are replicated."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ltx.replication.config.values import Folder

__all__ = ["Found", "Identity", "find", "identity"]

_MAGIC = b"SQLite format 3\x00"
_OURS = "-litestream"

Identity = tuple[int, int]
"""A file whatever its name: device and inode."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a folder.

    Attributes:
        databases: The databases, sorted.
        folders: The folders that were looked into.
        others: Names under which databases are there that have another one, too.
    """

    databases: tuple[Path, ...]
    folders: tuple[Path, ...]
    others: tuple[Path, ...]


def find(folder: Folder, known: Mapping[Path, Identity], held: Collection[Identity] = ()) -> Found:
    """Look for the databases of a folder. A file is one if its name matches and it begins as SQLite's files do.

    Files that are replicated already are not opened, under whatever name: closing them would drop the locks that this
    process has on them.

    Args:
        folder: What to look for.
        known: What is replicated already.
        held: Files that we may have open still under a name that they had.

    Raises:
        ConfigFileError: The folder cannot be read.
    """
    open_files = set(known.values())
    databases: list[Path] = []
    folders: list[Path] = []
    others: list[Path] = []
    for place, names in _walk(folder):
        folders.append(place)
        for name in names:
            path = place / name
            if not folder.matches(name):
                continue
            if path in known:
                databases.append(path)
            elif (found := identity(path)) in open_files:
                others.append(path)
            elif found is not None and found not in held and _begins_as_database(path):
                open_files.add(found)
                databases.append(path)
    return Found(tuple(databases), tuple(folders), tuple(others))


def _walk(folder: Folder) -> Iterator[tuple[Path, Collection[str]]]:
    def fail(error: OSError) -> None:
        if Path(error.filename) == folder.path:
            reason = f"the folder {folder.path} cannot be read: {error.strerror}; check 'dir', or make it"
            raise folder.line.error(reason) from error
        # One below may be gone again, or be somebody else's.

    for place, below, names in os.walk(folder.path, onerror=fail):
        below[:] = sorted(name for name in below if not name.endswith(_OURS)) if folder.recursive else []
        yield Path(place), sorted(names)


def identity(path: Path) -> Identity | None:
    """Return which file a path leads to; None where it is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _begins_as_database(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
