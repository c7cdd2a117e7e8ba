"""Python's own sqlite3 as a host: one JSON step a line, one JSON answer a line."""

import json
import os
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

databases: dict[str, sqlite3.Connection] = {}


def answer(step: Any) -> list[Any]:
    what, *rest = step
    if what == "load":
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(rest[0])
        loader.close()
        return []
    if what == "open":
        databases[rest[0]] = sqlite3.connect(rest[1], uri=True, check_same_thread=False, isolation_level=None)
        return []
    if what == "close":
        databases.pop(rest[0]).close()
        return []
    if what == "sql":
        return [list(row) for row in databases[rest[0]].execute(rest[1]).fetchall()]
    if what == "interrupted":
        threading.Timer(rest[2], databases[rest[0]].interrupt).start()
        return list(databases[rest[0]].execute(rest[1]).fetchall())
    if what == "patient":  # Ctrl-C arrives in Python while the main thread waits for another one
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(lambda: databases[rest[0]].execute(rest[1]).fetchall())
            try:
                return list(asked.result())
            except KeyboardInterrupt:
                databases[rest[0]].interrupt()
                return list(asked.result())
    if what == "forked":
        child = os.fork()
        if child == 0:
            os._exit(0 if databases[rest[0]].execute(rest[1]).fetchone()[0] == rest[2] else 1)
        return [[os.waitpid(child, 0)[1]]]
    if what == "opens":
        for _ in range(rest[1]):
            database = sqlite3.connect(rest[0], uri=True)
            database.execute(rest[2]).fetchall()
            database.close()
        return []
    if what == "threads":
        found: list[Any] = [None] * rest[1]

        def work(place: int) -> None:
            database = sqlite3.connect(rest[0], uri=True)
            found[place] = [database.execute(rest[2]).fetchone()[0] for _ in range(20)]
            database.close()

        threads = [threading.Thread(target=work, args=(place,)) for place in range(rest[1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found
    raise ValueError(what)


for line in sys.stdin:
    try:
        said: dict[str, object] = {"rows": answer(json.loads(line))}
    except (Exception, KeyboardInterrupt) as error:
        said = {"error": str(error) or type(error).__name__}
    print(json.dumps(said), flush=True)
