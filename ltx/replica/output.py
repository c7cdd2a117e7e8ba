"""Putting a restored database in its place: at once and whole, or not at all."""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import apsw

from ltx.errors import DatabaseError, LTXError, OutputExistsError
from ltx.sqlite import leave_wal_on_close, sync_folder

__all__ = ["INTEGRITY_CHECKS", "NewDatabase", "check_integrity", "check_kind", "new_database"]

SIDE_FILES = ("-wal", "-shm", "-journal")
_RANDOM = re.compile("[0-9a-f]{12}")
_OLD_S = 60
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTEGRITY_CHECKS = ("none", "quick", "full")


class NewDatabase:
    """A file beside an output, which becomes the output when `install` returns and is gone otherwise."""

    def __init__(self, output: Path, aside: Path, descriptor: int) -> None:
        self.output = output
        self.aside = aside
        self.descriptor = descriptor

    def clear(self) -> None:
        """Begin anew with an empty file."""
        os.ftruncate(self.descriptor, 0)

    def install(self, *, force: bool) -> None:
        """Sync the file and give it the output's name, durably.

        Side files of an older database of that name (`-wal`, `-shm`, `-journal`) are removed first: SQLite
        would replay them over the new one. With `force` an old database is locked while that happens.

        Raises:
            OutputExistsError: The output exists, and `force` is not set.
            DatabaseError: The old database is in use.
        """
        with ExitStack() as held:
            exists = os.path.lexists(self.output)
            if exists and not force:
                raise _exists(self.output)
            if exists:
                old = os.stat(self.output)
                os.fchmod(self.descriptor, old.st_mode & 0o7777)
                with suppress(PermissionError):
                    os.fchown(self.descriptor, old.st_uid, old.st_gid)
            os.fsync(self.descriptor)
            if exists:
                held.enter_context(_locked(self.output))
            for suffix in SIDE_FILES:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.output}{suffix}")
            if exists:
                os.replace(self.aside, self.output)
            else:
                _publish(self.aside, self.output)
            sync_folder(self.output.parent)


@contextmanager
def new_database(output: str | os.PathLike[str], *, force: bool) -> Iterator[NewDatabase]:
    """Open an empty file beside an output; it is removed at the end unless it was installed.

    Raises:
        OutputExistsError: The output exists, and `force` is not set.
        LTXError: The folder does not exist, or the output is no file.
    """
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(output))))
    if path.is_symlink():
        path = path.resolve()
    if path.is_dir():
        raise LTXError(f"the output {path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise LTXError(f"the output {path} is a device or a pipe: name a file")
    if not path.parent.is_dir():
        raise LTXError(f"the folder {path.parent} does not exist: make it first")
    if path.exists() and not force:
        raise _exists(path)
    stem = os.fsencode(path.name)[:200].decode(errors="ignore")  # a name may have 255 bytes
    aside = path.parent / f".{stem}.{os.urandom(6).hex()}.tmp"
    _sweep(path.parent, f".{stem}.")
    descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with suppress(OSError):  # no locks on this file system: then nothing is swept either
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield NewDatabase(path, aside, descriptor)
    except OSError as error:
        if error.errno in _FULL and not error.filename:
            error.filename = str(path.parent)  # which disk is full
        raise
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(aside)


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what killed restores to the same output left: old files that nobody holds."""
    for name in os.listdir(folder):
        middle = name.removeprefix(prefix).removesuffix(".tmp")
        if name != f"{prefix}{middle}.tmp" or not _RANDOM.fullmatch(middle):
            continue
        with suppress(OSError), open(folder / name, "rb") as file:  # BlockingIOError: somebody writes it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S:
                os.unlink(folder / name)


def check_kind(kind: str) -> None:
    """Refuse an integrity check that does not exist."""
    if kind not in INTEGRITY_CHECKS:
        raise ValueError(f"an integrity check is none, quick or full, not {kind!r}")


def check_integrity(path: Path, kind: str) -> None:
    """Run SQLite's own check on a database that nobody else has open; nothing is written.

    Args:
        path: The database.
        kind: `none`, `quick` or `full`.

    Raises:
        DatabaseError: It found something; the message has the first findings.
        ValueError: No such kind.
    """
    check_kind(kind)
    if kind == "none":
        return
    pragma = "quick_check" if kind == "quick" else "integrity_check"
    uri = f"file:{_quoted(path)}?mode=ro&immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}(10)")]
    except apsw.Error as error:
        found = [str(error)]
    finally:
        connection.close()
    if found != ["ok"]:
        raise DatabaseError(f"SQLite's {pragma} of the restored database found: {'; '.join(found)}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a database exclusively, with all that its WAL or journal holds brought into it.

    What is no database is not locked: there is nobody whom it would serve. A connection of this very process
    through another SQLite library (such as the standard library's `sqlite3`) is not noticed: the system's locks
    are a process's, not a library's.

    Raises:
        DatabaseError: Somebody has it open, or it cannot be locked.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        raise DatabaseError(f"{path} cannot be opened to lock it: {error}") from error
    try:
        connection.set_busy_timeout(1000)
        leave_wal_on_close(connection)  # by then the name is the new database's
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE; COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (apsw.NotADBError, apsw.CorruptError):
            pass
        except (apsw.BusyError, apsw.LockedError) as error:
            raise DatabaseError(f"{path} is in use: stop whatever has it open, then try again") from error
        except apsw.Error as error:
            raise DatabaseError(f"{path} cannot be locked: {error}") from error
        yield
    finally:
        connection.close()


def _publish(aside: Path, output: Path) -> None:
    """Give the file its name where none must be taken; a file system without links gets a rename."""
    try:
        os.link(aside, output)
    except FileExistsError as error:
        raise _exists(output) from error
    except OSError:
        os.rename(aside, output)


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} exists: use --force (force=True) to replace it, or name another output")


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
