"""`ltx replicate --once`: what is committed now, put on the replica as one transaction.

The database is held still, its pages are compared with the sidecar's table of what the replica has, and the
difference is published as the next TXID: everything the first time, nothing where nothing changed.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backends import AlreadyExistsError
from ltx.errors import DatabaseError
from ltx.format import TXID, Encoder
from ltx.replica.apply import Progress
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.lineage import Writer, meta_folder, name_writer, read_writer
from ltx.replica.replica import Replica
from ltx.replication.baseline import (
    checksum_at,
    ensure_table,
    fits,
    has_hole,
    left_here,
    published_txid,
    table_aside,
    table_path_of,
)
from ltx.replication.create import create_object
from ltx.replication.difference import stage_difference
from ltx.replication.guard import check_guard
from ltx.replication.identity import Identity
from ltx.replication.source import MovedError, check_is_file, pinned
from ltx.replication.table import PageTable, TableWriter, open_table, sweep

__all__ = ["Published", "meta_folder", "replicate_once"]

_PINS = 8
"""How often the database is pinned anew when its WAL begins anew under the first pins."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was put on the replica.

    Attributes:
        level: 0; 9 where a whole snapshot had to be written behind files that it cannot follow.
        txid: The new transaction.
        key: The new object.
        size: Its bytes.
        page_count: Pages in it.
        time: When the database was held still.
    """

    level: int
    txid: TXID
    key: str
    size: int
    page_count: int
    time: datetime


def replicate_once(
    database: str | os.PathLike[str],
    replica: Replica,
    *,
    adopt: bool = False,
    whole: bool = False,
    progress: Progress | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Published | None:
    """Publish what is committed now as the next transaction, if it differs from what the replica has.

    The database may be in use, in WAL or rollback-journal mode; it is not changed. The difference is written
    to a temporary file first, so that a slow storage keeps nobody waiting. State is kept in a folder; without it the
    replica is read once to find the difference.

    Args:
        database: The SQLite database.
        replica: Where to.
        adopt: Go on with the replica even if another database wrote to it last.
        whole: Publish all pages, as a snapshot, also where nothing changed: that makes up for files of the replica that
            are damaged.
        progress: Called with the pages compared and the pages in all.
        folder: Where state is kept; None for `.<name>-litestream/` beside the database.

    Returns:
        What was published; None where nothing changed.

    Raises:
        DatabaseError: The database is missing, empty, locked for long, no database, or replicated by another
            process right now.
        ConflictError: Somebody else published the same TXID at the same time, or wrote to the replica last what this
            database never had.
        BackendError: The storage failed; a further run begins where this one did.
    """
    if isinstance(replica, str | os.PathLike):
        raise TypeError("a replica is opened first: with ltx.Replica.open(url) as replica")
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(database))))
    check_is_file(path)
    table_path = table_path_of(path, replica.url)
    if folder is not None:
        table_path = Path(folder) / table_path.name
    with _state_folder(table_path.parent):
        check_guard(table_path.parent, path)
        sweep(table_path)
        following = _following(path, replica, table_path, adopt=adopt)
        with open_table(table_path) as table, replica.backend.stage(table_path.parent) as staged:
            base = table if following.is_known and not whole else None
            found = _stage(path, following.txid, base, table_path, staged, progress)
            if found is None:
                return None
            published, is_named = _publish(replica, following, staged, *found)
            if not is_named:
                following.name_us(replica)
    return published


@dataclass(frozen=True, slots=True)
class _Following:
    """What a transaction goes on from.

    Attributes:
        txid: Its own TXID.
        is_known: Whether the table of page hashes has what is on the replica.
        identity: Who we are.
        names_somebody: Whether the replica says who wrote to it last.
        theirs: Who that was, where it may have been somebody else.
    """

    txid: TXID
    is_known: bool
    identity: Identity
    names_somebody: bool
    theirs: Writer | None

    def claim(self, replica: Replica) -> bool:
        """Let a new replica name us before there is anything of ours, unless it names somebody; return whether it does.

        Behind it, a failure could leave our file there, and nothing that tells whose it is.
        """
        if self.txid != 1 or self.names_somebody:
            return False
        self.identity.settle(None)
        exclusive = replica.backend.capabilities.put_if_absent
        try:
            name_writer(replica.backend, self.identity.writer(), if_absent=exclusive)
        except AlreadyExistsError:  # somebody else begins, too: who gets the first file there is to be named
            return False
        return exclusive

    def name_us(self, replica: Replica) -> None:
        """Let the replica name us as its writer, where it names nobody, or another one: that one would take us for itself."""
        if not self.names_somebody or (self.theirs and not self.identity.wrote(self.theirs)):
            self.identity.settle(self.theirs)
            name_writer(replica.backend, self.identity.writer())


def _following(path: Path, replica: Replica, table_path: Path, *, adopt: bool) -> _Following:
    """Find out what is on the replica, and whether we may go on with it."""
    files = replica.files()
    newest = max((file.max_txid for file in files), default=0)
    published = published_txid(table_path)
    identity = Identity(path, table_path.parent)
    identity.read()
    names_somebody = replica.has_lineage
    is_ours = newest == 0 or (newest == published and fits(table_path, replica, files, newest))
    theirs = read_writer(replica.backend) if names_somebody and not is_ours else None
    stranger = False
    if not (is_ours or adopt or _is_here(table_path.parent, replica, files, newest)):
        # Before anything is remembered of what is there.
        stranger = identity.is_stranger(theirs, replica.url, newest, knows=published > 0)
    if stranger:
        _check_kinship(identity, replica, files, newest, table_path)
    # A replica that lost what we published does not get its TXID again: readers may have seen the first one.
    known = published <= newest and (
        not has_hole(files, newest) if is_ours else ensure_table(table_path, replica, files, newest)
    )
    return _Following(TXID(1 + max(newest, published)), known, identity, names_somebody, theirs)


def _is_here(folder: Path, replica: Replica, files: Sequence[LTXFile], newest: int) -> bool:
    """Whether the replica's newest transaction lies beside the database, too."""
    left = left_here(folder)
    return any(
        left.get(file.name) == checksum_at(replica, file.key)
        for file in files
        if file.max_txid == newest and file.name in left
    )


