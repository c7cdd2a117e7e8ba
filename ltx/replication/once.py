"""`ltx replicate --once`: what is committed now, put on the replica as one transaction.

The database is held still, its pages are compared with the sidecar's table of what the replica has, and the
difference is published as the next TXID: everything the first time, nothing where nothing changed.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from backends import AlreadyExistsError, NotFoundError
from ltx.errors import ConflictError, CorruptError, DatabaseError, ReplicaError, UnsupportedVersionError
from ltx.format import CHECKSUM_SIZE, NO_CHECKSUM, TXID, Decoder, Encoder, Header
from ltx.replica.apply import FileError, Progress, decoded, pages_between
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import make_plan
from ltx.replica.replica import Replica
from ltx.replication.source import MovedError, PinnedDatabase, pinned
from ltx.replication.table import HASH_SIZE, PageTable, TableWriter, open_table, page_hash, sweep

__all__ = ["Published", "meta_folder", "replicate_once"]

_PINS = 8
"""How often the database is pinned anew when its WAL begins anew under the first pins."""

_WAL_OFFSET = 32
"""In level 0, what makes the real Litestream begin at the start of the WAL when it takes the replica over."""


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


def meta_folder(database: str | os.PathLike[str]) -> Path:
    """Return the folder beside a database where replication keeps its own state."""
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(database))))
    return path.parent / f".{path.name}-litestream"


def replicate_once(
    database: str | os.PathLike[str], replica: Replica, *, progress: Progress | None = None
) -> Published | None:
    """Publish what is committed now as the next transaction, if it differs from what the replica has.

    The database may be in use, in WAL or rollback-journal mode; it is not changed. The difference is written
    to a temporary file first, so that a slow storage keeps nobody waiting. State is kept beside the database, in
    `.<name>-litestream/`; without it the replica is read once to find the difference.

    Args:
        database: The SQLite database.
        replica: Where to.
        progress: Called with the pages compared and the pages in all.

    Returns:
        What was published; None where nothing changed.

    Raises:
        DatabaseError: The database is missing, empty, locked for long, or no database.
        ConflictError: Somebody else published the same TXID at the same time.
        BackendError: The storage failed; a further run begins where this one did.
    """
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(database))))
    if not path.is_file():
        raise DatabaseError(f"there is no database {path}")
    table_path = _table_path(path, replica)
    with _state_folder(table_path.parent):
        sweep(table_path)
        files = replica.files()
        newest = max((file.max_txid for file in files), default=0)
        published = _published(table_path)
        # A replica that lost what we published does not get its TXID again: readers may have seen the first one.
        known = published <= newest and _ensure_table(table_path, replica, files, newest)
        txid = TXID(1 + max(newest, published))
        with open_table(table_path) as table, TemporaryFile(dir=table_path.parent) as staged:
            found = _stage(path, txid, table if known else None, table_path, staged, progress)
            if found is None:
                return None
            encoder, writer = found
            with closing(writer):
                header = encoder.header
                level = 0 if header.min_txid == txid else SNAPSHOT_LEVEL
                key = replica.layout.key(level, header.min_txid, txid)
                _create(replica, key, staged, encoder)
                writer.install(txid, encoder.file_checksum)
    return Published(level, txid, key, encoder.size, encoder.page_count, header.timestamp)


@contextmanager
def _state_folder(folder: Path) -> Iterator[None]:
    """Have a folder; it does not stay beside what turned out to be no database."""
    folder.mkdir(exist_ok=True)
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
    with ExitStack() as undo, pinned(path) as source:
        writer = undo.enter_context(closing(TableWriter(table_path, source.page_size, source.commit)))
        if table and table.page_size != source.page_size:
            table = None  # VACUUM changed it: no increment can follow, a snapshot can
        changed = _changed_pages(source, table, writer, progress)
        first = next(changed, None)
        if first is None and table and table.commit == source.commit:
            return None
        whole = table is None and txid != 1
        header = Header(
            page_size=source.page_size,
            commit=source.commit,
            min_txid=TXID(1) if whole else txid,
            max_txid=txid,
            timestamp_ms=source.timestamp_ms,
            flags=NO_CHECKSUM,
            wal_offset=0 if whole else _WAL_OFFSET,
        )
        encoder = Encoder(header, chain([first] if first else [], changed))
        staged.writelines(encoder)
        undo.pop_all()
        return encoder, writer


def _changed_pages(
    source: PinnedDatabase, table: PageTable | None, writer: TableWriter, progress: Progress | None
) -> Iterator[tuple[int, bytes]]:
    """Yield the pages that the replica lacks, and write down the hashes of all."""
    following = 1
    for pgno, page in source.pages():
        if pgno != following:
            writer.append(bytes(HASH_SIZE))  # the lock page
        following = pgno + 1
        digest = page_hash(page)
        writer.append(digest)
        if table is None or table.hash_of(pgno) != digest:
            yield pgno, page
        if progress and not pgno & 0x3FF:
            progress(pgno, source.commit)
    if progress:
        progress(source.commit, source.commit)


def _create(replica: Replica, key: str, staged: BinaryIO, encoder: Encoder) -> None:
    """Create the object, or find that a try of our own created it.

    Raises:
        ConflictError: Somebody else's object is there.
    """
    backend = replica.backend
    exclusive = backend.capabilities.put_if_absent
    try:
        if not exclusive and _exists(replica, key):
            raise AlreadyExistsError(f"{key} exists", key=key)
        staged.seek(0)
        backend.put(key, staged, if_absent=exclusive, timestamp_ms=encoder.header.timestamp_ms)
    except AlreadyExistsError as error:
        if _checksum_at(replica, key) == encoder.file_checksum:
            return
        raise ConflictError(
            f"{replica.url}/{key} was written by somebody else just now; one database has one writer: "
            "find the other one, then run this again",
            key=key,
        ) from error


def _exists(replica: Replica, key: str) -> bool:
    try:
        replica.backend.head(key)
    except NotFoundError:
        return False
    return True


def _checksum_at(replica: Replica, key: str) -> int:
    return int.from_bytes(replica.backend.get(key, -CHECKSUM_SIZE), "big")


def _table_path(path: Path, replica: Replica) -> Path:
    return meta_folder(path) / f"pages-{hashlib.sha256(replica.url.encode()).hexdigest()[:16]}"


def _published(table_path: Path) -> int:
    """Return the TXID that the table names; 0 where there is no table."""
    with open_table(table_path) as table:
        return table.txid if table else 0


def _ensure_table(table_path: Path, replica: Replica, files: Sequence[LTXFile], newest: int) -> bool:
    """See to it that the table says what the replica has; False where nothing can be compared with.

    It is trusted only if it names the replica's newest TXID and the checksum of the file that ends with it.
    """
    try:
        plan = make_plan(files, newest)
    except ReplicaError:
        return False  # a hole: only a snapshot makes the replica whole again
    file = min((file for file in files if file.max_txid == newest), key=lambda file: file.level)
    checksum = _checksum_at(replica, file.key)
    with open_table(table_path) as table:
        if table and table.txid == newest and table.file_checksum == checksum:
            return True
    try:
        replica.use(plan, lambda wanted: _rebuild(table_path, replica, wanted, newest, checksum))
    except (CorruptError, UnsupportedVersionError, NotFoundError):
        return False  # a file of the chain cannot be read: as good as a hole
    return True


def _rebuild(table_path: Path, replica: Replica, files: Sequence[LTXFile], txid: int, checksum: int) -> None:
    """Make the table from the files of a plan, each verified whole."""
    writer: TableWriter | None = None
    before: Header | None = None
    try:
        for file, decoder in decoded(replica.backend, files):
            header = decoder.header
            writer = writer or TableWriter(table_path, header.page_size, header.commit)
            try:
                _hash_pages(decoder, before, writer)
            except CorruptError as error:
                raise FileError(file, error) from error
            writer.resize(header.commit)
            before = header
        if writer:
            writer.install(txid, checksum)
    finally:
        if writer:
            writer.close()


def _hash_pages(decoder: Decoder, before: Header | None, writer: TableWriter) -> None:
    """Write down the pages of one file, which must fit the one before it: else no restore could use it."""
    header, old_commit, grown = decoder.header, before.commit if before else 0, 0
    if before and header.page_size != before.page_size:
        raise CorruptError(f"pages of {header.page_size} bytes after pages of {before.page_size}", offset=8)
    for pgno, page in decoder:
        writer.put(pgno, page_hash(page))
        grown += pgno > old_commit
    if grown != pages_between(old_commit, header):
        raise CorruptError(
            f"the database grows from {old_commit} to {header.commit} pages, and some are missing"
        )
