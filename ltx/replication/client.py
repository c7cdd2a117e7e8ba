"""`ltx.replicate`: a database of this program, replicated by a process of its own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ltx.errors import ReplicaError

__all__ = ["Replication", "replicate"]

_START_S = 30.0
_SLACK_S = 10.0
_LONGEST_S = 1 << 31


class Replication:
    """A database being replicated, from the `with` to its end. Made by `ltx.replicate`; safe to use from any thread."""

    def __init__(
        self,
        database: str | os.PathLike[str],
        urls: Sequence[str],
        *,
        sync_interval: float,
        flush_timeout: float,
        wal: bool,
        storage_options: Mapping[str, object],
    ) -> None:
        self._given = {
            "database": str(Path(database).expanduser().absolute()),
            "urls": [str(url) for url in urls],
            "sync_interval_s": sync_interval,
            "flush_s": flush_timeout,
            "wal": wal,
            "storage_options": dict(storage_options),
        }
        self._flush_s = flush_timeout
        self._process: subprocess.Popen[str] | None = None
        self._answers: dict[int, Mapping[str, object]] = {}
        self._arrived = threading.Condition()
        self._number = 0

    def __enter__(self) -> Self:
        places = os.pathsep.join(place or os.getcwd() for place in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ltx.replication.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": places},
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self._process.stdin.write(json.dumps(self._given) + "\n")
        self._process.stdin.flush()
        found = self._wait_for(0, _START_S)
        if not found["ok"]:
            self._end()
            raise ReplicaError(str(found["error"]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            found = self._ask({"command": "stop"}, self._flush_s + _SLACK_S)
        finally:
            self._end()
        if not found["ok"] and error is None:
            raise ReplicaError(str(found["error"]))

    def sync(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Capture everything committed so far.

        Args:
            wait: Return only when it can be read on the replica.
            timeout: Seconds to wait.

        Raises:
            ReplicaError: It is not there in time, or the database cannot be read.
        """
        request = {"command": "sync", "wait": wait, "timeout_s": timeout}
        found = self._ask(request, timeout + _SLACK_S)
        if not found["ok"]:
            raise ReplicaError(str(found["error"]))

    @property
    def status(self) -> Mapping[str, object]:
        """What is known of the database and its replicas, in the fields of `ltx status --json`."""
        databases = self._ask({"command": "status"}, _SLACK_S)["databases"]
        assert isinstance(databases, list)
        found: Mapping[str, object] = databases[0]
        return found

    def _ask(self, request: Mapping[str, object], timeout_s: float) -> Mapping[str, object]:
        if self._process is None or self._process.stdin is None:
            raise ValueError("replication runs only inside its 'with'")
        with self._arrived:
            self._number += 1
            number = self._number
            try:
                self._process.stdin.write(json.dumps({**request, "id": number}) + "\n")
                self._process.stdin.flush()
            except OSError as error:
                raise ReplicaError("the process that replicates has ended") from error
        return self._wait_for(number, timeout_s)

    def _wait_for(self, number: int, timeout_s: float) -> Mapping[str, object]:
        with self._arrived:
            self._arrived.wait_for(lambda: number in self._answers or -1 in self._answers, timeout_s)
            if number in self._answers:
                return self._answers.pop(number)
            what = "has ended" if -1 in self._answers else f"did not answer within {timeout_s:g} s"
        raise ReplicaError(f"the process that replicates {what}")

    def _read(self, answers: IO[str]) -> None:
        for line in answers:
            found = json.loads(line)
            with self._arrived:
                self._answers[found["id"]] = found["answer"]
                self._arrived.notify_all()
        with self._arrived:
            self._answers[-1] = {}
            self._arrived.notify_all()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_SLACK_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join(_SLACK_S)
        assert process.stdout is not None
        process.stdout.close()


def _check_names(database: object, urls: object) -> None:
    if not isinstance(database, str | os.PathLike):
        raise TypeError(f"a database is a path: {database!r}")
    if not isinstance(urls, Sequence) or not all(isinstance(each, str) for each in urls):
        raise TypeError(f"a replica is named by its URL, a str, or several are by a list of them: {urls!r}")
    if not urls:
        raise ValueError(f"a replica is needed: name its URL, such as s3://bucket/app: {urls!r}")


def _check_time(name: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} is a number of seconds: {seconds!r}")
    if not 0 <= seconds < _LONGEST_S:
        raise ValueError(f"{name} is a number of seconds, 0 or more and below {_LONGEST_S}: {seconds!r}")


def replicate(
    database: str | os.PathLike[str],
    url: str | Sequence[str],
    *,
    sync_interval: float = 1.0,
    flush_timeout: float = 30.0,
    wal: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> Replication:
    """Keep a replica of a database current for as long as a `with` block lasts.

    A process of its own does it, so that this program may have the database open with any SQLite library. At the end
    of the block everything committed is on the replica, or an error says that it is not, or that there was no database.

    >>> with ltx.replicate("app.db", "s3://bucket/app") as replication:
    ...     replication.sync()

    Args:
        database: The SQLite database.
        url: The replica, or several.
        sync_interval: The shortest time in seconds from one transaction of the replica to the next; the first commit
            after a quiet time goes at once.
        flush_timeout: For how many seconds the end of the block tries to upload what is left.
        wal: Bring a database with a rollback journal into WAL mode; else it is left as it is.
        storage_options: What a URL cannot hold, handed to the storage.

    Raises:
        TypeError: An argument is of another type.
        ValueError: A time is negative or no number, or there is no URL.
    """
    urls = [url] if isinstance(url, str) else url
    _check_names(database, urls)
    _check_time("sync_interval", sync_interval)
    _check_time("flush_timeout", flush_timeout)
    return Replication(
        database,
        urls,
        sync_interval=sync_interval,
        flush_timeout=flush_timeout,
        wal=wal,
        storage_options=storage_options or {},
    )
