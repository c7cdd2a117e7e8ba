"""Compressing batches of pages here and in a helper process (docs/design/0004-compression-helper.md)."""

import mmap
import os
import select
import struct
import subprocess
import sys
import tempfile
from array import array
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from ltx.format.compression import BATCH_SIZE, Page, compress_batch
from ltx.format.frame import max_block_size
from ltx.format.header import MIN_PAGE_SIZE

__all__ = ["compressed_by_two"]

_SLOTS = 3
_IN_ORDER = 6
"""Batches in memory that wait for one before them."""

_INPUT_SIZE = max(BATCH_SIZE, 65536)
_MAX_PAGES = _INPUT_SIZE // MIN_PAGE_SIZE
_SLOT_SIZE = _INPUT_SIZE + _MAX_PAGES * (4 + max_block_size(MIN_PAGE_SIZE))
_ORDER = struct.Struct("=III")
_ANSWER_SIZE = 4


def compressed_by_two(
    batches: Iterator[list[Page]], page_size: int
) -> Iterator[tuple[list[Page], list[bytes]]]:
    """Yield batches with their LZ4 blocks, in order; about half of them a helper process compresses.

    Where none can be started, or it dies, all is done here.
    """
    with _Helper(page_size) as helper:
        waiting: deque[_Batch] = deque()
        for batch in batches:
            waiting.append(helper.take(batch))
            while waiting and (len(waiting) > _IN_ORDER or waiting[0].is_done(helper)):
                done = waiting.popleft()
                yield done.pages, done.blocks(helper)
        for done in waiting:
            yield done.pages, done.blocks(helper)


def _is_readable(pipe: IO[bytes]) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))


class _Batch:
    """Pages, and either their blocks or the slot in which the helper puts them."""

    def __init__(self, pages: list[Page], slot: int | None) -> None:
        self.pages = pages
        self._slot = slot
        self._blocks = [] if slot is not None else compress_batch(pages)

    def is_done(self, helper: "_Helper") -> bool:
        return self._slot is None or helper.has_answered(self._slot)

    def blocks(self, helper: "_Helper") -> list[bytes]:
        if self._slot is None:
            return self._blocks
        found = helper.fetch(self._slot, len(self.pages))
        return compress_batch(self.pages) if found is None else found  # it died: nothing is lost


class _Helper:
    """A process that compresses batches which lie in memory shared with it."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._free = list(range(_SLOTS))
        self._answered: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except OSError:
            self._free = []  # no memory, or no more processes: all is done here

    def _start(self) -> None:
        with tempfile.TemporaryFile() as shared:
            shared.truncate(_SLOTS * _SLOT_SIZE)
            self._memory = mmap.mmap(shared.fileno(), 0)
            program = Path(__file__).with_name("lz4_helper.py")
            numbers = [str(number) for number in (shared.fileno(), _INPUT_SIZE, _SLOT_SIZE)]
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, str(program), *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[shared.fileno()],
                bufsize=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def take(self, pages: list[Page]) -> _Batch:
        """Give a batch to the helper if it has a free slot; else compress it here."""
        if not self._free or self._process is None or self._process.stdin is None:
            return _Batch(pages, None)
        slot = self._free.pop()
        data = b"".join([page for _, page in pages])
        start = slot * _SLOT_SIZE
        self._memory[start : start + len(data)] = data
        try:
            self._process.stdin.write(_ORDER.pack(slot, len(pages), self._page_size))
        except OSError:
            return _Batch(pages, None)  # it died; the slot is not used again
        return _Batch(pages, slot)

    def has_answered(self, slot: int) -> bool:
        """Whether a slot's blocks are there, or never will be, without waiting."""
        output = self._process.stdout if self._process else None
        if slot not in self._answered and output is not None and _is_readable(output):
            answers = output.read(_SLOTS * _ANSWER_SIZE)
            self._answered.update(answers[::_ANSWER_SIZE])
            return slot in self._answered or not answers
        return slot in self._answered

    def fetch(self, slot: int, count: int) -> list[bytes] | None:
        """Wait for a slot's blocks, and free the slot; None where the helper died."""
        output = self._process.stdout if self._process else None
        while slot not in self._answered:
            answers = output.read(_SLOTS * _ANSWER_SIZE) if output else b""
            if not answers:
                return None
            self._answered.update(answers[::_ANSWER_SIZE])
        self._answered.discard(slot)
        start = slot * _SLOT_SIZE + _INPUT_SIZE
        sizes = array("I", self._memory[start : start + 4 * count])
        start += 4 * count
        data = self._memory[start : start + sum(sizes)]
        blocks, at = [], 0
        for size in sizes:
            blocks.append(data[at : at + size])
            at += size
        self._free.append(slot)
        return blocks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._memory.close()
