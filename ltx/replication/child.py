"""The process behind `ltx.replicate`: it takes requests on stdin and answers on stdout, until stdin ends.

Two SQLite libraries in one process lose data (docs/design/0006-capture.md), so that the program that has the database
open must not be the one that replicates it. When that program dies, stdin ends, and what is left is flushed.
"""

import json
import logging
import os
import signal
import sys
import threading

from backends import BackendError
from ltx.errors import LTXError
from ltx.replica.replica import Replica
from ltx.replication.control import answer
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.ending import why_not
from ltx.replication.fleet import uploading
from ltx.replication.run import prepare_process

__all__ = ["main"]


def main() -> None:
    """Replicate what the first line of stdin names."""
    prepare_process()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is the parent's, which ends us in its own time
    logging.getLogger("ltx").addHandler(logging.NullHandler())  # the status has the errors
    out, sys.stdout = sys.stdout, sys.stderr
    given = json.loads(sys.stdin.readline())
    lock = threading.Lock()

    def reply(number: object, found: object) -> None:
        with lock:
            print(json.dumps({"id": number, "answer": found}), file=out, flush=True)

    try:
        replicas = [uploading(Replica.open(url, **given["storage_options"])) for url in given["urls"]]
        settings = Settings(sync_interval_s=given["sync_interval_s"], wal=given["wal"])
        database = Database(given["database"], replicas, settings)
        daemon = Daemon([database], flush_s=given["flush_s"])
        daemon.start()
    except (LTXError, BackendError, OSError, ValueError) as error:
        reply(0, {"ok": False, "error": str(error)})
        return
    reply(0, {"ok": True})
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "stop":
            done = daemon.stop()
            reply(request["id"], {"ok": done, "error": None if done else why_not(database)})
            os._exit(0)
        work = threading.Thread(
            target=lambda request=request: reply(request["id"], answer(daemon, json.dumps(request).encode())),
            daemon=True,
        )
        work.start()
    daemon.stop()
    os._exit(0)


if __name__ == "__main__":
    main()
