"""One connection of the real Litestream's VFS for `bench.truth`: it needs a process of its own."""

import os
import sys
from pathlib import Path

import apsw
import litestream_vfs

from tests.support.truth import watch


def _connect() -> apsw.Connection:
    db = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    db.enable_load_extension(True)
    db.load_extension(litestream_vfs.loadable_path().removesuffix(".so"))
    db.execute("ATTACH 'file:replica.db?vfs=litestream' AS r")
    return db


if __name__ == "__main__":
    stop = Path(sys.argv[1])
    found = watch(_connect, lambda _: stop.exists(), schema="r")
    print(found.to_json(), file=sys.stderr, flush=True)  # the real Litestream writes to stdout
    os._exit(0)  # the Go runtime stays behind
