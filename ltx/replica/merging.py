"""Many files that follow each other, made into one: each read once and verified whole, memory bounded.

Memory and open streams do not grow with the number of files or with their sizes: small files are read ahead whole,
big ones in pieces, and after every 64 files (16 big ones) what there is so far goes to a temporary file.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import BinaryIO, Self

from backends import Backend, NotFoundError, UnavailableError
from ltx.errors import CorruptError
from ltx.format import TXID, Decoder, Encoder, Header, merge
from ltx.replica.apply import FAULTS, FileError, pages_between
from ltx.replica.files import LTXFile

__all__ = ["Input", "LocalFiles", "Pile", "Staged", "opened"]

MOST_OPEN, MOST_STREAMS = 64, 16
FIRST_SIZE = 256 << 10
"""What is read of a file at first; one that is no bigger takes a single request."""

_PIECE_SIZE = 1 << 20
_FILES_AHEAD = 8


@dataclass(slots=True)
class LocalFiles:
    """A folder in which the files of level 0 that were uploaded still lie, under their names.

    A local file is read instead of the remote one if its size is the same. One that then proves damaged is
    avoided, and the remote one read.
    """

    folder: Path
    _avoided: set[str] = field(default_factory=set)

    def has(self, file: LTXFile) -> bool:
        """Say whether a file is to be read from here."""
        if file.level != 0 or file.name in self._avoided:
            return False
        try:
            return (self.folder / file.name).stat().st_size == file.size
        except OSError:
            return False

    def avoid(self, file: LTXFile) -> bool:
        """Read this file from the storage from now on; False where that is done already."""
        if not self.has(file):
            return False
        self._avoided.add(file.name)
        return True

    def read(self, file: LTXFile) -> Iterator[bytes] | None:
        """Return a file's bytes in pieces, whatever becomes of the file from now on; None where it is gone."""
        try:
            return _pieces(file, open(self.folder / file.name, "rb"))
        except OSError:
            return None


def _pieces(file: LTXFile, local: BinaryIO) -> Iterator[bytes]:
    try:
        with local:
            yield from _read(local)
    except OSError as error:
        raise NotFoundError(f"{local.name}: {error.strerror}", key=file.key) from error


class Input(Decoder):
    """One file of a merge. When the iteration ends, it was verified whole.

    Args:
        file: The file, as the listing has it.
        source: Its bytes.
        old_commit: The size in pages of the database before it; None where that is not known.

    Raises:
        CorruptError: The file is damaged or not what its name says. While iterating: a `FileError`.
    """

    def __init__(self, file: LTXFile, source: Iterable[bytes], old_commit: int | None) -> None:
        super().__init__(source)
        self.file = file
        self._old_commit = old_commit
        header = self.header
        if (header.min_txid, header.max_txid) != (file.min_txid, file.max_txid):
            raise CorruptError(
                f"the header says TXIDs {header.min_txid:016x} to {header.max_txid:016x}, the name says otherwise",
                offset=16,
            )
        if header.commit == 0:
            raise CorruptError(
                "it says that the database was deleted, which no merged file can say", offset=12
            )

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        old_commit = self.header.commit if self._old_commit is None else self._old_commit
        grown = 0
        try:
            for pgno, page in super().__iter__():
                grown += pgno > old_commit
                yield pgno, page
            missing = pages_between(old_commit, self.header) - grown
            if missing > 0:
                raise CorruptError(
                    f"the database grows from {old_commit} to {self.header.commit} pages, "
                    f"of which {missing} are in no file"
                )
            if self.size != self.file.size:
                raise CorruptError(f"the listing says {self.file.size} bytes, the file has {self.size}")
        except FAULTS as error:
            raise FileError(self.file, error) from error


def opened(backend: Backend, files: Sequence[LTXFile], local: LocalFiles | None = None) -> Iterator[Input]:
    """Open files in order, up to 8 ahead of the one that is taken.

    Args:
        backend: Where they lie.
        files: Files that follow each other.
        local: Where to look first.

    Raises:
        FileError: A file is damaged or gone.
        UnavailableError: The storage did not answer.
    """
    remote = [file for file in files if not (local and local.has(file))]
    firsts = backend.read_ahead(map(_first_piece, remote), ahead=_FILES_AHEAD)
    following = iter(remote)
    expected = next(following, None)
    commit: int | None = None
    for file in files:
        try:
            if file == expected:
                source = _remote(backend, file, next(firsts))
                expected = next(following, None)
            else:
                here = local.read(file) if local else None  # what is uploaded may go meanwhile
                source = here or _remote(backend, file, backend.get(*_first_piece(file)))
            item = Input(file, source, commit)
        except FAULTS as error:
            raise FileError(file, error) from error
        commit = item.header.commit
        yield item


