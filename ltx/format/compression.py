"""Compressing the pages of a file in batches, those of a large one on two cores."""

from collections.abc import Iterator
from itertools import chain, islice

from ltx.format.frame import compress_page

__all__ = ["BATCH_SIZE", "Page", "compress_batch", "compressed"]

Page = tuple[int, bytes]

BATCH_SIZE = 512 << 10
"""Bytes of pages that are compressed at a time."""

_ALONE = 32
"""Batches, 16 MiB, before a helper is started: it takes some hundredths of a second."""


def compressed(pages: Iterator[Page], page_size: int) -> Iterator[tuple[list[Page], list[bytes]]]:
    """Yield pages in batches of about 512 KiB, with their LZ4 blocks, in order.

    Of a file beyond 16 MiB a helper process compresses about half of the batches.
    """
    count = max(1, BATCH_SIZE // page_size)
    batches = iter(lambda: list(islice(pages, count)), [])
    for batch in islice(batches, _ALONE):
        yield batch, compress_batch(batch)
    first = next(batches, None)
    if first is not None:
        from ltx.format.two_processes import compressed_by_two  # it loads what a small file does without

        yield from compressed_by_two(chain([first], batches), page_size)


def compress_batch(batch: list[Page]) -> list[bytes]:
    """Return the LZ4 blocks of pages."""
    return [compress_page(page) for _, page in batch]
