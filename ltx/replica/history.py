"""Whether the files of a replica are of the history that a reader knows: names and TXIDs are used again."""

from collections.abc import Sequence

from backends import Backend, NotFoundError
from ltx.errors import CorruptError, UnsupportedVersionError
from ltx.format import HEADER_SIZE, Header
from ltx.replica.files import LTXFile

__all__ = ["is_same_history"]


def is_same_history(
    backend: Backend, files: Sequence[LTXFile], txid: int, time_ms: int, page_size: int, commit: int
) -> bool:
    """Whether a file ends with a transaction of that TXID, time, page size and count of pages.

    A merged file keeps the time of its last transaction to the millisecond, which no other database shares but by
    accident. One request for each file that ends there, all at once; none where no file does, which proves nothing.

    Args:
        backend: The replica's.
        files: What is listed.
        txid: The transaction.
        time_ms: When it was committed, in milliseconds since 1970.
        page_size: Bytes of a page.
        commit: Pages in the database after it.
    """
    ending = [(file.key, 0, HEADER_SIZE) for file in files if file.is_usable and file.max_txid == txid]
    try:
        headers = [Header.unpack(data) for data in backend.get_ranges(ending)] if ending else []
    except (NotFoundError, CorruptError, UnsupportedVersionError):
        return False
    known = txid, time_ms, page_size, commit
    return any(
        (header.max_txid, header.timestamp_ms, header.page_size, header.commit) == known for header in headers
    )
