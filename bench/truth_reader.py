"""One connection in a process of its own for `bench.truth`: ours, or the real Litestream's VFS, which needs that."""

import os
import sys
from json import dumps
from pathlib import Path

import apsw

from tests.support.truth import watch


def _ours(url: str) -> apsw.Connection:
    import vfs

    return vfs.connect(url, poll_interval=0.2)


def _theirs(_url: str) -> apsw.Connection:
    import litestream_vfs

    db = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    db.enable_load_extension(True)
    db.load_extension(litestream_vfs.loadable_path().removesuffix(".so"))
    db.execute("ATTACH 'file:replica.db?vfs=litestream' AS r")
    return db


if __name__ == "__main__":
    kind, url, stop = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    connect, schema = (_ours, "main") if kind == "ours" else (_theirs, "r")
    found = watch(lambda: connect(url), stop.exists, schema=schema)
    print(
        dumps({**vars(found), "errors": dict(found.errors)}), file=sys.stderr, flush=True
    )  # the real Litestream writes to stdout
    os._exit(0)  # the Go runtime stays behind
