"""What the extension and the helper process say to each other, on one machine (vfs/extension/litestream.h).

A frame is the size of what follows its first five bytes, a kind in the fifth, and that much payload. A request has an
operation as its kind; an answer has 0 and what was asked for, or 1 and SQLite's code and a text. Numbers are in the
machine's order; a text is its size in 4 bytes, and UTF-8; all ones are no text. UNLOCK and CANCEL have no answer.
"""

import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Literal

from vfs.file import ReplicaFile

__all__ = ["Operation", "Reader", "error_reply", "frame", "numbers", "state"]

_NO_TEXT = 0xFFFFFFFF
_STATE = struct.Struct("=IIIQB")


class Operation(IntEnum):
    """What a client asks for."""

    OPEN = 1
    LOCK = 2
    UNLOCK = 3
    READ = 4
    PRAGMA = 5
    CANCEL = 6


class Reader:
    """Reads a payload from its start.

    Args:
        payload: All of it.
    """

    ORDER: Final[Literal["little", "big"]] = sys.byteorder

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._payload) - self._at

    def u32(self) -> int:
        """Return a number of 4 bytes."""
        return int.from_bytes(self._take(4), self.ORDER)

    def u64(self) -> int:
        """Return a number of 8 bytes."""
        return int.from_bytes(self._take(8), self.ORDER)

    def text(self) -> str | None:
        """Return a text, or None."""
        size = self.u32()
        return None if size == _NO_TEXT else self._take(size).decode(errors="surrogateescape")

    def _take(self, size: int) -> bytes:
        taken = self._payload[self._at : self._at + size]
        self._at += size
        return taken


def numbers(size: Literal["I", "Q"], values: Sequence[int]) -> bytes:
    """Return numbers of 4 (I) or 8 (Q) bytes each."""
    return struct.pack(f"={len(values)}{size}", *values)


def frame(kind: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack("=IB", len(payload), kind) + payload


def error_reply(error: Exception) -> bytes:
    """Return the answer that a request failed: SQLite's code and one line."""
    code: int = error.extendedresult  # type: ignore[attr-defined]
    text = " ".join(str(error).split()) or type(error).__name__
    return frame(1, struct.pack("=I", code) + text.encode(errors="replace"))


def state(file: ReplicaFile) -> bytes:
    """Return what a client must know of the view: page size, pages, lineage, TXID, and whether a time was set."""
    view = file.view
    return _STATE.pack(view.page_size, view.commit, view.lineage & 0xFFFFFFFF, view.txid, file.is_fixed)
