"""What a database has and a replica lacks: all pages compared with a table of hashes, the difference encoded."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from ltx.format import NO_CHECKSUM, TXID, Encoder, Header
from ltx.replica.apply import Progress
from ltx.replication.source import PinnedDatabase
from ltx.replication.table import HASH_SIZE, PageTable, TableWriter, page_hash

__all__ = ["WAL_OFFSET", "stage_difference"]

WAL_OFFSET = 32
"""In level 0, what makes the real Litestream begin at the start of the WAL when it takes the replica over."""


def stage_difference(
    source: PinnedDatabase,
    txid: TXID,
    table: PageTable | None,
    table_path: Path,
    staged: BinaryIO,
    progress: Progress | None = None,
) -> tuple[Encoder, TableWriter] | None:
    """Encode what a pinned database has and the table does not, as one transaction, into an empty file.

    Args:
        source: The database.
        txid: The transaction to write.
        table: What is there already; None for nothing that a file could follow: then all pages are written, as a
            snapshot from TXID 1.
        table_path: Where the table that belongs to the new state is to go.
        staged: Where the file goes; not synced yet.
        progress: Called with the pages compared and the pages in all.

    Returns:
        The encoder, at its end, and the new table, which is still to be installed; None where nothing differs.

    Raises:
        MovedError: The WAL began anew meanwhile: what was written does not count.
    """
    with ExitStack() as undo:
        writer = undo.enter_context(closing(TableWriter(table_path, source.page_size, source.commit)))
        if table and table.page_size != source.page_size:
            table = None  # VACUUM changed it: no increment can follow, a snapshot can
        changed = _changed_pages(source, table, writer, progress)
        first = next(changed, None)
        if first is None and table and table.commit == source.commit:
            return None
        whole = table is None and txid != 1
        header = Header(
            page_size=source.page_size,
            commit=source.commit,
            min_txid=TXID(1) if whole else txid,
            max_txid=txid,
            timestamp_ms=source.timestamp_ms,
            flags=NO_CHECKSUM,
            wal_offset=0 if whole else WAL_OFFSET,
        )
        encoder = Encoder(header, chain([first] if first else [], changed))
        staged.writelines(encoder)
        undo.pop_all()
        return encoder, writer


def _changed_pages(
    source: PinnedDatabase, table: PageTable | None, writer: TableWriter, progress: Progress | None
) -> Iterator[tuple[int, bytes]]:
    """Yield the pages that the replica lacks, and write down the hashes of all."""
    following = 1
    for pgno, page in source.pages():
        if pgno != following:
            writer.append(bytes(HASH_SIZE))  # the lock page
        following = pgno + 1
        digest = page_hash(page)
        writer.append(digest)
        if table is None or table.hash_of(pgno) != digest:
            yield pgno, page
        if progress and not pgno & 0x3FF:
            progress(pgno, source.commit)
    if progress:
        progress(source.commit, source.commit)
