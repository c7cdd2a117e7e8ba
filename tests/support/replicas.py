"""A database and its replica in a test: runs of `replicate_once`, each held to all that it promises."""

import os
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import ltx
from backends import Backend
from backends.local import LocalBackend
from ltx import Published, Replica, replicate_once
from ltx.format import Decoder
from ltx.replica.layout import LINEAGE_KEY
from tests.support.databases import image, sealed
from tests.support.ltxfiles import lock_page

__all__ = ["Case", "pages_in"]


def pages_in(data: bytes, page_size: int) -> dict[int, bytes]:
    """Cut a database into its pages, by number."""
    return {at // page_size + 1: data[at : at + page_size] for at in range(0, len(data), page_size)}


@dataclass
class Case:
    """A database at `folder/a.db` and a replica of it at `folder/replica`.

    `known` is what the replica should give now: the database as it was when the last file was published.
    """

    folder: Path
    name: str = "a.db"
    root_name: str = "replica"
    known: bytes = b""
    published: list[Published] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.folder / self.name

    @property
    def root(self) -> Path:
        return self.folder / self.root_name

    @property
    def state(self) -> Path:
        """Where replication keeps its own state."""
        return self.folder / f".{self.name}-litestream"

    @property
    def sidecar(self) -> Path:
        [path] = (path for path in self.state.glob("pages-*") if path.suffix != ".tmp")
        return path

    def replica(self, backend: Backend | None = None) -> Replica:
        return Replica(backend or LocalBackend(self.root))

    def keys(self) -> list[str]:
        """Every file below the replica's root but the writer's name, temporary ones too."""
        found = self.root.rglob("*")
        keys = (str(path.relative_to(self.root)) for path in found if path.is_file())
        return sorted(key for key in keys if key != LINEAGE_KEY)

    def run(self, backend: Backend | None = None) -> Published | None:
        """Replicate, and check the file that was published; the source must not change meanwhile."""
        before, side_before = image(self.database), self.database.read_bytes()
        began_ms = time.time_ns() // 1_000_000
        done = replicate_once(self.database, self.replica(backend))
        assert image(self.database) == before
        assert self.database.read_bytes() == side_before
        if done:
            self.check_file(done, before, began_ms)
            self.published.append(done)
            self.known = before
        self.check_restored()
        return done

    def check_file(self, done: Published, now: bytes, began_ms: int) -> None:
        """Hold a published file to the rules of what we write, field by field."""
        path = self.root / done.key
        data = path.read_bytes()
        page_size = int.from_bytes(now[16:18], "big")
        page_size = 65536 if page_size == 1 else page_size
        flags, size, commit, low, high, stamp, pre, *wal, node = struct.unpack_from(">4xIIIQQqQqqIIQ", data)
        assert (flags, size, pre, node, data[80:100]) == (2, page_size, 0, 0, bytes(20))
        assert data[-16:-8] == bytes(8)
        assert commit == len(now) // page_size
        assert high == done.txid
        assert (low, wal) == ((high, [32, 0, 0, 0]) if done.level == 0 else (1, [0, 0, 0, 0]))
        assert done.key == f"ltx/{done.level}/{low:016x}-{high:016x}.ltx"
        assert began_ms <= stamp <= time.time_ns() // 1_000_000
        assert os.stat(path).st_mtime_ns == stamp * 1_000_000
        assert round(done.time.timestamp() * 1000) == stamp
        pages = dict(Decoder([data]))
        assert (done.size, done.page_count) == (len(data), len(pages))
        new, old = pages_in(now, page_size), pages_in(self.known, page_size) if low > 1 else {}
        new.pop(lock_page(page_size), None)
        # Exactly the pages that differ, which covers all by which the database grew.
        assert pages == {pgno: page for pgno, page in new.items() if old.get(pgno) != page}

    def restored(self, txid: int | None = None) -> bytes:
        """Return what the replica gives."""
        output = self.folder / "restored.db"
        self.replica().restore(output, txid=txid, force=True)
        return output.read_bytes()

    def restored_or_none(self) -> bytes | None:
        """Return what the replica gives; None where it gives nothing."""
        try:
            return self.restored()
        except ltx.ReplicaError:
            return None

    def check_restored(self) -> None:
        """Hold the replica to what it should give, and to being free of anything but LTX files."""
        if self.known:
            assert self.restored() == self.known
        assert all(key.endswith(".ltx") for key in self.keys())

    def check_sealed(self) -> None:
        """Hold the replica to the source's file once its WAL is in it, byte for byte."""
        assert sealed(self.database) == self.restored()
        assert ltx.Replica.open(str(self.root)).plan().txid == self.published[-1].txid
