"""What was read of a run: its frames, or its pages where there are many of them."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from operator import add, ne

from ltx.format.frame import decode_frames
from vfs.cache import Frame
from vfs.view import Run

__all__ = ["frames_in", "pages_in", "parts_of"]

_TOGETHER = 16
"""Frames that are worth decoding at once; fewer stay as they are until they are asked for."""

_TOGETHER_SIZE = 1024 << 10
"""Bytes of pages that are decoded at once: little enough to stay in a processor's cache until they are cut."""


def frames_in(run: Run, data: bytes | memoryview) -> list[Frame]:
    """Return the frames of a run, fewer where the file turned out to be shorter.

    Args:
        run: The run.
        data: What was read of it.
    """
    size = len(data)
    return [
        Frame(data[start : start + length])
        for start, length in zip(run.starts, run.sizes, strict=True)
        if start < size
    ]


def pages_in(run: Run, data: bytes | memoryview, page_size: int) -> Sequence[bytes]:
    """Return the pages of a part of a run, or their frames: where they are few, or one is damaged.

    Args:
        run: The part, one that `parts_of` gives.
        data: What was read of it, from its first byte on, and maybe more.
        page_size: Bytes of a page.
    """
    pages = None
    if len(run.pgnos) >= _TOGETHER and run.end - run.start <= len(data):
        pages = decode_frames(data, run.pgnos, run.starts, run.sizes, page_size)
    return frames_in(run, data) if pages is None else pages


def parts_of(run: Run, page_size: int) -> Iterator[Run]:
    """Cut a run into parts of so many pages as are decoded at once, with nothing between the frames of a part."""
    most = max(1, _TOGETHER_SIZE // page_size)
    gaps: list[int] = []
    if sum(run.sizes) < run.end - run.start:
        ends = map(add, run.starts, run.sizes)
        gaps = [place for place, is_gap in enumerate(map(ne, ends, islice(run.starts, 1, None)), 1) if is_gap]
    for begin, end in pairwise((0, *gaps, len(run.pgnos))):
        for start in range(begin, end, most):
            yield run.cut(start, min(start + most, end))
