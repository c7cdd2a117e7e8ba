"""The sidecar: eight bytes of hash for each page of the database as its replica has it.

Comparing the pages of a database with this table finds what a replica lacks, whatever happened meanwhile. It
holds nothing that the replica does not: lost or doubtful, it is made again from there.

    magic 8 | page size u32 | commit u32 | TXID u64 | checksum of the replica's newest file u64 | commit x hash u64 |
    XXH3-64 of all before, u64                                                   (big-endian; hashes are XXH3-64)
"""

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_64, xxh3_64_digest

from ltx.sqlite import sync_folder

__all__ = ["HASH_SIZE", "PageTable", "TableWriter", "open_table", "page_hash", "sweep"]

HASH_SIZE = 8
_MAGIC = b"ltxpage1"
_HEAD = struct.Struct(">8sIIQQ")
_BATCH = 1 << 16
_OLD_S = 60
"""A file that nobody holds and that has not changed for so long was left by a process that was killed."""

page_hash = xxh3_64_digest
"""`page_hash(page)`: the eight bytes that stand for a page in the table."""


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table that was found whole.

    Attributes:
        page_size: Bytes of a page.
        commit: Pages of the database.
        txid: The last TXID of the replica when the table was written.
        file_checksum: The checksum that the replica's newest file ended with.
    """

    page_size: int
    commit: int
    txid: int
    file_checksum: int
    _hashes: memoryview

    def hash_of(self, pgno: int) -> bytes:
        """Return a page's hash; b"" for one beyond the database's end."""
        start = (pgno - 1) * HASH_SIZE
        return bytes(self._hashes[start : start + HASH_SIZE])

    def hashes(self, commit: int) -> memoryview:
        """Return the hashes of the first pages, up to `commit`; valid as long as the table is open."""
        return self._hashes[: commit * HASH_SIZE]


class TableWriter:
    """A new table, written page by page beside its final name; `install` makes it the one that counts."""

    def __init__(self, path: Path, page_size: int, commit: int) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path = path
        self.aside = path.parent / f"{path.name}.{os.urandom(6).hex()}.tmp"
        self._page_size = page_size
        self._commit = commit
        self._file: BinaryIO = open(self.aside, "w+b")  # noqa: SIM115 - closed by close()
        with suppress(OSError):  # no locks on this file system: then `sweep` removes nothing either
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.truncate(_HEAD.size + commit * HASH_SIZE)
        self._file.seek(_HEAD.size)

    def copy(self, table: PageTable) -> None:
        """Begin with the hashes of another table."""
        self._file.seek(_HEAD.size)
        self._file.write(table.hashes(self._commit))
        self._file.flush()

    def append(self, digest: bytes) -> None:
        """Add the hash of the next page; the lock page has one too, of zeros."""
        self._file.write(digest)

    def put(self, pgno: int, digest: bytes) -> None:
        """Set the hash of any page; none is appended to that table."""
        os.pwrite(self._file.fileno(), digest, _HEAD.size + (pgno - 1) * HASH_SIZE)

    def resize(self, commit: int) -> None:
        """Let the database have another number of pages."""
        self._commit = commit
        self._file.truncate(_HEAD.size + commit * HASH_SIZE)

    def install(self, txid: int, file_checksum: int) -> None:
        """State what the table belongs to, make it durable, and give it its name."""
        head = _HEAD.pack(_MAGIC, self._page_size, self._commit, txid, file_checksum)
        self._file.seek(0)
        self._file.write(head)
        self._file.seek(0)
        total = xxh3_64()
        while data := self._file.read(_BATCH):
            total.update(data)
        self._file.write(total.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self.aside, self.path)
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file, and remove it unless it was installed. Idempotent."""
        self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self.aside)


def sweep(path: Path) -> None:
    """Remove what killed processes left beside the table at a path."""
    for aside in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(OSError), open(aside, "rb") as file:  # BlockingIOError: somebody writes it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S:
                os.unlink(aside)


@contextmanager
def open_table(path: Path) -> Iterator[PageTable | None]:
    """Open the table at a path; None where there is none, or it is not whole to the last bit."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        yield None
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < _HEAD.size + HASH_SIZE:
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            magic, page_size, commit, txid, file_checksum = _HEAD.unpack_from(view)
            whole = magic == _MAGIC and size == _HEAD.size + (commit + 1) * HASH_SIZE
            if whole and xxh3_64_digest(view[:-HASH_SIZE]) == bytes(view[-HASH_SIZE:]):
                with view[_HEAD.size : -HASH_SIZE] as hashes:
                    yield PageTable(page_size, commit, txid, file_checksum, hashes)
            else:
                yield None
