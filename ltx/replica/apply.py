"""Applying the files of a plan to a plain file: each read once, in parallel ahead, verified whole."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from backends import Backend, NotFoundError, Piece, UnavailableError
from ltx.errors import CorruptError, LTXError, UnsupportedVersionError
from ltx.format import Decoder, Header, lock_page
from ltx.replica.files import LTXFile

__all__ = [
    "FAULTS",
    "FileError",
    "Progress",
    "apply_files",
    "check_name",
    "damaged_file",
    "decoded",
    "pages_between",
]

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; the first call has done = 0."""

FAULTS = (CorruptError, UnsupportedVersionError, NotFoundError)
"""What can be wrong with a single file."""

_PIECE_SIZE = 1 << 20
_AHEAD = 6
_BATCH_SIZE = 1 << 20
_BATCHES_UNDER_WAY = 4
_MAX_RUN = 512
"""Pages that one writev may take (IOV_MAX is 1,024)."""


class FileError(LTXError):
    """A file of the plan is damaged or gone: another plan may do without it.

    Users of this project never see it: they get what `public` returns.

    Attributes:
        file: The file.
        reason: What was found.
    """

    def __init__(self, file: LTXFile, reason: CorruptError | UnsupportedVersionError | NotFoundError) -> None:
        super().__init__(f"{file.key}: {reason}")
        self.file = file
        self.reason = reason

    def public(self) -> CorruptError | UnsupportedVersionError | NotFoundError:
        """Return the error to raise when no other files have what this one held."""
        if isinstance(self.reason, NotFoundError):
            return self.reason
        if isinstance(self.reason, UnsupportedVersionError):
            return UnsupportedVersionError(f"{self.file.key}: {self.reason}")
        text = f"{self.file.key} is damaged, and no other files hold the same: {self.reason.args[0]}"
        return type(self.reason)(text, offset=self.reason.offset)


def damaged_file(error: BaseException) -> LTXFile | None:
    """Return which file an error is about that `FileError.public` gave; None where it is about none, or it is gone."""
    cause = error.__cause__
    return (
        cause.file if isinstance(cause, FileError) and not isinstance(cause.reason, NotFoundError) else None
    )


@dataclass(slots=True)
class _Reading:
    """The files' bytes in one stream, and how far it is."""

    backend: Backend
    files: Sequence[LTXFile]
    progress: Progress | None
    total: int = 0
    done: int = 0
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        self.total = sum(file.size for file in self.files)
        self.pieces = self.backend.read_ahead(_pieces(self.files), ahead=_AHEAD)

    def of(self, file: LTXFile) -> Iterator[bytes]:
        """Yield one file's bytes: those of the files before it must have been taken."""
        for key, start, end in _pieces([file]):
            piece = next(self.pieces)
            if len(piece) < end - start:
                # A broken stream or an object that was replaced: once more, by itself.
                piece = self.backend.get(key, start, end)
            if len(piece) < end - start:
                raise UnavailableError(
                    f"{key} gave {len(piece)} bytes where {end - start} were asked for", key=key
                )
            self.done += len(piece)
            yield piece
            if self.progress:
                self.progress(self.done, self.total)


def decoded(
    backend: Backend, files: Sequence[LTXFile], progress: Progress | None = None
) -> Iterator[tuple[LTXFile, Decoder]]:
    """Yield a decoder for each file; each must be read to its end before the next is taken.

    Several MiB are read ahead, over the borders of files, so that many small files cost no more waiting than
    a big one.

    Raises:
        FileError: A file is damaged, is not what its name says, or is gone.
        UnavailableError: The storage did not answer.
    """
    reading = _Reading(backend, files, progress)
    if progress:
        progress(0, reading.total)
    for file in files:
        try:
            decoder = Decoder(reading.of(file))
            check_name(file, decoder.header)
            yield file, decoder
        except FAULTS as error:
            raise FileError(file, error) from error


