"""What a replica has, as a table of page hashes beside the database: found, believed only if it fits, or made anew."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from backends import NotFoundError, UnavailableError
from ltx.errors import CorruptError, ReplicaError, UnsupportedVersionError
from ltx.format import CHECKSUM_SIZE, Header
from ltx.replica.apply import FileError, decoded
from ltx.replica.files import LTXFile
from ltx.replica.lineage import meta_folder
from ltx.replica.plan import make_plan
from ltx.replica.replica import Replica
from ltx.replication.hashes import hashed, write_hashes
from ltx.replication.table import PageTable, TableWriter, open_table, page_hash

__all__ = [
    "checksum_at",
    "ensure_table",
    "fits",
    "has_hole",
    "left_here",
    "published_txid",
    "says_the_same",
    "table_aside",
    "table_path_of",
]


def checksum_at(replica: Replica, key: str) -> int:
    """Return the checksum that an LTX file of a replica ends with.

    Raises:
        UnavailableError: The storage twice gave fewer bytes than it has: what they say would look like a conflict.
    """
    backend = replica.backend
    data = backend.get(key, -CHECKSUM_SIZE)
    if len(data) < CHECKSUM_SIZE:  # a broken stream, or a file that is damaged
        data = backend.get(key, -CHECKSUM_SIZE)
    if len(data) < CHECKSUM_SIZE and backend.head(key).size >= CHECKSUM_SIZE:
        raise UnavailableError(f"{key} gave {len(data)} bytes where {CHECKSUM_SIZE} were asked for", key=key)
    return int.from_bytes(data, "big")


def left_here(folder: Path) -> dict[str, int]:
    """Return the files of level 0 that somebody left beside the database, each with the checksum that it ends with.

    Whoever had the database last may have been the real Litestream: then they are all that tells which replica is its.
    """
    found: dict[str, int] = {}
    for path in (folder / "ltx" / "0").glob("*.ltx"):
        with suppress(OSError), open(path, "rb") as file:
            file.seek(-CHECKSUM_SIZE, os.SEEK_END)
            found[path.name] = int.from_bytes(file.read(), "big")
    return found


def table_path_of(path: Path, url: str) -> Path:
    """Return where the table of what a replica has lies, beside a database."""
    return meta_folder(path) / f"pages-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def published_txid(table_path: Path) -> int:
    """Return the TXID that the table names; 0 where there is no table."""
    with open_table(table_path) as table:
        return table.txid if table else 0


def fits(table_path: Path, replica: Replica, files: Sequence[LTXFile], newest: int) -> bool:
    """Whether the table says what the replica has.

    It does only if it names the replica's newest TXID and the checksum of the file that ends with it, or all the pages
    of that file where it was merged since.
    """
    file = min((file for file in files if file.max_txid == newest), key=lambda file: file.level)
    with open_table(table_path) as table:
        if table is None or table.txid != newest:
            return False
        return table.file_checksum == checksum_at(replica, file.key) or says_the_same(replica, file, table)


def has_hole(files: Sequence[LTXFile], newest: int) -> bool:
    """Whether the newest transaction cannot be restored: only a snapshot makes the replica whole again."""
    try:
        make_plan(files, newest)
    except ReplicaError:
        return True
    return False


def ensure_table(table_path: Path, replica: Replica, files: Sequence[LTXFile], newest: int) -> bool:
    """See to it that the table says what the replica has; False where nothing can be compared with."""
    if has_hole(files, newest):
        return False
    if fits(table_path, replica, files, newest):
        return True
    file = min((file for file in files if file.max_txid == newest), key=lambda file: file.level)
    checksum = checksum_at(replica, file.key)
    try:
        replica.use(
            make_plan(files, newest), lambda wanted: _rebuild(table_path, replica, wanted, newest, checksum)
        )
    except (CorruptError, UnsupportedVersionError, NotFoundError):
        return False  # a file of the chain cannot be read: as good as a hole
    return True


@contextmanager
def table_aside(
    table_path: Path, replica: Replica, files: Sequence[LTXFile], newest: int
) -> Iterator[Path | None]:
    """Make the table of what a replica has, beside the one that counts; None where nothing can be compared with.

    It goes at the end, unless it was given another name; after a kill with what else was left aside.
    """
    aside = table_path.with_name(f"{table_path.name}.{os.urandom(6).hex()}.tmp")
    try:
        yield aside if ensure_table(aside, replica, files, newest) else None
    finally:
        aside.unlink(missing_ok=True)


def says_the_same(replica: Replica, file: LTXFile, table: PageTable) -> bool:
    """Whether a merged file, whose checksum nobody could know before, ends with what a table says.

    Files of level 0 are pruned once they are merged; what is left has other bytes and the same pages.
    """
    if file.level == 0:
        return False
    try:
        for _, decoder in decoded(replica.backend, [file]):
            if (decoder.header.commit, decoder.header.page_size) != (table.commit, table.page_size):
                return False
            for pgno, page in decoder:
                if table.hash_of(pgno) != page_hash(page):
                    return False
    except (CorruptError, FileError):
        return False
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
                write_hashes(header, hashed(decoder), before, writer)
            except CorruptError as error:
                raise FileError(file, error) from error
            before = header
        if writer:
            writer.install(txid, checksum)
    finally:
        if writer:
            writer.close()
