"""When transactions were committed: what the headers of a replica's files say, read once, and searched by time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from backends import Backend, NotFoundError
from ltx.errors import CorruptError, NotReachableError, UnsupportedVersionError
from ltx.format import HEADER_SIZE, TXID, Header, format_txid
from ltx.replica.apply import FileError, check_name
from ltx.replica.files import LTXFile
from ltx.replica.plan import Reach, gap_error, make_plan, reach_of
from ltx.replica.times import format_time, last_at

__all__ = ["Headers", "last_txid_at", "times_of"]

_KEPT = 20_000
_CLOCKS_DIFFER = timedelta(minutes=5)


class Headers:
    """The headers of files, which never change: each is read once, and the newest 20,000 are kept.

    Args:
        backend: Where the files lie.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[tuple[str, int, str], Header] = {}

    def of(self, files: Sequence[LTXFile]) -> Sequence[Header]:
        """Read headers: 100 bytes of each file that was not read before, in parallel.

        Raises:
            FileError: One is gone, or no LTX file's.
        """
        found = {_identity(file): self._known.get(_identity(file)) for file in files}
        unknown = list(dict.fromkeys(file for file in files if found[_identity(file)] is None))
        pieces = [(file.key, 0, HEADER_SIZE) for file in unknown]
        if pieces:
            try:
                read = self._backend.get_ranges(pieces)
            except NotFoundError as error:
                gone = next((file for file in unknown if file.key == error.key), unknown[0])
                raise FileError(gone, error) from error
            for file, data in zip(unknown, read, strict=True):
                try:
                    header = Header.unpack(data)
                    check_name(file, header)
                except (CorruptError, UnsupportedVersionError) as error:
                    raise FileError(file, error) from error
                self._known[_identity(file)] = found[_identity(file)] = header
            while len(self._known) > _KEPT:  # the oldest: of files that are long gone, in a replicator
                self._known.pop(next(iter(self._known)), None)
        headers = (found[_identity(file)] for file in files)
        return [header for header in headers if header is not None]

    def times(self, txids: Sequence[TXID], files: Sequence[LTXFile]) -> Sequence[datetime]:
        """Return when transactions were committed, each by any of the files that end with it.

        Raises:
            FileError: No file that ends with one of them can be read.
        """
        wanted = set(txids)
        ending = [file for file in files if file.max_txid in wanted and file.is_usable]
        while True:
            try:
                headers = self.of(ending)
                break
            except FileError as error:  # pruned since the listing, or damaged: others may have the time too
                rest = [file for file in ending if file != error.file]
                if {file.max_txid for file in rest} != wanted:
                    raise
                ending = rest
        earliest: dict[int, datetime] = {}
        for header in headers:
            known = earliest.get(header.max_txid, header.timestamp)
            earliest[header.max_txid] = min(known, header.timestamp)
        return [earliest[txid] for txid in txids]


def times_of(headers: Headers, txids: Sequence[TXID], files: Sequence[LTXFile]) -> Sequence[datetime]:
    """Return when transactions were committed.

    Raises:
        CorruptError: No file that ends with one of them can be read.
        NotFoundError: They are gone.
    """
    try:
        return headers.times(txids, files)
    except FileError as error:
        raise error.public() from error


def last_txid_at(at: datetime, files: Sequence[LTXFile], headers: Headers) -> TXID:
    """Return the last transaction not after a time.

    Raises:
        NoSnapshotError: Nothing can be restored.
        NotReachableError: The time is before all that is kept, or in a future that nobody has seen.
        GapError: Files are missing right behind it: the last one is not known.
        CorruptError: A file next to the answer is damaged, and no other has its time.
        NotFoundError: A file is gone: list anew.
    """
    reach = reach_of(files)
    if not reach.txids:
        make_plan(files)  # says why
    if at > datetime.now(UTC) + _CLOCKS_DIFFER:
        _check_future(at, reach.txids[-1], files, headers)
    txid = _search(at, reach.txids, files, headers)
    if reach.gap and txid == reach.txids[-1]:
        _check_gap(at, reach, files, headers)
    return txid


def _check_future(at: datetime, newest: TXID, files: Sequence[LTXFile], headers: Headers) -> None:
    """Refuse a time that nobody has seen, neither we nor the writer by its own clock."""
    written = times_of(headers, [newest], files)[0]
    if at > written:
        raise NotReachableError(
            f"{format_time(at)} is in the future; the newest is TXID {format_txid(newest)} of "
            f"{format_time(written)}",
            before=newest,
        )


def _search(at: datetime, txids: Sequence[TXID], files: Sequence[LTXFile], headers: Headers) -> TXID:
    """Find the last TXID by a time; one whose time cannot be read is in the way only next to the answer."""
    known = list(txids)
    unknown: dict[TXID, FileError] = {}
    while known:
        try:
            found = last_at(known, at, lambda some: headers.times(some, files))
        except FileError as error:
            if isinstance(error.reason, NotFoundError):
                raise error.reason from error
            unknown[error.file.max_txid] = error
            known.remove(error.file.max_txid)
        except NotReachableError:
            if txids[0] in unknown:
                break
            raise
        else:
            following = next((txid for txid in txids if txid > found), None)
            if following in unknown:
                raise unknown[following].public() from unknown[following]
            return found
    first = unknown[txids[0]]
    raise first.public() from first


def _check_gap(at: datetime, reach: Reach, files: Sequence[LTXFile], headers: Headers) -> None:
    """Refuse a time whose last transaction lies beyond missing files: an older state is not what was asked."""
    if reach.gap is None:
        return
    first = min(file.max_txid for file in files if file.is_usable and file.max_txid > reach.gap[0])
    if times_of(headers, [first], files)[0] <= at:
        raise gap_error(reach)


def _identity(file: LTXFile) -> tuple[str, int, str]:
    return file.key, file.size, file.version
