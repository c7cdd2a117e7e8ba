"""Following a replica by name: the next file of level 0 can have but one, so no listing is needed to find it."""

from collections.abc import Callable
from functools import partial

from backends import NotFoundError
from ltx import TXID
from ltx.replica.apply import FileError
from ltx.replica.layout import Layout
from vfs.open_files import FileOpener
from vfs.view import OpenFile, View
from vfs.waiting import together

__all__ = ["files_behind"]

_AT_ONCE = (1, 2, 4)
"""Names beyond the next one that are looked at together, one group after the other, while all of them are there."""


def files_behind(view: View, files: FileOpener, layout: Layout) -> list[OpenFile] | None:
    """Return the files of level 0 that follow a view, none where the next one is not there.

    One request where there is nothing. Where there is something, the view's last file is looked at too: the
    replica could have been made anew, and the next name belong to another history.

    Returns:
        The files in order; None where only a listing can tell, because there are many, or one is damaged.
    """

    def named(txid: int) -> OpenFile | None:
        return files.open_next(layout.key(0, txid, txid), 0, TXID(txid))

    def is_same() -> bool:
        return not files.is_another(view.last.file, view.last, anyway=True)

    try:
        following = [named(view.txid + 1)]
        if following[0] is None:
            return []
        for count in _AT_ONCE:
            first = view.txid + len(following) + 1
            works: list[Callable[[], OpenFile | bool | None]] = [
                partial(named, txid) for txid in range(first, first + count)
            ]
            *found, same = together([*works, is_same if len(following) == 1 else bool])
            if len(following) == 1 and not same:
                return None
            following += [each if isinstance(each, OpenFile) else None for each in found]
            if None in following:
                return [each for each in following[: following.index(None)] if each is not None]
    except (FileError, NotFoundError):
        pass
    return None
