"""Putting a merged file on the replica: created, never overwritten, and an equal one that is there already is as good."""

from itertools import zip_longest

from backends import AlreadyExistsError, Backend, NotFoundError
from ltx.errors import ConflictError, CorruptError
from ltx.format import TXID
from ltx.replica.apply import FAULTS, FileError, decoded
from ltx.replica.files import LTXFile
from ltx.replica.merging import Staged
from ltx.replica.replica import Replica

__all__ = ["publish"]

_END_OF_TIME_MS = 253_402_300_800_000
"""The year 10,000: what no storage can keep as a time."""


def publish(replica: Replica, level: int, staged: Staged) -> tuple[LTXFile, bool]:
    """Create the file of a level.

    Where one of that name is there, its pages, commit and TXIDs are compared: compressed bytes and times may
    differ. Equal means that we, or somebody who does the same, were here before.

    Returns:
        The file, and whether it was created now.

    Raises:
        ConflictError: Another file of that name is there. It is untouched.
        FileError: That file is damaged, or it vanished while it was compared.
    """
    backend, header = replica.backend, staged.header
    key = replica.layout.key(level, header.min_txid, header.max_txid)
    file = LTXFile(level, header.min_txid, header.max_txid, staged.size, key)
    exclusive = backend.capabilities.put_if_absent
    time = header.timestamp_ms if 0 <= header.timestamp_ms < _END_OF_TIME_MS else None
    try:
        if not exclusive and _exists(backend, key):
            raise AlreadyExistsError(f"{key} exists", key=key)
        staged.file.seek(0)
        backend.put(key, staged.file, if_absent=exclusive, timestamp_ms=time)
    except AlreadyExistsError as error:
        there = _there(backend, file)
        if not _same(backend, there, staged):
            first, last = (f"{txid:016x}" for txid in (header.min_txid, header.max_txid))
            raise ConflictError(
                f"{replica.url}/{key} is there and holds other pages than the files below it give for TXIDs "
                f"{first} to {last}: find who else writes to this replica, then run 'ltx verify'",
                key=key,
            ) from error
        return there, False
    return file, True


def _exists(backend: Backend, key: str) -> bool:
    try:
        backend.head(key)
    except NotFoundError:
        return False
    return True


def _there(backend: Backend, file: LTXFile) -> LTXFile:
    """Return what lies under the file's name."""
    try:
        info = backend.head(file.key)
    except NotFoundError as error:  # pruned just now
        raise FileError(file, error) from error
    return LTXFile(
        file.level,
        TXID(file.min_txid),
        TXID(file.max_txid),
        info.size,
        file.key,
        info.modified,
        info.version,
    )


def _same(backend: Backend, there: LTXFile, staged: Staged) -> bool:
    for _, decoder in decoded(backend, [there]):
        ours, theirs = staged.header, decoder.header
        if (theirs.page_size, theirs.commit) != (ours.page_size, ours.commit):
            return False
        try:
            return all(one == other for one, other in zip_longest(decoder, staged.pages()))
        except FAULTS as error:
            raise FileError(there, error) from error
    raise CorruptError(f"{there.key} cannot be read")
