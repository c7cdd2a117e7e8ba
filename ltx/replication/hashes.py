"""The hashes of the pages of LTX files, on their way to the table."""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from ltx.errors import CorruptError
from ltx.format import TXID, Decoder, Header
from ltx.replica.apply import pages_between
from ltx.replication.table import HASH_SIZE, PageTable, TableWriter, page_hash

__all__ = ["PageHashes", "fold", "hashed", "write_hashes"]


class PageHashes:
    """The hashes of the pages of one file, kept from when it was written until the table has them.

    Args:
        header: The header of the file.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self._pgnos, self._hashes = array("I"), bytearray()

    def passing(self, pages: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Yield pages as they come, and keep the hash of each."""
        for pgno, page in pages:
            self._pgnos.append(pgno)
            self._hashes += page_hash(page)
            yield pgno, page

    @property
    def count(self) -> int:
        """Of how many pages."""
        return len(self._pgnos)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for place, pgno in enumerate(self._pgnos):
            yield pgno, bytes(self._hashes[place * HASH_SIZE : (place + 1) * HASH_SIZE])


def hashed(decoder: Decoder) -> Iterator[tuple[int, bytes]]:
    """Yield the page numbers of a file, and the hashes of its pages."""
    for pgno, page in decoder:
        yield pgno, page_hash(page)


def write_hashes(
    header: Header, hashes: Iterable[tuple[int, bytes]], before: Header | None, writer: TableWriter
) -> None:
    """Write down the pages of one file, which must fit the one before it: else no restore could use it."""
    old_commit, grown = before.commit if before else 0, 0
    if before and header.page_size != before.page_size:
        raise CorruptError(f"pages of {header.page_size} bytes after pages of {before.page_size}", offset=8)
    for pgno, digest in hashes:
        writer.put(pgno, digest)
        grown += pgno > old_commit
    if grown != pages_between(old_commit, header):
        raise CorruptError(
            f"the database grows from {old_commit} to {header.commit} pages, and some are missing"
        )
    writer.resize(header.commit)


def fold(
    path: Path,
    known: PageTable | None,
    transactions: Iterable[tuple[Header, Iterable[tuple[int, bytes]]]],
) -> TableWriter:
    """Make the table that transactions lead to, still to be installed; the caller closes it.

    Args:
        path: Where it is to go.
        known: What they follow; None for nothing: then the first of them has all pages.
        transactions: The header of each and the hashes of its pages, one at least.
    """
    writer: TableWriter | None = None
    before: Header | None = None
    try:
        for header, found in transactions:
            if writer is None:
                writer = TableWriter(path, header.page_size, known.commit if known else header.commit)
                if known:
                    writer.copy(known)
                    before = _like(header, known.commit)
            write_hashes(header, found, before, writer)
            before = header
    except BaseException:
        if writer:
            writer.close()
        raise
    assert writer is not None
    return writer


def _like(header: Header, commit: int) -> Header:
    """Return a header that stands for the state before a file."""
    return Header(
        page_size=header.page_size, commit=commit, min_txid=TXID(1), max_txid=TXID(1), timestamp_ms=0
    )
