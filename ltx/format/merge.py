"""Several files that follow each other, made into one (docs/formats/ltx.md, Merging)."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ltx.errors import NonContiguousError
from ltx.format.decoder import Decoder
from ltx.format.encoder import Encoder
from ltx.format.header import NO_CHECKSUM, Header

__all__ = ["merge"]


def merge(inputs: Sequence[Decoder]) -> Encoder:
    """Return the file that does what the inputs do one after the other.

    Of each page the latest image is kept; pages beyond the last commit are dropped. Commit, time and max TXID
    are those of the last input, min TXID that of the first; WAL fields and node id are not kept. All inputs
    are read at the same time, each in one pass.

    Args:
        inputs: In TXID order. One may overlap the one before it, but must go beyond it.

    Raises:
        ValueError: There are no inputs, or their page sizes differ.
        NonContiguousError: One does not follow the one before it.
        CorruptError: While iterating over the result: an input is damaged.
    """
    if not inputs:
        raise ValueError("nothing to merge")
    headers = [decoder.header for decoder in inputs]
    for before, after in pairwise(headers):
        if after.page_size != before.page_size:
            raise ValueError(
                f"files of different page sizes cannot be merged: {before.page_size}, {after.page_size}"
            )
        if not (after.min_txid <= before.max_txid + 1 and after.max_txid > before.max_txid):
            raise NonContiguousError(
                f"TXIDs {after.min_txid:016x} to {after.max_txid:016x} do not follow {before.max_txid:016x}",
                after=before.max_txid,
                before=after.min_txid,
            )
    last = headers[-1]
    header = Header(
        page_size=last.page_size,
        commit=last.commit,
        min_txid=headers[0].min_txid,
        max_txid=last.max_txid,
        timestamp_ms=last.timestamp_ms,
        flags=NO_CHECKSUM,
    )
    return Encoder(header, _latest(inputs, last.commit))


def _latest(inputs: Sequence[Decoder], commit: int) -> Iterator[tuple[int, bytes]]:
    """Yield the latest image of each page up to commit, reading every input to its end."""

    def ranked(decoder: Decoder, rank: int) -> Iterator[tuple[int, int, bytes]]:
        for pgno, page in decoder:
            yield pgno, rank, page

    streams = [ranked(decoder, -place) for place, decoder in enumerate(inputs)]
    previous = 0
    for pgno, _, page in heapq.merge(*streams):
        if pgno != previous and pgno <= commit:
            yield pgno, page
        previous = pgno
