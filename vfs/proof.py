"""Proof that what was read is what the files of a view say, where they were not verified whole."""

from collections.abc import Sequence

from ltx import CorruptError
from ltx.format.frame import FRAME_HEAD
from ltx.replica.apply import FileError
from vfs.view import Doubt, View

__all__ = ["check_commit", "dispelled"]


def check_commit(view: View, page_one: bytes) -> None:
    """See that the file that says how many pages there are does not deny some, where it was not verified.

    SQLite itself would find out, if a reader's page 1 did not have the number that the file says.
    """
    stated = int.from_bytes(page_one[28:32], "big")
    if view.last.is_verified or page_one[24:28] != page_one[92:96] or stated <= view.commit:
        return
    raise FileError(
        view.last.file, CorruptError(f"a database of {stated} pages would have {view.commit}", offset=12)
    )


def dispelled(doubts: Sequence[Doubt], read: Sequence[bytes]) -> Sequence[bytes]:
    """See that what was in doubt is right, and return what was read behind it."""
    for doubt, heads in zip(doubts, read, strict=False):
        _dispel(doubt, heads)
    return read[len(doubts) :]


def _dispel(doubt: Doubt, frames: bytes) -> None:
    """See that the frames around a place are those that the index names.

    Raises:
        FileError: They are not.
    """
    for pgno, start in doubt.heads:
        head = frames[start : start + FRAME_HEAD.size]
        if len(head) < FRAME_HEAD.size or FRAME_HEAD.unpack(head)[0] != pgno:
            raise FileError(
                doubt.file.file,
                CorruptError(
                    f"the page index names page {pgno} where another lies", offset=doubt.start + start
                ),
            )
    doubt.file.proven.add(doubt.place)
