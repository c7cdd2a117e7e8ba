"""From the WAL of a live database to pages: what was committed since the last look, each page once.

Under a pin (`ltx.replication.pins`) the frames follow one after the other, and the WAL begins anew only when all of
its frames were seen. Whatever else is found is a `Doubt`, after which only `rebase` leads on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
from numpy.typing import NDArray

from ltx.format import lock_page
from ltx.replication.pins import Doubt, Pins
from ltx.replication.source import PinnedDatabase, hold
from ltx.replication.wal import (
    FRAME_HEAD_SIZE,
    WAL_HEADER_SIZE,
    WALHeader,
    committed_frames,
    valid_frames,
)

__all__ = ["Capture", "Captured", "Followed"]

_IN_MEMORY = 16 << 20
"""Bytes of frames beyond which a transaction goes to a temporary file."""

_READ_SIZE = 1 << 18
_MEANWHILE_S = 0.01
_GIVE_WAY_S, _GIVE_WAY_STEP_S = 0.1, 0.002
_COPIED_IN_S = 50 << 20
"""Bytes of the WAL that a checkpoint brings over in a second, where disks are slow."""


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a database was followed.

    Attributes:
        page_size: Bytes of a page.
        commit: Pages of the database.
        raw_header: The WAL's first 32 bytes.
        header: What they say; None where there is no WAL to speak of.
        end: Bytes of the WAL that were seen.
        checksum: The running checksum there.
        restarted: Whether the WAL began anew since the pin began; it may not do so twice.
    """

    page_size: int
    commit: int
    raw_header: bytes
    header: WALHeader | None
    end: int
    checksum: tuple[int, int]
    restarted: bool = False


