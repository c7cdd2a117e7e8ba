"""One process that queries: ours, the peer's extension, or a plain file. It says as JSON what each step took."""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import apsw

Step = Callable[[], object]


def main(who: str, where: str, steps: list[str]) -> None:
    """Run steps; standard error gets a list of seconds, and for ours requests and bytes so far after each."""
    opened = {"ours": _open_ours, "theirs": _open_theirs, "local": _open_local}[who]
    run: dict[str, Any] = {}
    told = []
    for step in steps:
        work = _step(step, run, lambda: opened(where), where)
        began = time.perf_counter()
        work()
        wall = time.perf_counter() - began
        told.append({"wall_s": wall, **_spent(run.get("backend"))})
    print(json.dumps(told), file=sys.stderr, flush=True)
    os._exit(0)  # the peer's Go runtime stays behind


def _step(step: str, run: dict[str, Any], opened: Callable[[], dict[str, Any]], where: str) -> Step:
    """Return what a step does: `open`, `stream`, `points:COUNT` or `sql:STATEMENT`."""
    name, _, text = step.partition(":")
    if name == "open":
        return lambda: run.update(opened())
    if name == "stream":
        return partial(_stream, where)
    if name == "points":
        ids = random.Random(11).choices(range(1, _rows(run["db"]) + 1), k=int(text))
        return partial(_points, run["db"], ids)
    return lambda: run["db"].execute(text).fetchall()


def _rows(db: apsw.Connection) -> int:
    return int(db.execute("SELECT max(id) FROM ratings").get)


def _points(db: apsw.Connection, rows: Sequence[int]) -> None:
    for row in rows:
        assert db.execute("SELECT stars FROM ratings WHERE id = ?", (row,)).get is not None


def _spent(backend: Any) -> dict[str, int]:
    if backend is None:
        return {}
    return {"requests": sum(backend.stats.requests.values()), "received": backend.stats.received}


def _open_ours(url: str) -> dict[str, Any]:
    import vfs
    from vfs.source import DEFAULT_TIMEOUT_S, open_source

    cache_size = int(os.environ.get("BENCH_CACHE_SIZE", 64 << 20))
    db = vfs.connect(url, poll_interval=3600, cache_size=cache_size)
    return {"db": db, "backend": open_source(url, cache_size, DEFAULT_TIMEOUT_S, {}).replica.backend}


def _open_theirs(_url: str) -> dict[str, Any]:
    """Attach the replica that LITESTREAM_REPLICA_URL names to the connection that loaded the extension.

    Once it is loaded no further connection can be opened.
    """
    db = _loaded[0]
    db.execute("ATTACH 'file:replica.db?vfs=litestream' AS r")
    return {"db": db}


def _open_local(path: str) -> dict[str, Any]:
    return {"db": apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)}


def _stream(url: str) -> None:
    """Read all files of a replica one after the other, each whole."""
    from ltx import Replica

    with Replica.open(url) as replica:
        for file in replica.files():
            replica.backend.get(file.key)


def _load_theirs() -> None:
    import litestream_vfs

    db = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    db.enable_load_extension(True)
    db.load_extension(litestream_vfs.loadable_path().removesuffix(".so"))
    _loaded.append(db)


_loaded: list[apsw.Connection] = []

if __name__ == "__main__":
    if sys.argv[1] == "theirs":
        _load_theirs()
    elif sys.argv[1] == "ours":
        # What is measured begins after imports: the peer's library is loaded by now, too.
        import obstore  # noqa: F401

        import backends.obstore_s3  # noqa: F401
        import vfs  # noqa: F401
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