def apply_files(
    backend: Backend, files: Sequence[LTXFile], descriptor: int, progress: Progress | None = None
) -> Header:
    """Write the database that a plan gives into an empty file. Not synced yet.

    Every byte of every file is verified; nothing that was written counts until this returns.

    Returns:
        The header of the last file: it has the size and the time of the database.

    Raises:
        FileError: A file is damaged, is not what its name says, does not fit the one before it, or is gone.
    """
    header: Header | None = None
    for file, decoder in decoded(backend, files, progress):
        try:
            _apply(decoder, header, descriptor)
        except FAULTS as error:
            raise FileError(file, error) from error
        header = decoder.header
        os.ftruncate(descriptor, header.commit * header.page_size)
    if header is None:
        raise ValueError("a plan has at least one file")
    return header


def check_name(file: LTXFile, header: Header) -> None:
    """Raise `CorruptError` where a header has other TXIDs than the name of its file."""
    if (header.min_txid, header.max_txid) != (file.min_txid, file.max_txid):
        raise CorruptError(
            f"the header says TXIDs {header.min_txid:016x} to {header.max_txid:016x}, the name says otherwise",
            offset=16,
        )


def _apply(decoder: Decoder, before: Header | None, descriptor: int) -> None:
    header = decoder.header
    old_commit = before.commit if before else 0
    if before is None and not header.is_snapshot:
        raise CorruptError("the first file of a plan must be a snapshot")
    if before and header.page_size != before.page_size:
        raise CorruptError(f"pages of {header.page_size} bytes after pages of {before.page_size}", offset=8)
    grown = _write_pages(decoder, descriptor, header.page_size, old_commit)
    missing = pages_between(old_commit, header) - grown
    if missing:
        raise CorruptError(
            f"the database grows from {old_commit} to {header.commit} pages, of which {missing} are in no file"
        )


def pages_between(old_commit: int, header: Header) -> int:
    """How many pages a file that grows the database must hold beyond its old end."""
    grown = max(0, header.commit - old_commit)
    return grown - (old_commit < lock_page(header.page_size) <= header.commit)


def _write_pages(pages: Iterable[tuple[int, bytes]], descriptor: int, page_size: int, old_commit: int) -> int:
    """Write pages to their places, in another thread; return how many lie beyond the old end."""
    batch: list[tuple[int, bytes]] = []
    limit = max(1, min(_MAX_RUN, _BATCH_SIZE // page_size))
    grown = 0
    with ThreadPoolExecutor(1, thread_name_prefix="restore-write") as writer:
        under_way: deque[Future[None]] = deque()
        for numbered in pages:
            batch.append(numbered)
            grown += numbered[0] > old_commit
            if len(batch) >= limit:
                under_way.append(writer.submit(_write_batch, descriptor, batch, page_size))
                batch = []
                if len(under_way) > _BATCHES_UNDER_WAY:
                    under_way.popleft().result()
        for future in under_way:
            future.result()
    _write_batch(descriptor, batch, page_size)
    return grown


def _write_batch(descriptor: int, batch: Sequence[tuple[int, bytes]], page_size: int) -> None:
    """Write pages, neighbours in one call."""
    start = 0
    for place in range(1, len(batch) + 1):
        if place == len(batch) or batch[place][0] != batch[place - 1][0] + 1:
            _write_run(
                descriptor, [page for _, page in batch[start:place]], (batch[start][0] - 1) * page_size
            )
            start = place


def _write_run(descriptor: int, run: list[bytes], offset: int) -> None:
    written = os.pwritev(descriptor, run, offset)
    size = sum(map(len, run))
    if written < size:  # a signal or a nearly full disk cut it short
        rest = memoryview(b"".join(run))[written:]
        while rest:
            offset += written
            written = os.pwrite(descriptor, rest, offset)
            rest = rest[written:]


def _pieces(files: Iterable[LTXFile]) -> Iterator[Piece]:
    for file in files:
        for start in range(0, max(1, file.size), _PIECE_SIZE):
            yield file.key, start, min(start + _PIECE_SIZE, file.size)
