"""A replicator that is killed, or finds the disk full, at any step of its work; an application that goes on or dies too.

Everything is forked from one small process: `Case` holds a database, an application and a replica; `Case.run` lets a
replicator go through one fixed scenario beside the application, with something happening at one step of it, and
`Case.check` holds what is left to the promises. A step is a call to the system that a file or a folder can tell,
or a call to SQLite; a recording layer over Python's calls to C numbers them.
"""

import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from io import IOBase
from pathlib import Path
from random import Random
from types import FrameType
from typing import IO, Literal, NoReturn

import apsw

from backends import BackendError
from ltx import LTXError, NotReachableError, Replica
from ltx.replica.compaction import compact, snapshot
from ltx.replica.plan import reach_of
from ltx.replica.retention import retain
from ltx.replication.checkpoint import Limits
from ltx.replication.database import Database, Settings
from tests.support.databases import connected, image, make

__all__ = ["KINDS", "Case", "Kind"]

Kind = Literal["killed", "both killed", "killed, the clock jumping", "disk full"]
KINDS: tuple[Kind, ...] = ("killed", "both killed", "killed, the clock jumping", "disk full")

_ROUNDS = 11
_WRITES = {
    "ftruncate", "fsync", "link", "mkdir", "open", "pwrite", "pwritev", "rename", "replace", "truncate", "utime", "write",
    "writelines",
}  # fmt: skip
_STEPS = _WRITES | {"flock", "flush", "remove", "rmdir", "unlink"}
_SQLITE = {"execute", "wal_checkpoint", "close"}
_NAMES = _STEPS | _SQLITE
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class Case:
    """One database, its application in a process of its own, and its replica.

    Args:
        folder: A new folder.
        kind: What happens to the replicator.
        seed: Decides what the application does.
    """

    def __init__(self, folder: Path, kind: Kind, seed: int) -> None:
        folder.mkdir()
        self.kind, self.folder = kind, folder
        self.path, self.url = folder / "a.db", str(folder / "replica")
        make(self.path, page_size=512, rows=12, pragmas="PRAGMA auto_vacuum = INCREMENTAL")
        self._choice = Random(seed)
        self._app = _App(self.path, seed)
        self.images = [image(self.path)]
        self.acknowledged: list[tuple[int, int]] = []
        self.steps: list[str] = []

    def run(self, step: int | None) -> bool:
        """Let a replicator go through the scenario; return whether it came to its end.

        Args:
            step: At which of its steps something happens; None for none.
        """
        there, here = os.pipe(), os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(there[0])
            os.close(here[1])
            _in_child(lambda: _replicate(self, step, Random(step or 0), here[0], there[1]))
        os.close(there[1])
        os.close(here[0])
        with open(there[0]) as requests, open(here[1], "w", buffering=1) as answers:
            for request in requests:
                self._answer(request.split(), answers)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if self.kind == "both killed":
            self._app.kill()
        if status not in (0, -signal.SIGKILL):
            raise AssertionError(f"the replicator ended with {status}")
        return status == 0

    def _answer(self, request: list[str], answers: IO[str]) -> None:
        match request:
            case ["write"]:
                with suppress(BrokenPipeError):
                    self._write()
                    answers.write("done\n")
            case ["has", txid]:
                self.acknowledged.append((int(txid), len(self.images) - 1))
            case ["step", *words]:
                self.steps.append(" ".join(words))

    def _write(self) -> None:
        self._app.do("commit")
        self.images.append(image(self.path))
        if self._choice.random() < 0.3:
            self._app.do("begin")  # and the replicator looks while the transaction is open
        if self.kind == "both killed" and self._choice.random() < 0.3:
            self._app.kill()

    def check(self) -> None:
        """Hold what is left to the promises; then go on, and hold that to them."""
        self._check_acknowledged()
        for _ in range(2):
            self._write()
        if self._choice.random() < 0.5:
            self._app.do("checkpoint")
        with (
            Replica.open(self.url) as replica,
            closing(Database(self.path, [replica], Settings())) as database,
        ):
            for _ in range(4):
                database.sync()
                database.uploaders[0].push()
            if not database.uploaders[0].is_current:
                raise AssertionError(f"it did not go on: {database.status}")
        self._app.do("checkpoint")
        with Replica.open(self.url) as replica:
            if self._restored(replica) != self.images[-1]:
                raise AssertionError("the replica is not the database")
            if not replica.verify().is_sound:
                raise AssertionError("a file of the replica is not sound")
            acknowledged = dict(self.acknowledged)
            for txid in reach_of(replica.files()).txids:
                image = self._restored(replica, txid)
                if image not in self.images:
                    raise AssertionError(f"TXID {txid} is a state that never was")
                if txid in acknowledged and image != self.images[acknowledged[txid]]:
                    raise AssertionError(f"in the end TXID {txid} is not what was acknowledged")

    def _check_acknowledged(self) -> None:
        """Hold what lies there, before anybody makes it good, to what was acknowledged."""
        if not self.acknowledged:
            return
        with Replica.open(self.url) as replica:
            newest = self.acknowledged[-1][1]
            if self._restored(replica) not in self.images[newest:]:
                raise AssertionError("what was acknowledged last is not there")
            for txid, number in self.acknowledged:
                with suppress(NotReachableError):  # merged or pruned by now
                    if self._restored(replica, txid) != self.images[number]:
                        raise AssertionError(f"TXID {txid} is not what was acknowledged")

    def _restored(self, replica: Replica, txid: int | None = None) -> bytes:
        output = self.folder / "out.db"
        replica.restore(output, txid=txid, force=True)
        return output.read_bytes()

    def close(self) -> None:
        """End the application and remove everything."""
        self._app.kill()
        shutil.rmtree(self.folder)


