"""Reading every byte of a replica, and saying what is damaged, what is missing, and what can be restored."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from backends import Backend, NotFoundError
from ltx.errors import CorruptError
from ltx.format import TXID, Header
from ltx.format.index import PageIndex, index_range
from ltx.replica.apply import FAULTS, FileError, Progress, decoded, pages_between
from ltx.replica.files import LTXFile
from ltx.replica.plan import reach_of

__all__ = ["CheckedFile", "Gap", "Restorable", "Verification", "verify_files"]

_AT_ONCE = 4
_LISTINGS = 5
"""How often a replica is listed when files vanish while it is read."""

_TAIL_SIZE = 24


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file, read whole.

    Attributes:
        file: The file.
        header: What it says of itself; None where not even that can be read.
        page_count: Pages in it, as far as it could be read.
        fault: What is wrong with it; "" where nothing is.
    """

    file: LTXFile
    header: Header | None
    page_count: int
    fault: str


@dataclass(frozen=True, slots=True)
class Restorable:
    """One state that can be restored, and its time (docs/formats/replica.md, Times)."""

    txid: TXID
    time: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """TXIDs that no sound file holds, both ends included."""

    first: TXID
    last: TXID


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Attributes:
        files: Every file, in the order of a listing.
        gaps: TXIDs from 1 to the newest that no sound file holds.
        restorable: Every state that the sound files give, ascending.
        newest: The newest TXID that any file names, sound or not; 0 where there are no files.
    """

    files: tuple[CheckedFile, ...]
    gaps: tuple[Gap, ...]
    restorable: tuple[Restorable, ...]
    newest: int

    @property
    def is_sound(self) -> bool:
        """Whether no file has a fault, no TXID is missing, and the newest can be restored."""
        return (
            bool(self.restorable)
            and self.restorable[-1].txid == self.newest
            and not self.gaps
            and not any(checked.fault for checked in self.files)
        )


def verify_files(
    backend: Backend, list_files: Callable[[], Sequence[LTXFile]], progress: Progress | None = None
) -> Verification:
    """Read and check every file: checksum, pages, page index, name, and that growth is covered.

    A replica in use is pruned meanwhile: where a file is gone it is listed again, and only what is still
    listed, and cannot be read, is at fault.

    Args:
        backend: Where they lie.
        list_files: Lists all files of a replica.
        progress: Called with the bytes done and in all.

    Raises:
        UnavailableError: The storage did not answer: nothing is said of the files.
    """
    read: dict[LTXFile, _Read] = {}
    for _ in range(_LISTINGS):
        files = list_files()
        for found in _read_all(backend, [file for file in files if file not in read], progress):
            read[found.checked.file] = found
        if not any(read[file].is_gone for file in files):
            break
    checked = tuple(_with_growth([read[file] for file in files]))
    sound = [each for each in checked if not each.fault]
    return Verification(
        checked,
        tuple(_gaps([each.file for each in checked], [each.file for each in sound])),
        tuple(_restorable(sound)),
        max((file.max_txid for file in files), default=0),
    )


@dataclass(frozen=True, slots=True)
class _Read:
    checked: CheckedFile
    pgnos: "array[int]"
    is_gone: bool


def _read_all(backend: Backend, files: Sequence[LTXFile], progress: Progress | None) -> Iterator[_Read]:
    total, done = sum(file.size for file in files), 0
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="verify")
    try:
        for found in pool.map(lambda file: _read(backend, file), files):
            yield found
            done += found.checked.file.size
            if progress:
                progress(done, total)
    finally:  # an interrupt must not wait for whole files
        pool.shutdown(wait=False, cancel_futures=True)


def _read(backend: Backend, file: LTXFile) -> _Read:
    header: Header | None = None
    pgnos, offsets, is_gone = array("I"), array("Q"), False
    fault = (
        "" if file.is_usable else "a file of level 9 that does not begin at TXID 1 can be applied to nothing"
    )
    try:
        for _, decoder in decoded(backend, [file]):
            header = decoder.header
            for pgno, _page in decoder:
                pgnos.append(pgno)
                offsets.append(decoder.frame_offset)
            if decoder.size != file.size:
                raise CorruptError(f"the listing says {file.size} bytes, the file has {decoder.size}")
        _check_index(backend, file, pgnos, offsets)
    except FileError as error:
        fault, is_gone = str(error.reason), isinstance(error.reason, NotFoundError)
    except FAULTS as error:
        fault, is_gone = str(error), isinstance(error, NotFoundError)
    return _Read(CheckedFile(file, header, len(pgnos), fault), pgnos, is_gone)


def _check_index(backend: Backend, file: LTXFile, pgnos: "array[int]", offsets: "array[int]") -> None:
    """Hold the page index, which queries rely on, to the frames."""
    tail = backend.get(file.key, max(0, file.size - _TAIL_SIZE), file.size)
    start, end = index_range(tail, file.size)
    index = PageIndex.decode(backend.get(file.key, start, end), file.size)
    if index.pgnos.tolist() != pgnos.tolist() or index.offsets.tolist() != offsets.tolist():
        raise CorruptError("the page index does not say where the pages are", offset=start)


def _with_growth(read: Sequence[_Read]) -> Iterator[CheckedFile]:
    """Add the fault of files that grow the database and lack some of the new pages."""
    commits = {each.checked.file.max_txid: each.checked.header.commit for each in read if each.checked.header}
    for each in read:
        checked, header = each.checked, each.checked.header
        old_commit = commits.get(TXID(checked.file.min_txid - 1))
        if header and not checked.fault and not header.is_snapshot and old_commit is not None:
            grown = len(each.pgnos) - bisect_right(each.pgnos, old_commit)
            missing = pages_between(old_commit, header) - grown
            if missing > 0:
                fault = f"it grows the database to {header.commit} pages and lacks {missing} of the new ones"
                checked = replace(checked, fault=fault)
        yield checked


def _gaps(files: Sequence[LTXFile], sound: Sequence[LTXFile]) -> Iterator[Gap]:
    """Find the TXIDs that the replica should hold and no sound file does: a restore begins with TXID 1, or a snapshot of it."""
    reached = 0
    newest = max((file.max_txid for file in files), default=0)
    for file in sorted(sound, key=lambda file: (file.min_txid, file.max_txid)):
        if file.min_txid > reached + 1:
            yield Gap(TXID(reached + 1), TXID(file.min_txid - 1))
        reached = max(reached, file.max_txid)
    if reached < newest:
        yield Gap(TXID(reached + 1), TXID(newest))


def _restorable(sound: Sequence[CheckedFile]) -> Iterator[Restorable]:
    """Yield the states that sound files give; their times never go back, even where the writer's clock did."""
    times: dict[int, datetime] = {}
    for checked in sound:
        if checked.header:
            time = checked.header.timestamp
            times[checked.file.max_txid] = min(time, times.get(checked.file.max_txid, time))
    latest: datetime | None = None
    for txid in reach_of([checked.file for checked in sound]).txids:
        latest = max(times[txid], latest or times[txid])
        yield Restorable(txid, latest)