def _publish(
    replica: Replica, following: _Following, staged: BinaryIO, encoder: Encoder, writer: TableWriter
) -> tuple[Published, bool]:
    """Put the transaction on the replica; return it, and whether the replica names us."""
    with closing(writer):
        header, txid = encoder.header, following.txid
        level = 0 if header.min_txid == txid else SNAPSHOT_LEVEL
        key = replica.layout.key(level, header.min_txid, txid)
        is_named = following.claim(replica)
        create_object(replica, key, staged, encoder.file_checksum, header.timestamp_ms)
        writer.install(txid, encoder.file_checksum)
    return Published(level, txid, key, encoder.size, encoder.page_count, header.timestamp), is_named


def _check_kinship(
    identity: Identity, replica: Replica, files: Sequence[LTXFile], newest: int, table_path: Path
) -> None:
    """Raise `ConflictError` where the replica is another database's. Nothing is to remember that we came here."""
    with table_aside(table_path, replica, files, newest) as aside:
        if aside is None:
            return
        with open_table(aside) as table:
            for number in range(_PINS):
                try:
                    with pinned(identity.path) as source:
                        identity.check_kinship(source, table, replica.url)
                    break
                except MovedError:
                    if number == _PINS - 1:
                        raise
        if published_txid(table_path) <= newest:
            os.replace(aside, table_path)  # it need not be made again


@contextmanager
def _state_folder(folder: Path) -> Iterator[None]:
    """Have a folder; it does not stay beside what turned out to be no database."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except DatabaseError:
        with suppress(OSError):
            folder.rmdir()  # an empty one only
        raise


def _stage(
    path: Path,
    txid: TXID,
    table: PageTable | None,
    table_path: Path,
    staged: BinaryIO,
    progress: Progress | None,
) -> tuple[Encoder, TableWriter] | None:
    """Encode the difference into a file, pinning anew while the WAL begins anew; None where there is none."""
    for _ in range(_PINS - 1):
        try:
            return _stage_pinned(path, txid, table, table_path, staged, progress)
        except MovedError:
            staged.seek(0)
            staged.truncate()
    return _stage_pinned(path, txid, table, table_path, staged, progress)


def _stage_pinned(
    path: Path,
    txid: TXID,
    table: PageTable | None,
    table_path: Path,
    staged: BinaryIO,
    progress: Progress | None,
) -> tuple[Encoder, TableWriter] | None:
    with pinned(path) as source:
        return stage_difference(source, txid, table, table_path, staged, progress)
