"""A local copy that keeps up with a replica, while others read it: consistent at every moment, whatever is killed.

What was committed since is read and verified whole, then written as one transaction of SQLite's own kind
(`ltx.replica.overwrite`). A file beside the copy, `<name>-follow`, says which TXID it is at, by the change counter of
its first page: it is written before each transaction, with what comes after it, so that whichever of the two the
counter shows is true.
"""

import json
import logging
import os
import secrets
import time
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from backends import BackendError, NotFoundError
from ltx.errors import CorruptError, GapError, NoSnapshotError, OutputExistsError
from ltx.format import CHECKSUM_SIZE, TXID, Header
from ltx.replica.apply import FAULTS, FileError, apply_files, decoded, pages_between
from ltx.replica.files import LTXFile
from ltx.replica.history import is_same_history
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.output import new_database
from ltx.replica.overwrite import COUNTER, Busy, WritableCopy, as_rollback_journal, page_size_of
from ltx.replica.plan import extend
from ltx.sqlite import sync_folder

if TYPE_CHECKING:
    from ltx.replica.replica import Replica

__all__ = ["Followed", "Follower", "following"]

_TRIES = 5
log = logging.getLogger("ltx")


@dataclass(frozen=True, slots=True)
class Followed:
    """What a copy was brought to.

    Attributes:
        txid: The last transaction in it.
        time: When that one was committed.
        page_count: How many pages were written.
        is_whole: Whether all pages were read, as at the beginning; else only what was committed since.
    """

    txid: TXID
    time: datetime
    page_count: int
    is_whole: bool


@dataclass(frozen=True, slots=True)
class _At:
    """Where a copy is, at one value of its change counter: a TXID, its time, and the file that ends with it."""

    txid: int
    key: str
    checksum: int
    time_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _State:
    """What the file beside the copy says."""

    url: str
    inode: int
    at: Mapping[int, _At]