def _first_piece(file: LTXFile) -> tuple[str, int, int]:
    return file.key, 0, max(1, min(file.size, FIRST_SIZE))


def _remote(backend: Backend, file: LTXFile, first: bytes) -> Iterator[bytes]:
    yield _whole(backend, file, first, 0, min(file.size, FIRST_SIZE))
    ranges = [
        (file.key, start, min(start + _PIECE_SIZE, file.size))
        for start in range(FIRST_SIZE, file.size, _PIECE_SIZE)
    ]
    for (_, start, end), piece in zip(ranges, backend.read_ahead(ranges, ahead=1), strict=True):
        yield _whole(backend, file, piece, start, end)


def _whole(backend: Backend, file: LTXFile, piece: bytes, start: int, end: int) -> bytes:
    """Ask once more for a piece that came short: the storage may show an object before it has all of it."""
    if len(piece) < end - start:
        piece = backend.get(file.key, start, end)
    if len(piece) < end - start:
        raise UnavailableError(
            f"{file.key} gave {len(piece)} bytes where {end - start} were asked for", key=file.key
        )
    return piece


@dataclass(frozen=True, slots=True)
class Staged:
    """A merged file, complete in a temporary file that lives as long as its pile.

    Attributes:
        header: Its header.
        file: Its bytes.
        size: How many.
        page_count: Pages in it.
        inputs: What it was made of.
    """

    header: Header
    file: BinaryIO
    size: int
    page_count: int
    inputs: tuple[LTXFile, ...]

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Read it back."""
        return iter(Decoder(_rewound(self.file)))


class Pile:
    """Files on their way into one. Closing it removes its temporary files.

    Args:
        folder: Where those go; None for the system's place.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.inputs: list[LTXFile] = []
        self._folder = folder
        self._closing = ExitStack()
        self._folded: list[BinaryIO] = []
        self._open: list[Input] = []
        self._streams = 0
        self._page_size = 0

    def add(self, item: Input) -> None:
        """Put the next file on it.

        Raises:
            FileError: It has another page size than the one before, or an earlier one is damaged.
        """
        page_size = item.header.page_size
        if self._page_size not in (0, page_size):
            sizes = f"pages of {page_size} bytes after pages of {self._page_size}"
            raise FileError(item.file, CorruptError(sizes, offset=8))
        self._page_size = page_size
        is_stream = item.file.size > FIRST_SIZE
        if len(self._open) >= MOST_OPEN or self._streams + is_stream > MOST_STREAMS:
            self._fold()
        self._open.append(item)
        self._streams += is_stream
        self.inputs.append(item.file)

    def stage(self, first: TXID | None = None) -> Staged:
        """Merge all of them into a temporary file: every byte of every file was verified when this returns.

        Args:
            first: Let the result begin no earlier than with this TXID, which must lie in it. A page's image is that
                after the last TXID, so the result follows `first - 1` as well as what its inputs follow.

        Raises:
            FileError: A file is damaged or gone.
        """
        encoder = merge([*map(_reopened, self._folded), *self._open])
        if first is not None and encoder.header.min_txid < first:
            encoder = Encoder(replace(encoder.header, min_txid=first), Decoder(encoder))
        file = self._write(encoder)
        return Staged(encoder.header, file, encoder.size, encoder.page_count, tuple(self.inputs))

    def _fold(self) -> None:
        """Merge what is open into a temporary file."""
        if len(self._folded) >= MOST_OPEN:
            old, self._folded = self._folded, [self._write(merge([*map(_reopened, self._folded)]))]
            for file in old:
                file.close()
        self._folded.append(self._write(merge(self._open)))
        self._open = []
        self._streams = 0

    def _write(self, encoder: Encoder) -> BinaryIO:
        file = self._closing.enter_context(TemporaryFile(dir=self._folder))  # noqa: SIM115 - the stack closes it
        file.writelines(encoder)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()


def _reopened(file: BinaryIO) -> Decoder:
    return Decoder(_rewound(file))


def _rewound(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    return _read(file)


def _read(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(FIRST_SIZE), b"")
