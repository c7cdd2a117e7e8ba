"""Whether what lies on the storage now is the history that a view is of: a replica can be made anew in its place."""

from collections.abc import Sequence

from backends import Backend, NotFoundError
from ltx import LTXFile
from ltx.format import to_timestamp_ms
from ltx.replica.history import is_same_history
from vfs.open_files import FileOpener
from vfs.view import View

__all__ = ["is_anew", "is_lost", "is_shown"]


def is_anew(view: View, listed: Sequence[LTXFile], files: FileOpener) -> bool:
    """Whether other content lies under the names of a view's files: then its TXIDs mean something else now."""
    by_key = {file.key: file for file in listed}
    pairs = [(by_key[opened.file.key], opened) for opened in view.files if opened.file.key in by_key]
    versioned = [pair for pair in pairs if pair[1].file.version]
    by_name = [pair for pair in pairs if not pair[1].file.version][-1:]  # the older ones came before it
    try:
        return any(files.is_another(*pair) for pair in (*by_name, *versioned))
    except NotFoundError:
        return False


def is_shown(view: View, listed: Sequence[LTXFile], backend: Backend) -> bool:
    """Whether files are shown to be of a view's history: by one of its own, or by its last transaction's time.

    That its own are what they were says `is_anew`. With none of them there, others could have its TXIDs.
    """
    own = {opened.file.key for opened in view.files}
    return any(file.key in own for file in listed) or is_same_history(
        backend, listed, view.txid, to_timestamp_ms(view.time), view.page_size, view.commit
    )


def is_lost(view: View, listed: Sequence[LTXFile], files: FileOpener) -> bool:
    """Whether a view's TXID is not there any more: no file reaches it, and that is not for a stale listing."""
    if any(file.max_txid >= view.txid for file in listed):
        return False
    try:
        return files.is_another(view.last.file, view.last, anyway=True)
    except NotFoundError:
        return True
