"""The cache on disk as hydration writes it: what it brings stays, and what no view needs any more goes."""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import apsw

from vfs.disk_cache import DiskCache, FileName, taken

__all__ = ["FullError", "HydrationStore"]

_AT_ONCE = 2000
"""Entries that are removed in one transaction."""

_LAST = 0xFFFFFFFF
_REMOVE_OTHERS = """
DELETE FROM frames WHERE id IN (
    SELECT id FROM frames INDEXED BY frames_by_use WHERE id >> 32 NOT IN (SELECT value FROM json_each(?))
    ORDER BY used, id LIMIT ?
)
"""


class FullError(Exception):
    """There is no room but that of pages which hydration itself needs."""


class HydrationStore(DiskCache):
    """A second way into a cache on disk, so that no query waits while it writes.

    Args:
        path: The database.
        max_size: Bytes that it may take.
        prefix: How the places of the replica's files begin.
    """

    def __init__(self, path: Path, max_size: int, prefix: str) -> None:
        super().__init__(path, max_size)
        self._prefix = prefix
        self._needed: set[FileName] = set()

    def need(self, name: FileName) -> None:
        """Give up no frame of a file for others from now on."""
        self._needed.add(name)

    def is_verified(self, name: FileName) -> bool:
        """Whether all of a file was read once, and its checksum was right."""

        def read(db: apsw.Connection) -> bool:
            asked = "SELECT 1 FROM verified WHERE file = ?"
            return db.execute(asked, (self._id(db, name),)).get is not None

        return self._guarded(read, False)

    def set_verified(self, name: FileName) -> bool:
        """Keep that a file was verified; return whether that worked."""

        def write(db: apsw.Connection) -> None:
            db.execute("INSERT OR IGNORE INTO verified VALUES (?)", (self._id(db, name, make=True),))

        return self._written(write)

    def drop(self, name: FileName) -> bool:
        """Remove all frames of a file; return whether that worked."""

        def write(db: apsw.Connection) -> None:
            _drop(db, self._id(db, name))

        return self._written(write)

    def trim(self, wanted: Mapping[FileName, Sequence[int]], *, others: bool) -> None:
        """Remove the frames of the replica's files that nobody wants.

        Args:
            wanted: The pages to keep, ascending, by file.
            others: Also those of the replica's other files.
        """
        asked = "SELECT id, place, trailer FROM files WHERE substr(place, 1, ?) = ?"

        def read(db: apsw.Connection) -> list[tuple[int, FileName]]:
            found = db.execute(asked, (len(self._prefix), self._prefix))
            return [(int(str(file)), (str(place), bytes(trailer))) for file, place, trailer in found]

        known: list[tuple[int, FileName]] = self._guarded(read, [])
        for file, name in known:
            if name in wanted:
                self._thin(file, wanted[name])
            elif others:
                self._written(partial(_forget, file))
        self._needed &= set(wanted)

    def _thin(self, file: int, pgnos: Sequence[int]) -> None:
        asked = "SELECT id & 0xFFFFFFFF FROM frames WHERE id BETWEEN ? AND ?"
        going: list[int] = self._guarded(
            lambda db: [pgno for (pgno,) in db.execute(asked, _span(file)) if not _holds(pgnos, pgno)], []
        )
        for begin in range(0, len(going), _AT_ONCE):
            ids = [(file << 32 | pgno,) for pgno in going[begin : begin + _AT_ONCE]]
            self._written(partial(_delete, ids))

    def _make_room(self, db: apsw.Connection, size: int) -> None:
        """Remove what was not used for longest and is not needed here.

        Raises:
            FullError: That is not enough.
        """
        needed = json.dumps([self._id(db, name) for name in self._needed])
        while taken(db) > self.room - size * 5 // 4:
            db.execute(_REMOVE_OTHERS, (needed, _AT_ONCE))
            if not db.changes():
                raise FullError


def _drop(db: apsw.Connection, file: int) -> None:
    db.execute("DELETE FROM frames WHERE id BETWEEN ? AND ?", _span(file))
    db.execute("DELETE FROM verified WHERE file = ?", (file,))


def _forget(file: int, db: apsw.Connection) -> None:
    _drop(db, file)
    db.execute("UPDATE files SET ends = NULL WHERE id = ?", (file,))


def _delete(ids: Sequence[tuple[int]], db: apsw.Connection) -> None:
    db.executemany("DELETE FROM frames WHERE id = ?", ids)


def _span(file: int) -> tuple[int, int]:
    return file << 32, file << 32 | _LAST


def _holds(pgnos: Sequence[int], pgno: int) -> bool:
    """Whether a number is one of some ascending ones."""
    place = bisect_left(pgnos, pgno)
    return place < len(pgnos) and pgnos[place] == pgno