class _Changes:
    """The pages of some files, each as the last of them leaves it, verified, in a temporary file."""

    def __init__(self, folder: Path) -> None:
        self.page_size = self.commit = 0
        self.last: tuple[LTXFile, Header, int] | None = None
        self.is_whole = False
        self._places: dict[int, int] = {}
        self._spool = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()

    def read(self, replica: "Replica", files: Sequence[LTXFile], commit: int = 0, page_size: int = 0) -> None:
        """Take the pages of files, which follow a state of so many pages of that size; 0 for none.

        Raises:
            FileError: A file is damaged or gone, or does not fit the one before it.
        """
        self.commit, self.page_size, self.is_whole = commit, page_size, commit == 0
        self._places.clear()
        self._spool.seek(0)
        for file, decoder in decoded(replica.backend, files):
            header, grown = decoder.header, 0
            try:
                if self.page_size not in (0, header.page_size):
                    raise CorruptError(f"pages of {header.page_size} bytes follow others", offset=8)
                self.page_size = header.page_size
                for pgno, page in decoder:
                    self._places[pgno] = self._spool.tell()
                    self._spool.write(page)
                    grown += pgno > self.commit
                if grown != pages_between(self.commit, header):
                    raise CorruptError(f"it grows to {header.commit} pages, and some are missing")
            except FAULTS as error:
                raise FileError(file, error) from error
            for pgno in [pgno for pgno in self._places if pgno > header.commit]:
                del self._places[pgno]
            self.commit = header.commit
            self.last = file, header, decoder.file_checksum

    def add_first(self, page: bytes) -> None:
        """Let page 1 be among the pages: it changes with every transaction."""
        if 1 not in self._places:
            self._places[1] = self._spool.seek(0, os.SEEK_END)
            self._spool.write(page)

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield page numbers, ascending, and pages."""
        for pgno in array("L", sorted(self._places)):
            self._spool.seek(self._places[pgno])
            yield pgno, self._spool.read(self.page_size)

    def close(self) -> None:
        self._spool.close()


class Follower:
    """Keeps one copy current, a `step` at a time. Close it after use.

    Args:
        replica: The replica; it stays the caller's.
        output: The copy; it is made where there is none.
        force: Whether a file that is no copy of ours is replaced, unless somebody has it open.

    Raises:
        OutputExistsError: The output is not a copy that followed this replica, or somebody else wrote to it.
    """

    def __init__(self, replica: "Replica", output: str | os.PathLike[str], *, force: bool = False) -> None:
        self._replica = replica
        self.path = Path(os.path.realpath(os.path.expanduser(os.fspath(output))))
        self._beside = Path(f"{self.path}-follow")
        self._copy: WritableCopy | None = None
        self._at = _At(0, "", 0)
        self._force = force
        self._changes: _Changes | None = None
        self._problem = ""
        self._checked: tuple[int, datetime | None, str] | None = None
        self._proven: Sequence[LTXFile] = ()
        if os.path.lexists(self.path):
            try:
                self._resume()
            except OutputExistsError:
                self.close()
                if not force:
                    raise

    @property
    def txid(self) -> TXID:
        """The last transaction in the copy; 0 where there is none yet."""
        return TXID(self._at.txid)

    def step(self) -> Followed | None:
        """Bring what is new into the copy; None where nothing is, or where it cannot be had or written now.

        A storage that does not answer, a gap that may close, and readers that do not go are waited for: each is logged
        once, and the copy stays at the state where it was. So it does after every error.

        Raises:
            OutputExistsError: Somebody else wrote to the copy.
            ReplicaError: There is no copy yet, and none can be made.
            BackendError: The same.
        """
        if self._copy is None:
            return self._begin()
        try:
            if self._changes is None:
                self._changes = self._look()
            done = self._write(self._changes) if self._changes else None
        except (BackendError, CorruptError, GapError, NoSnapshotError, Busy) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("waits", extra={"copy": str(self.path), "error": str(error)})
            return None
        self._problem = ""
        return done

    def _begin(self) -> Followed:
        replica = self._replica
        with new_database(self.path, force=self._force) as new:

            def write(wanted: Sequence[LTXFile]) -> Header:
                new.clear()
                return apply_files(replica.backend, wanted, new.descriptor)

            header, plan, _ = replica.use(replica.plan(), write, or_newer=True)
            page = as_rollback_journal(
                os.pread(new.descriptor, header.page_size, 0), header.commit, secrets.randbits(24)
            )
            os.pwrite(new.descriptor, page, 0)
            last = plan.files[-1]
            self._at = _At(plan.txid, last.key, self._checksum(last), header.timestamp_ms)
            counter = int.from_bytes(page[COUNTER], "big")
            self._save(_State(replica.url, os.fstat(new.descriptor).st_ino, {counter: self._at}))
            new.install(force=self._force)
        self._copy = WritableCopy(self.path)
        self._resume_check(self._copy.head())
        return Followed(plan.txid, header.timestamp, header.commit, is_whole=True)

    def _resume(self) -> None:
        state = self._load()
        if state is None:
            raise OutputExistsError(
                f"{self.path} exists and is no copy that follows a replica: name another output, or replace it (--force)"
            )
        if state.url != self._replica.url:
            raise OutputExistsError(
                f"{self.path} follows another replica, {state.url}: name another output, or replace it (--force)"
            )
        self._copy = WritableCopy(self.path)
        if self._copy.inode != state.inode:
            raise self._touched()
        head = self._copy.head()
        found = state.at.get(int.from_bytes(head[COUNTER], "big"))
        if found is None:
            raise self._touched()
        self._at = found
        self._resume_check(head)

    def _resume_check(self, head: bytes) -> None:
        """Raise unless the copy is as we left it."""
        state = self._load()
        counter = int.from_bytes(head[COUNTER], "big")
        assert self._copy is not None
        here = os.stat(self.path).st_ino if self.path.exists() else None
        whole = state and here == self._copy.inode == state.inode and head[18:20] == b"\x01\x01"
        if not whole or state is None or state.at.get(counter) != self._at:
            raise self._touched()

    def _touched(self) -> OutputExistsError:
        return OutputExistsError(
            f"somebody else wrote to {self.path} or replaced it, and what they wrote would be lost: name another output, "
            "or begin anew (--force)"
        )

    def _look(self) -> _Changes | None:
        """Read and verify what is new."""
        replica = self._replica
        files = replica.files()
        remade = self._is_remade(files)
        avoided: list[LTXFile] = []
        changes = _Changes(self.path.parent)
        try:
            for _ in range(_TRIES):
                rest = [file for file in files if file not in avoided and file.level != SNAPSHOT_LEVEL]
                chain = [] if remade else extend(rest, self._at.txid)
                if files and not (chain and chain[0].min_txid == 1) and not self._is_ours(files):
                    remade, chain = True, []  # what follows could follow another state than the copy's
                if not chain:
                    break
                try:
                    changes.read(replica, chain, *self._sizes())
                except FileError as error:
                    avoided.append(error.file)
                    continue
                return changes
            if not remade and max((file.max_txid for file in files), default=0) <= self._at.txid:
                changes.close()
                return None
            log.info("takes all pages", extra={"copy": str(self.path), "remade": remade})
            replica.use(
                replica.plan(files=files), lambda wanted: changes.read(replica, wanted), or_newer=True
            )
        except BaseException:
            changes.close()
            raise
        return changes

    def _is_remade(self, files: Sequence[LTXFile]) -> bool:
        """Whether the replica is not the one that the copy came from any more, as far as can be told."""
        if files and max(file.max_txid for file in files) < self._at.txid:
            return True
        for file in files:
            if file.key == self._at.key:
                identity = file.size, file.modified, file.version
                if identity != self._checked:
                    with suppress(NotFoundError):
                        if self._checksum(file) != self._at.checksum:
                            return True
                        self._checked = identity
        return False

    def _is_ours(self, files: Sequence[LTXFile]) -> bool:
        """Whether the copy's state is shown to be one of these files': by the file it came from, or by its time."""
        at = self._at
        if any(
            file.key == at.key and (file.size, file.modified, file.version) == self._checked for file in files
        ):
            return True
        ending = [file for file in files if file.max_txid == at.txid]
        if ending and ending == self._proven:
            return True
        page_count, page_size = self._sizes()
        if at.time_ms is None or not is_same_history(
            self._replica.backend, ending, at.txid, at.time_ms, page_size, page_count
        ):
            return False
        self._proven = ending
        return True

    def _checksum(self, file: LTXFile) -> int:
        return int.from_bytes(self._replica.backend.get(file.key, -CHECKSUM_SIZE), "big")

    def _sizes(self) -> tuple[int, int]:
        """Return how many pages the copy has, and how large they are."""
        assert self._copy is not None
        head = self._copy.head()
        return int.from_bytes(head[28:32], "big"), page_size_of(head)

    def _write(self, changes: _Changes) -> Followed:
        assert self._copy is not None
        assert changes.last is not None
        file, header, checksum = changes.last
        after = _At(file.max_txid, file.key, checksum, header.timestamp_ms)
        copy = self._copy

        def check(head: bytes) -> None:
            self._resume_check(head)
            counter = int.from_bytes(head[COUNTER], "big")
            following = (counter + 1) & 0xFFFFFFFF
            self._save(_State(self._replica.url, copy.inode, {counter: self._at, following: after}))

        if not changes.is_whole:
            changes.add_first(copy.page(1, changes.page_size))
        written = copy.write(changes, check)
        self._at, self._changes = after, None
        changes.close()
        return Followed(TXID(after.txid), header.timestamp, written, changes.is_whole)

    def _load(self) -> _State | None:
        try:
            found = json.loads(self._beside.read_bytes())
            at = {int(counter): _At(**each) for counter, each in found["at"].items()}
            return _State(found["url"], found["inode"], at)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _save(self, state: _State) -> None:
        aside = Path(f"{self._beside}.tmp")
        with open(aside, "wb") as file:
            file.write(json.dumps(asdict(state)).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self._beside)
        sync_folder(self._beside.parent)

    def close(self) -> None:
        """Leave the copy as it is, for others to follow with. Idempotent."""
        if self._changes:
            self._changes.close()
            self._changes = None
        if self._copy:
            self._copy.close()
            self._copy = None


def following(
    replica: "Replica", output: str | os.PathLike[str], *, interval_s: float, force: bool
) -> Generator[Followed]:
    """Yield each state that a copy was brought to, for ever; close it to end."""
    follower = Follower(replica, output, force=force)
    try:
        while True:
            done = follower.step()
            if done:
                yield done
            else:
                time.sleep(interval_s)
    finally:
        follower.close()
