"""The files of one replica as the cache on disk knows them."""

import struct
from collections.abc import Callable, Mapping, Sequence

from backends import Backend
from ltx import LTXFile
from ltx.format.decoder import TRAILER_SIZE
from ltx.format.index import PageIndex
from vfs.cache import Frame, PageKey, file_number, page_number
from vfs.disk_cache import DiskCache, FileName
from vfs.view import Run

__all__ = ["KeptFiles"]

_HEAD = struct.Struct(">QQ")
_MOST_ENDS_SIZE = 8 << 20
"""Bytes by which a file is opened that are worth keeping: the pages of a longer index are asked for as they are needed."""


class KeptFiles:
    """Frames and openings of one replica's files on disk. Safe to use from several threads.

    Args:
        disk: Where.
        url: Of the replica: others in the same cache have files of the same names.

    Attributes:
        on_whole: Called with the number, the bytes and the page index of a file that was read whole and verified.
    """

    def __init__(self, disk: DiskCache, url: str) -> None:
        self._disk = disk
        self._url = url
        self._names: dict[int, FileName] = {}
        self.on_whole: Callable[[int, bytes, PageIndex], None] | None = None

    def name(self, number: int, file: LTXFile, trailer: bytes) -> None:
        """Say which file a number stands for from now on."""
        self._names[number] = (self._place(file), trailer)

    def named(self, number: int) -> FileName:
        """Return which file a number stands for."""
        return self._names[number]

    @property
    def prefix(self) -> str:
        """How the places of this replica's files begin."""
        return f"{self._url}\n"

    def frames(self, run: Run) -> Mapping[int, Frame]:
        """Return those frames of a run that are kept."""
        return self._disk.get(self._names[run.file.number], run.pgnos)

    def keep(self, frames: Mapping[PageKey, Frame]) -> None:
        """Keep frames."""
        of_file: dict[int, list[tuple[int, bytes]]] = {}
        for key, frame in frames.items():
            of_file.setdefault(file_number(key), []).append((page_number(key), bytes(frame)))
        for number, some in of_file.items():
            self._disk.put(self._names[number], some)

    def proven(
        self, files: Sequence[LTXFile], backend: Backend
    ) -> dict[LTXFile, Sequence[tuple[int, bytes]]]:
        """Return the pieces by which files can be opened, of those that are kept and proven by their last bytes.

        That is one request for each file that is kept, all at once.

        Raises:
            NotFoundError: A file is gone.
        """
        known = {file: ends for file in files if (ends := self._disk.ends(self._place(file)))}
        if not known:
            return {}
        trailers = backend.get_ranges([(file.key, file.size - TRAILER_SIZE, file.size) for file in known])
        return {
            file: _unpacked(ends[trailer])
            for (file, ends), trailer in zip(known.items(), trailers, strict=True)
            if trailer in ends
        }

    def keep_opening(self, file: LTXFile, trailer: bytes, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Keep the pieces by which a file was opened."""
        if sum(len(data) for _, data in pieces) <= _MOST_ENDS_SIZE:
            packed = b"".join(_HEAD.pack(start, len(data)) + data for start, data in pieces)
            self._disk.keep_ends((self._place(file), trailer), packed)

    def _place(self, file: LTXFile) -> str:
        return f"{self.prefix}{file.key}\n{file.size}"


def _unpacked(packed: bytes) -> Sequence[tuple[int, bytes]]:
    pieces = []
    at = 0
    while at < len(packed):
        start, size = _HEAD.unpack_from(packed, at)
        at += _HEAD.size
        pieces.append((start, packed[at : at + size]))
        at += size
    return pieces
