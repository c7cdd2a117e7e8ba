"""Whose a replica is: which database wrote to it last, in an object that the real Litestream passes over.

A **lineage** is the line of states that a replica and its database have in common; its id stays when the database is
restored elsewhere. On the replica, `lineage.json` has the id, and the writer: host, path and inode of its database.
Beside a database, `.<name>-litestream/lineage.json` has the id, and for a restored one the TXID that it was restored to.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backends import Backend, NotFoundError
from ltx.replica.layout import LINEAGE_KEY
from ltx.sqlite import sync_folder

__all__ = [
    "Lineage",
    "Writer",
    "meta_folder",
    "name_writer",
    "note_restored",
    "read_lineage",
    "read_writer",
]


@dataclass(frozen=True, slots=True)
class Writer:
    """Who wrote to a replica last.

    Attributes:
        id: The lineage.
        host: The machine.
        path: The database.
        inode: The database's file there.
        pid: The process.
    """

    id: str
    host: str
    path: str
    inode: int
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} with {self.path}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What is known beside a database.

    Attributes:
        id: The lineage.
        restored_txid: The last transaction when it was restored; 0 for one that never was.
    """

    id: str
    restored_txid: int = 0

    def save(self, folder: Path) -> None:
        """Write it down in the folder of a database's state, durably."""
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{LINEAGE_KEY}.{os.urandom(6).hex()}.tmp"
        try:
            with open(aside, "xb") as file:
                file.write(json.dumps(asdict(self)).encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, folder / LINEAGE_KEY)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(folder)


def meta_folder(database: str | os.PathLike[str]) -> Path:
    """Return the folder beside a database where replication keeps its own state."""
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(database))))
    return path.parent / f".{path.name}-litestream"


def read_lineage(folder: Path) -> Lineage | None:
    """Return what is known in the folder of a database's state; None where nothing is."""
    with suppress(FileNotFoundError):
        found = _parsed((folder / LINEAGE_KEY).read_bytes())
        with suppress(KeyError, TypeError, ValueError):
            return Lineage(str(found["id"]), int(str(found["restored_txid"])))
    return None


def read_writer(backend: Backend) -> Writer | None:
    """Return who wrote to a replica last; None where it does not say.

    Raises:
        BackendError: The storage did not answer: that is not a no.
    """
    with suppress(NotFoundError):
        found = _parsed(backend.get(LINEAGE_KEY))
        with suppress(KeyError, TypeError, ValueError):
            return Writer(
                str(found["id"]),
                str(found["host"]),
                str(found["path"]),
                int(str(found["inode"])),
                int(str(found["pid"])),
            )
    return None


def name_writer(backend: Backend, writer: Writer, *, if_absent: bool = False) -> None:
    """Let a replica say who wrote to it last.

    Raises:
        AlreadyExistsError: It says so of somebody already, and only a new replica was meant.
    """
    backend.put(LINEAGE_KEY, json.dumps(asdict(writer)).encode(), if_absent=if_absent)


def note_restored(backend: Backend, output: Path, txid: int) -> None:
    """Write down beside a restored database which lineage it is of, where its replica says so."""
    writer = read_writer(backend)
    if writer is not None:
        Lineage(writer.id, txid).save(meta_folder(output))


def _parsed(data: bytes) -> Mapping[str, object]:
    with suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict):
            return found
    return {}
