"""The hashes of the pages of LTX files, on their way to the table."""

from array import array
from collections.abc import Iterable, Iterator

from ltx.errors import CorruptError
from ltx.format import Decoder, Header
from ltx.replica.apply import pages_between
from ltx.replication.table import HASH_SIZE, TableWriter, page_hash

__all__ = ["PageHashes", "hashed", "write_hashes"]


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