class _App:
    """An application that has the database open, does what it is told to, and can be killed; then there is a new one."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        self._pid = 0

    def do(self, what: str) -> None:
        if not self._pid:
            self._start()
        self._to.write(f"{what}\n")
        if self._from.readline() != "done\n":
            raise AssertionError(f"the application could not {what}")

    def kill(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._to.close()
            self._from.close()
            self._pid = 0

    def _start(self) -> None:
        to, back = os.pipe(), os.pipe()
        self._seed += 1
        self._pid = os.fork()
        if self._pid == 0:
            os.close(to[1])
            os.close(back[0])
            _in_child(lambda: _application(self._path, self._seed, to[0], back[1]))
        os.close(to[0])
        os.close(back[1])
        self._to, self._from = open(to[1], "w", buffering=1), open(back[0])  # noqa: SIM115 - kill closes them


def _in_child(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(status)


def _application(path: Path, seed: int, requests: int, answers: int) -> None:
    choice = Random(seed)
    with (
        open(requests) as asked,
        open(answers, "w", buffering=1) as answer,
        connected(path, busy_ms=50) as db,
    ):
        db.execute("PRAGMA cache_size = 3; PRAGMA cache_spill = 1; PRAGMA synchronous = OFF")
        for line in asked:
            match line.strip():
                case "begin":
                    db.execute("BEGIN IMMEDIATE; UPDATE t SET b = randomblob(170)")
                case "commit":
                    if not db.get_autocommit():
                        db.execute(choice.choice(("ROLLBACK", "COMMIT")))
                    _change(db, choice)
                case "checkpoint":
                    if not db.get_autocommit():
                        db.execute("ROLLBACK")
                    with suppress(apsw.BusyError):
                        db.execute(
                            f"PRAGMA wal_checkpoint({choice.choice(('PASSIVE', 'TRUNCATE'))})"
                        ).fetchall()
            answer.write("done\n")


def _change(db: apsw.Connection, choice: Random) -> None:
    kind = choice.random()
    with suppress(apsw.BusyError):
        if kind < 0.1:
            db.execute("VACUUM")
        elif kind < 0.2:
            db.execute("PRAGMA incremental_vacuum(3)").fetchall()
        elif kind < 0.3:
            db.execute(f"PRAGMA wal_checkpoint({choice.choice(('PASSIVE', 'RESTART'))})").fetchall()
    with db:
        if choice.random() < 0.3:
            db.execute("DELETE FROM t WHERE id % 5 = ?", (choice.randrange(5),))
        db.execute("UPDATE t SET a = a + 1 WHERE id % 4 = ?", (choice.randrange(4),))
        for row in range(choice.choice((1, 2, 9))):
            db.execute("INSERT INTO t (a, b) VALUES (?, randomblob(170))", (row,))


def _replicate(case: Case, step: int | None, choice: Random, answers: int, requests: int) -> None:
    """The scenario: a first snapshot, commits, checkpoints, merged files, a snapshot, retention."""
    with open(answers) as answer, open(requests, "w", buffering=1) as ask, Replica.open(case.url) as replica:
        if "clock" in case.kind:
            _let_the_clock_jump(choice)
        recorder = _Recorder(
            step, "full" if case.kind == "disk full" else "kill", lambda word: ask.write(f"step {word}\n")
        )
        database = Database(case.path, [replica], Settings(limits=Limits(min_pages=12)))
        for number in range(_ROUNDS):
            ask.write("write\n")
            answer.readline()
            with recorder:
                done = _tried(lambda: _round(database, number))  # noqa: B023 - it runs at once
            if done and database.uploaders[0].is_current:
                ask.write(f"has {database.line.txid}\n")
        with recorder:
            database.close()


def _round(database: Database, number: int) -> None:
    uploader = database.uploaders[0]
    replica, later = uploader.replica, datetime.now(UTC) + timedelta(days=30)
    database.sync()
    uploader.push()
    if uploader.error is not None:
        raise uploader.error
    if number in (4, 7):
        compact(replica, 1, folder=database.folder)
    if number == 8:
        compact(replica, 2, folder=database.folder)
        snapshot(replica, folder=database.folder)
    if number in (5, 9):
        retain(replica, now=later)


def _tried(work: Callable[[], None]) -> bool:
    """Do something that may be refused, if the refusal is typed; return whether it was done."""
    try:
        work()
    except (LTXError, BackendError):
        return False
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return False
    return True


def _let_the_clock_jump(choice: Random) -> None:
    real, day = time.time_ns, 86_400 * 1_000_000_000

    def jumping() -> int:
        return real() + (choice.randrange(-2 * day, 2 * day) if choice.random() < 0.7 else 0)

    time.time_ns = jumping
    time.time = lambda: jumping() / 1e9


class _Recorder:
    """Numbers the steps within its `with`, in all threads, and lets something happen at one of them.

    Args:
        step: Which one; None to call `tell` with each instead.
        what: Whether this process is killed there, or the disk is full, then and in the next two `with`.
        tell: Called with the name of each step.
    """

    def __init__(
        self, step: int | None, what: Literal["kill", "full"], tell: Callable[[str], object]
    ) -> None:
        self._step, self._what, self._tell = step, what, tell
        self._count = 0
        self._failures = 3
        self._inside = False

    def __enter__(self) -> None:
        threading.setprofile(self._see)
        sys.setprofile(self._see)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _see(self, frame: FrameType, event: str, called: object) -> None:
        if event != "c_call" or self._inside or (name := called.__name__) not in _NAMES:  # type: ignore[attr-defined]
            return
        owner = getattr(called, "__self__", None)
        if not (
            _is_file_call(name, owner, called) or (isinstance(owner, apsw.Connection) and name in _SQLITE)
        ):
            return
        number, self._count = self._count, self._count + 1
        if self._step is None:
            self._inside = True
            self._tell(f"{name} {Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            self._inside = False
        elif number == self._step and self._what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif number >= self._step and self._what == "full" and name in _WRITES and self._failures:
            self._failures -= 1
            raise OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC)
            )  # Python stops calling us until the next `with`


def _is_file_call(name: str, owner: object, called: object) -> bool:
    module = getattr(called, "__module__", "")
    return name in _STEPS and (isinstance(owner, IOBase) or module in ("posix", "_io", "fcntl"))