class Captured:
    """The pages of some transactions, each as the last of them left it. Close it after use.

    Attributes:
        page_size: Bytes of a page.
        commit: Pages of the database then.
        timestamp_ms: When they were looked at.
        page_count: How many pages.
        wal_size: How many bytes of WAL they were taken from.
        after: How far the database was followed then.
        meanwhile: What to call now and then while the pages are read, which may take long.
    """

    def __init__(
        self,
        after: Followed,
        spool: SpooledTemporaryFile[bytes],
        pgnos: NDArray[np.uint32],
        places: NDArray[np.int64],
        wal_size: int,
    ) -> None:
        self.after = after
        self.page_size, self.commit = after.page_size, after.commit
        self.timestamp_ms = time.time_ns() // 1_000_000
        self.page_count = len(pgnos)
        self.wal_size = wal_size
        self.meanwhile: Callable[[], None] | None = None
        self._spool, self._pgnos, self._places = spool, pgnos, places

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield page numbers, ascending, and pages."""
        size, stride = self.page_size, self.page_size + FRAME_HEAD_SIZE
        ends = np.append(np.flatnonzero(np.diff(self._places) != stride) + 1, len(self._places))
        most, start, called = max(1, _READ_SIZE // stride), 0, time.monotonic()
        for end in ends.tolist():  # frames that lie one behind the other are read at once
            for first in range(start, end, most):
                if self.meanwhile is not None and time.monotonic() - called > _MEANWHILE_S:
                    self.meanwhile()
                    called = time.monotonic()
                count = min(most, end - first)
                self._spool.seek(int(self._places[first]))
                data = self._spool.read((count - 1) * stride + size)
                for number, pgno in enumerate(self._pgnos[first : first + count].tolist()):
                    yield pgno, data[number * stride : number * stride + size]
            start = end

    def close(self) -> None:
        """Give the temporary file back."""
        self._spool.close()


class Capture:
    """A database in WAL mode, followed under a chain of pins.

    `increment` finds what is new and changes nothing; when that is durable, `accept` lets the next one begin after it,
    and `slide` moves the pin. Between two pins' beginnings lies at least one look at all that was committed.

    Attributes:
        pins: The chain.
        followed: How far; None where only comparing all pages leads on.
        slides: How often the pin moved.

    Args:
        pins: The chain; it stays the caller's.
        aside: A folder for temporary files.
    """

    def __init__(self, pins: Pins, aside: Path) -> None:
        self.pins = pins
        self.followed: Followed | None = None
        self.slides = 0
        self._before: Followed | None = None
        self._aside = aside
        self._counts = (-1, -1)

    def rebase(self) -> PinnedDatabase:
        """Pin anew, and return the whole database then: compare it, make that durable, then call `follow`."""
        self.followed = self._before = None
        self.pins.slide()
        return hold(self.pins.held, self.pins.path, self.pins.mode, self._limit)

    def follow(self, source: PinnedDatabase) -> None:
        """Go on from the state that `rebase` returned."""
        wal = source.wal
        if wal is None:
            raw = self.pins.read_wal(0, WAL_HEADER_SIZE)
            header = WALHeader.unpack(raw)  # one that appeared since: what follows it is new
            end, checksum = WAL_HEADER_SIZE, header.checksum if header else (0, 0)
        else:
            raw, header, end = wal.raw_header, wal.header, wal.committed.end
            checksum = wal.committed.checksum or wal.header.checksum
        if header and header.page_size != source.page_size:
            header = None  # left by the database that was here before
        self.followed = Followed(source.page_size, source.commit, raw, header, end, checksum)
        self.pins.prove()

    def increment(self) -> Captured | None:
        """Return what was committed since; None where nothing was.

        Raises:
            Doubt: What was committed cannot be told from the WAL.
        """
        if self.followed is None:
            raise Doubt(f"{self.pins.path} was not compared yet")
        self.pins.prove()
        for _ in range(3):
            before = self._seen(self.followed)
            if before.header is None:
                return None
            limit = self._limit(before.header.frame_size)
            captured = self._take(before, before.header, limit) if limit > before.end else None
            with ExitStack() as unless_kept:
                if captured:
                    unless_kept.callback(captured.close)
                if self.pins.read_wal(0, WAL_HEADER_SIZE) != before.raw_header:
                    continue  # it began anew meanwhile
                self.pins.prove()
                if captured is None and limit != before.end and limit != WAL_HEADER_SIZE:
                    raise Doubt(f"the WAL of {self.pins.path} does not hold what SQLite says is in it")
                unless_kept.pop_all()
                return captured  # with no frame at all the WAL is about to begin anew: all of it was seen
        raise Doubt(f"the WAL of {self.pins.path} began anew again and again")

    def accept(self, captured: Captured) -> None:
        """Go on after what was captured: it is durable, or will be before anything else is."""
        self._before, self.followed = self.followed, captured.after

    def retract(self) -> None:
        """Take back that the last one was accepted; where the pin slid since, only comparing all pages leads on."""
        self._before, self.followed = None, self._before

    def slide(self) -> None:
        """Let the pin hold the last commit; a look at all that was committed came before. A pin that is kept stays."""
        if self.followed is None:
            raise Doubt(f"{self.pins.path} was not compared yet")
        if self.pins.is_kept:
            return
        counts = (
            self.pins.frame_counts()
        )  # before the pin begins: what changes meanwhile lets `relax` slide once more
        self.pins.slide()
        self.slides, self._before, self._counts = self.slides + 1, None, counts
        if self.followed.restarted:
            self.followed = _with(self.followed, restarted=False)

    def relax(self) -> None:
        """Where nothing is new, slide if a checkpoint got on: an application's own may be waiting for the pin."""
        if self.pins.frame_counts() != self._counts:
            self.slide()

    def let_through(self) -> list[Captured]:
        """While a checkpoint of somebody else keeps writers out, slide whenever it waits for that.

        It waits twice: for pins that began before the WAL's end, and, when all is in the file, for those that read from
        the WAL at all. In between it may have much to copy.

        Returns:
            What was captured on the way, and accepted. It is not durable yet: where it will not be, call `retract`.
        """
        found: list[Captured] = []
        if self.followed is None or self.pins.waiting() is None:
            return found
        frames, done = self.pins.frame_counts()
        until = time.monotonic() + _GIVE_WAY_S + (frames - done) * self.followed.page_size / _COPIED_IN_S
        try:
            while self.pins.waiting() is not None and time.monotonic() < until:
                captured = self.increment()  # a look lies between the beginnings of two pins, here too
                if captured is None:
                    self.relax()
                else:
                    found.append(captured)
                    self.accept(captured)
                    self.slide()
                if self._counts[0] == self._counts[1]:
                    break  # the pin reads from the file alone: nobody waits for it now
                time.sleep(_GIVE_WAY_STEP_S)
        except BaseException:
            self.followed = self._before = None
            for captured in found:
                captured.close()
            raise
        return found

    def _seen(self, followed: Followed) -> Followed:
        """Look at the WAL's header: where it is another one, the next frame is the first."""
        raw = self.pins.read_wal(0, WAL_HEADER_SIZE)
        if raw == followed.raw_header:
            return followed
        header = WALHeader.unpack(raw)
        if header is None:
            return _with(followed, header=None)  # truncated, all of it was seen
        if followed.restarted:
            raise Doubt(f"the WAL of {self.pins.path} began anew twice under one read transaction")
        if header.page_size != followed.page_size:
            raise Doubt(f"the WAL of {self.pins.path} has pages of another size")
        return _with(
            followed,
            raw_header=raw,
            header=header,
            end=WAL_HEADER_SIZE,
            checksum=header.checksum,
            restarted=True,
        )

    def _limit(self, frame_size: int) -> int:
        return WAL_HEADER_SIZE + self.pins.frame_counts()[0] * frame_size

    def _take(self, before: Followed, header: WALHeader, limit: int) -> Captured | None:
        """Copy the frames up to a limit that SQLite named; None unless all are valid and the last is a commit."""
        size, heads = header.frame_size, []
        spool = SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(self._aside))  # noqa: SIM115
        try:
            for some, data in valid_frames(
                self.pins.read_wal, header, before.end, before.checksum, limit=limit
            ):
                heads.append(some)
                spool.write(memoryview(data)[: len(some) * size])
            found = np.concatenate(heads) if heads else np.empty((0, 6), np.uint32)
            if len(found) * size != limit - before.end or not found[-1, 1]:
                spool.close()
                return None
            commit = int(found[-1, 1])
            commits = found[found[:, 1] > 0, 1]
            pgnos, places = _newest(found[:, 0], size)
            kept = pgnos <= commit
            pgnos, places = pgnos[kept], places[kept]
            lowest = min(before.commit, int(commits.min()))
            pgnos, places = self._fill(before, header, limit, (lowest, commit), spool, (pgnos, places))
            after = _with(before, commit=commit, end=limit, checksum=(int(found[-1, 4]), int(found[-1, 5])))
            return Captured(after, spool, pgnos, places, limit - before.end)
        except BaseException:
            spool.close()
            raise

    def _fill(
        self,
        before: Followed,
        header: WALHeader,
        limit: int,
        grown: tuple[int, int],
        spool: SpooledTemporaryFile[bytes],
        found: tuple[NDArray[np.uint32], NDArray[np.int64]],
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Add the pages by which the database grew and that no new frame holds, as SQLite reads them."""
        first, last = grown[0] + 1, grown[1]
        pgnos, places = found
        missing = np.setdiff1d(np.arange(first, last + 1, dtype=np.uint32), pgnos)
        missing = missing[missing != lock_page(before.page_size)]
        if not len(missing):
            return found
        older = committed_frames(self.pins.read_wal, header, limit=limit)
        held = dict(zip(older.pgnos.tolist(), older.offsets.tolist(), strict=True))
        added = []
        spool.seek(0, 2)
        for pgno in missing.tolist():
            added.append(spool.tell())
            if pgno in held:
                spool.write(self.pins.read_wal(held[pgno], before.page_size))
            else:
                spool.write(self.pins.read_database((pgno - 1) * before.page_size, before.page_size))
        pgnos = np.concatenate((pgnos, missing))
        order = np.argsort(pgnos)
        return pgnos[order], np.concatenate((places, np.array(added, np.int64)))[order]


def _newest(pgnos: NDArray[np.uint32], frame_size: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return each page number once, ascending, and where the page of its last frame begins."""
    order = np.argsort(pgnos, kind="stable")
    ordered = pgnos[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    return ordered[last], order[last].astype(np.int64) * frame_size + FRAME_HEAD_SIZE


def _with(followed: Followed, **changes: object) -> Followed:
    return replace(followed, **changes)  # type: ignore[arg-type]
