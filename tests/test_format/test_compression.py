"""Large files are compressed on two cores: the same bytes, whatever becomes of the helper process."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ltx.format import compression
from ltx.format.compression import compressed
from ltx.format.frame import compress_page

PAGE_SIZE, COUNT = 4096, 3000


@pytest.fixture(autouse=True)
def _early_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_ALONE", 2)


def pages() -> Iterator[tuple[int, bytes]]:
    noise = Random(11)
    for pgno in range(1, COUNT + 1):
        yield pgno, noise.randbytes(PAGE_SIZE // 2) + bytes(PAGE_SIZE // 2)


def expected() -> list[tuple[int, bytes]]:
    return [(pgno, compress_page(page)) for pgno, page in pages()]


def found(source: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [
        (pgno, block)
        for batch, blocks in compressed(source, PAGE_SIZE)
        for (pgno, _), block in zip(batch, blocks, strict=True)
    ]


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_a_helper_gives_the_same_blocks_in_the_same_order_and_ends() -> None:
    before = children()
    seen: set[int] = set()

    def watched() -> Iterator[tuple[int, bytes]]:
        for pgno, page in pages():
            seen.update(children())
            yield pgno, page

    assert found(watched()) == expected()
    assert len(seen - set(before)) == 1
    assert children() == before


@pytest.mark.parametrize("victim_page", [300, 700, COUNT - 1])
def test_a_helper_that_is_killed_costs_nothing_but_time(victim_page: int) -> None:
    before = children()

    def killing() -> Iterator[tuple[int, bytes]]:
        for pgno, page in pages():
            if pgno == victim_page:
                for pid in set(children()) - set(before):
                    os.kill(pid, signal.SIGKILL)
            yield pgno, page

    assert found(killing()) == expected()


def test_where_no_helper_can_be_started_all_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refused)
    assert found(pages()) == expected()


def test_giving_up_midway_leaves_no_process() -> None:
    before = children()
    stream = compressed(pages(), PAGE_SIZE)
    for _ in range(8):
        next(stream)
    assert children() != before
    stream.close()  # type: ignore[attr-defined]
    assert children() == before


def test_a_small_file_starts_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_ALONE", 32)
    before = children()
    for _ in compressed(pages(), PAGE_SIZE):
        assert children() == before
