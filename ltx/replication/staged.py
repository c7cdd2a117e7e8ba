"""LTX files that wait on this machine for their upload: durable, and trusted only while they are what was written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ltx.errors import LTXError
from ltx.format import TXID, Header
from ltx.format.checksum import crc

__all__ = ["LostError", "StagedFile", "opened", "pieces"]

_PIECE = 1 << 20


class LostError(LTXError):
    """A file that waited here is gone, or not what was written: only the database can make up for it."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One LTX file on this machine, durable.

    Attributes:
        level: 0, or 9 for a snapshot.
        min_txid: The first transaction in it.
        max_txid: The last one.
        size: Bytes.
        checksum: What it ends with.
        timestamp_ms: The time in its header.
        path: Where it lies.
        commit: Pages of the database after it.
        page_count: Pages in it.
        digest: The CRC of its bytes.
    """

    level: int
    min_txid: TXID
    max_txid: TXID
    size: int
    checksum: int
    timestamp_ms: int
    path: Path
    commit: int
    page_count: int
    digest: int

    @classmethod
    def at(cls, path: Path, level: int, header: Header, page_count: int, checksum: int) -> "StagedFile":
        """Describe a file that was just written, or read and found to be right."""
        with open(path, "rb") as file:
            return cls(
                level,
                header.min_txid,
                header.max_txid,
                os.fstat(file.fileno()).st_size,
                checksum,
                header.timestamp_ms,
                path,
                header.commit,
                page_count,
                _digest(file),
            )


@contextmanager
def opened(staged: StagedFile) -> Iterator[BinaryIO]:
    """Open a file, at its start, of which all bytes were just seen to be right.

    Raises:
        LostError: They are not, or it is gone.
    """
    try:
        file = open(staged.path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise LostError(f"it is gone: {staged.path}") from error
    with file:
        try:
            sound = _digest(file) == staged.digest
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            sound = False
        if not sound:
            raise LostError(f"it is damaged: {staged.path}")
        file.seek(0)
        yield file


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, a MiB at a time."""
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _digest(file: BinaryIO) -> int:
    digest = crc(b"")
    while piece := file.read(_PIECE):
        digest = crc(piece, digest)
    return digest
