"""Hypothesis strategies for pages, LTX files and chains of files that follow each other."""

from collections.abc import Mapping
from random import Random

from hypothesis import settings
from hypothesis import strategies as st

from tests.support.ltxfiles import ALL_PAGE_SIZES, NO_CHECKSUM, FileSpec, database_checksum

__all__ = ["chains", "fewer", "file_specs", "page_sizes", "pages"]

_MOST_BYTES = 128 * 1024
"""Of pages in one file: the oracle's checksum is plain Python."""

page_sizes = st.sampled_from(ALL_PAGE_SIZES)
_timestamps = st.integers(-(1 << 63), (1 << 63) - 1)


def fewer(share: int) -> settings:
    """Return settings for a test whose examples are expensive: one `share`-th of the profile's number, at least 30."""
    return settings(max_examples=max(30, settings().max_examples // share))


def pages(page_size: int) -> st.SearchStrategy[bytes]:
    """Draw a page: repeated bytes, random ones that LZ4 cannot make smaller, or half of each."""

    def filled(seed: bytes) -> bytes:
        return (seed * (page_size // len(seed) + 1))[:page_size]

    def noise(seed: int) -> bytes:
        return Random(seed).randbytes(page_size)

    flat = st.binary(min_size=1, max_size=8).map(filled)
    rough = st.integers(0, 1 << 20).map(noise)
    return st.one_of(
        flat, rough, st.builds(lambda a, b: a[: page_size // 2] + b[page_size // 2 :], flat, rough)
    )


def _most_pages(page_size: int) -> int:
    return max(2, min(12, _MOST_BYTES // page_size))


@st.composite
def file_specs(draw: st.DrawFn, page_size: int | None = None) -> FileSpec:
    """Draw one valid file: snapshot or increment, with or without checksums, frames of both kinds."""
    size = draw(page_sizes) if page_size is None else page_size
    most = _most_pages(size)
    snapshot = draw(st.booleans())
    commit = draw(st.integers(1, most))
    low = 1 if snapshot else draw(st.integers(2, (1 << 64) - 1))
    numbers = range(1, commit + 1) if snapshot else sorted(draw(st.sets(st.integers(1, commit))))
    content = {pgno: draw(pages(size)) for pgno in numbers}
    flags = draw(st.sampled_from((0, NO_CHECKSUM)))
    offset = draw(st.integers(0, (1 << 63) - 1))
    salts = st.integers(0, (1 << 32) - 1 if offset else 0)
    return FileSpec(
        pages=content,
        page_size=size,
        commit=commit,
        min_txid=low,
        max_txid=draw(st.integers(low, (1 << 64) - 1)),
        timestamp_ms=draw(_timestamps),
        flags=flags,
        pre_checksum=0 if snapshot or flags else draw(st.integers(1 << 63, (1 << 64) - 1)),
        wal_offset=offset,
        wal_size=draw(st.integers(0, (1 << 63) - 1 if offset else 0)),
        wal_salt1=draw(salts),
        wal_salt2=draw(salts),
        node_id=draw(st.integers(0, (1 << 64) - 1)),
        reserved=draw(st.binary(min_size=20, max_size=20)),
        legacy=frozenset(draw(st.sets(st.sampled_from(sorted(content)))) if content else ()),
    )


@st.composite
def chains(draw: st.DrawFn, page_size: int = 512) -> tuple[FileSpec, ...]:
    """Draw files that follow each other, as a writer makes them: each holds every page by which it grows.

    The first is a snapshot or not; files may overlap the TXIDs of the one before; the database grows and shrinks.
    """
    low = draw(st.sampled_from((1, 1, 2, 70)))
    commit = draw(st.integers(1, 10))
    files: list[FileSpec] = []
    for place in range(draw(st.integers(1, 5))):
        before, commit = commit, draw(st.integers(1, 10)) if place else commit
        numbers = set(range(1, commit + 1)) if low == 1 else draw(st.sets(st.integers(1, commit)))
        numbers |= set(range(before + 1, commit + 1))
        content: Mapping[int, bytes] = {pgno: draw(pages(page_size)) for pgno in sorted(numbers)}
        high = low + draw(st.integers(0, 3))
        if files:
            high = max(high, files[-1].last_txid + 1)
        flags = draw(st.sampled_from((0, NO_CHECKSUM)))
        files.append(
            FileSpec(
                pages=content,
                page_size=page_size,
                commit=commit,
                min_txid=low,
                max_txid=high,
                timestamp_ms=draw(st.integers(0, 1 << 41)),
                flags=flags,
                pre_checksum=0 if low == 1 or flags else database_checksum({}),
                node_id=draw(st.integers(0, 9)),
                legacy=frozenset(draw(st.sets(st.sampled_from(sorted(content)))) if content else ()),
            )
        )
        low = max(2, high + 1 - draw(st.integers(0, 2)))
    return tuple(files)
