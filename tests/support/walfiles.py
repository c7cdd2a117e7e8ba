"""Write-ahead logs built from plain data, and read by plain rules: the oracle for `ltx.replication.wal`.

Written from SQLite's description of the file format; nothing here calls `ltx`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Frame", "WALSpec", "committed", "reader"]

LITTLE, BIG = 0x377F0682, 0x377F0683


def checksum(data: bytes, order: str, before: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Return SQLite's WAL checksum of data, two words at a time."""
    one, two = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        one = (one + words[place] + two) & 0xFFFFFFFF
        two = (two + words[place + 1] + one) & 0xFFFFFFFF
    return one, two


@dataclass(frozen=True)
class Frame:
    """One frame; `commit` is not 0 in the last one of a transaction."""

    pgno: int
    page: bytes
    commit: int = 0


@dataclass(frozen=True, kw_only=True)
class WALSpec:
    """A valid WAL as plain data."""

    frames: Sequence[Frame]
    page_size: int = 512
    magic: int = LITTLE
    version: int = 3007000
    sequence: int = 0
    salts: bytes = b"saltSALT"

    @property
    def order(self) -> str:
        return ">" if self.magic == BIG else "<"

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        head = struct.pack(">IIII", self.magic, self.version, self.page_size, self.sequence) + self.salts
        running = checksum(head, self.order)
        parts = [head, struct.pack(">II", *running)]
        for frame in self.frames:
            start = struct.pack(">II", frame.pgno, frame.commit)
            running = checksum(start + frame.page, self.order, running)
            parts += start, self.salts, struct.pack(">II", *running), frame.page
        return b"".join(parts)


def committed(data: bytes) -> tuple[int, dict[int, int], int] | None:
    """Read a WAL frame by frame: the commit, the offset of each page's newest image, where the last commit ends.

    None where the header is none.
    """
    if len(data) < 32:
        return None
    magic, version, page_size = struct.unpack_from(">III", data)
    if magic not in (LITTLE, BIG) or version != 3007000:
        return None
    if page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        return None
    order = ">" if magic == BIG else "<"
    running = checksum(data[:24], order)
    if running != struct.unpack_from(">II", data, 24):
        return None
    commit, end = 0, 32
    done: dict[int, int] = {}
    open_pages: dict[int, int] = {}
    at = 32
    while at + 24 + page_size <= len(data):
        pgno, size = struct.unpack_from(">II", data, at)
        running = checksum(data[at : at + 8] + data[at + 24 : at + 24 + page_size], order, running)
        if not pgno or data[at + 8 : at + 16] != data[16:24]:
            break
        if running != struct.unpack_from(">II", data, at + 16):
            break
        open_pages[pgno] = at + 24
        at += 24 + page_size
        if size:
            done |= open_pages
            open_pages = {}
            commit, end = size, at
    return commit, done, end


class reader:  # noqa: N801 - used as a function
    """Read a WAL as SQLite's own file method does: zeros stand for what lies beyond the end."""

    def __init__(self, data: bytes, *, padded: bool = True) -> None:
        self.data = data
        self.padded = padded
        self.most = 0

    def __call__(self, offset: int, size: int) -> bytes:
        self.most = max(self.most, size)
        found = self.data[offset : offset + size]
        return found.ljust(size, b"\0") if self.padded else found
