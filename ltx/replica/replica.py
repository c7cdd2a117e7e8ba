"""The replica of one database: what lies there, what it can give back, and giving it back."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from backends import Backend, BackendError, NotFoundError, open_backend
from backends.retrying import RetryingBackend
from ltx.errors import (
    CorruptError,
    NoSnapshotError,
    ReplicaError,
    UnsupportedVersionError,
)
from ltx.format import TXID, Header, parse_txid
from ltx.replica.apply import FileError, Progress, apply_files
from ltx.replica.files import LTXFile, files_of
from ltx.replica.headers import Headers, last_txid_at, times_of
from ltx.replica.layout import LINEAGE_KEY, Layout, elsewhere, native_layout
from ltx.replica.plan import Plan, make_plan
from ltx.replica.times import parse_time

if TYPE_CHECKING:
    from ltx.replica.follow import Followed
    from ltx.replica.verify import Verification

__all__ = ["Replica", "Restored"]

_T = TypeVar("_T")

_PLANS = 5
"""How often a restore plans anew when files vanish or are damaged."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        path: The new database.
        txid: The last transaction in it.
        time: When that one was committed.
        files: The files it was made from, in order.
        size: Bytes of the database.
        passed_over: Keys of files that were damaged or gone, and that the result did without.
        duration_s: Seconds it took.
    """

    path: Path
    txid: TXID
    time: datetime
    files: tuple[LTXFile, ...]
    size: int
    passed_over: tuple[str, ...]
    duration_s: float


class Replica:
    """The LTX files of one database on one storage. Holds no lock and writes nothing.

    Listings are never cached; headers are, since files never change.

    Attributes:
        backend: The storage.
        layout: Where the files lie on it, as of the last listing.
        has_lineage: Whether the last listing showed who wrote here.
        elsewhere: Where LTX files lie instead, where the last listing showed none here; "" where it did not tell.

    Args:
        backend: The storage, its root being the replica's.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.layout: Layout = native_layout(backend.scheme)
        self._headers = Headers(backend)
        self.has_lineage = False
        self.elsewhere = ""

    @classmethod
    def open(cls, url: str, **storage_options: object) -> Self:
        """Open the replica that a URL names. Nothing is sent yet.

        Args:
            url: Such as `s3://bucket/app`, or a plain path.
            storage_options: What a URL cannot hold, handed to the backend.

        Raises:
            backends.ConfigError: The URL or an option is wrong.
        """
        return cls(RetryingBackend(open_backend(url, **storage_options)))

    @property
    def url(self) -> str:
        """Where it lies, without any secret."""
        return self.backend.url

    def files(self, level: int | None = None) -> Sequence[LTXFile]:
        """List the LTX files, sorted by level and TXID, in one listing.

        Args:
            level: 0 to 9, or None for all.
        """
        native = native_layout(self.backend.scheme)
        objects = [*self.backend.list()]
        self.has_lineage = any(info.key == LINEAGE_KEY for info in objects)
        found, self.layout = files_of(objects, native)
        self.elsewhere = "" if found else elsewhere(info.key for info in objects)
        return [file for file in found if level is None or file.level == level]

    def headers(self, files: Sequence[LTXFile]) -> Sequence[Header]:
        """Read the headers of files, in parallel: 100 bytes of each that was not read before.

        Raises:
            CorruptError: One is no LTX file's.
            NotFoundError: One is gone.
        """
        try:
            return self._headers.of(files)
        except FileError as error:
            raise error.public() from error

    def times(self, txids: Sequence[TXID], files: Sequence[LTXFile]) -> Sequence[datetime]:
        """Return when transactions were committed.

        The time of a TXID is the smallest in the headers of the files that end with it: a snapshot carries the
        clock of its making, which is later.

        Args:
            txids: TXIDs that files end with.
            files: The replica's files.

        Raises:
            CorruptError: No file that ends with one of them can be read.
            NotFoundError: They are gone.
        """
        return times_of(self._headers, txids, files)

    def plan(
        self,
        at: str | datetime | None = None,
        txid: int | str | None = None,
        *,
        files: Sequence[LTXFile] | None = None,
    ) -> Plan:
        """Find the files that give the newest state, or the one at a time or after a transaction.

        Args:
            at: A time as `parse_time` reads it: the last transaction not after it is meant.
            txid: A TXID, as a number or as 16 hex digits.
            files: The replica's files, where they are known; None lists them.

        Raises:
            NoSnapshotError: Nothing can be restored.
            GapError: Files are missing before what was asked for; the error names what can be had.
            NotReachableError: The TXID or time is not one that can be restored; its neighbours are named.
            ValueError: Both `at` and `txid` are given, or one of them is malformed.
        """
        if at is not None and txid is not None:
            raise ValueError("give a time or a TXID, not both")
        known = self.files() if files is None else files
        if not known:
            advice = self.elsewhere or "or replicate a database to it"
            raise NoSnapshotError(f"no LTX files lie at {self.url}: check the URL, {advice}")
        if at is not None:
            return self._plan_at(parse_time(at), known)
        return make_plan(known, parse_txid(txid) if isinstance(txid, str) else txid)

    def restore(
        self,
        output: str | os.PathLike[str],
        *,
        at: str | datetime | None = None,
        txid: int | str | None = None,
        force: bool = False,
        integrity_check: str = "none",
        progress: Progress | None = None,
    ) -> Restored:
        """Write the database as it was to a file: verified, synced, and in place at once or not at all.

        Memory stays flat whatever the size of the database. A file that is damaged or vanishes is planned
        around, to the same TXID, where other files have its content.

        Args:
            output: The file to make. Without `force` it must not exist.
            at: The time to go back to; None with no `txid` for the newest state.
            txid: The last transaction to include.
            force: Replace an existing output, unless somebody has it open.
            integrity_check: SQLite's own check of the result: `none`, `quick` or `full`.
            progress: Called with the bytes done and in all.

        Raises:
            OutputExistsError: The output exists. It is untouched, as after every error.
            DatabaseError: The old output is in use, or the integrity check found something.
            CorruptError: A file is damaged, and no others have its content.
            NoSnapshotError, GapError, NotReachableError: As `plan`.
        """
        from ltx.replica.output import check_integrity, check_kind, new_database  # queries do without

        check_kind(integrity_check)
        started = time.monotonic()
        with new_database(output, force=force) as new:
            files = self.files()
            plan = self.plan(at, txid, files=files)

            def write(wanted: Sequence[LTXFile]) -> Header:
                new.clear()
                return apply_files(self.backend, wanted, new.descriptor, progress)

            header, plan, passed_over = self.use(plan, write, or_newer=at is None and txid is None)
            check_integrity(new.aside, integrity_check)
            committed = self._committed(plan, files, header)
            new.install(force=force)
            self._note_lineage(new.output, plan.txid)
            return Restored(
                new.output,
                plan.txid,
                committed,
                plan.files,
                header.commit * header.page_size,
                passed_over,
                time.monotonic() - started,
            )

    def _note_lineage(self, output: Path, txid: TXID) -> None:
        """Let whoever replicates the output know what it is; that it cannot be written down is in nobody's way."""
        from ltx.replica.lineage import note_restored  # queries do without

        if self.has_lineage:
            with suppress(BackendError, OSError):
                note_restored(self.backend, output, txid)

    def follow(
        self, output: str | os.PathLike[str], *, interval: float = 1.0, force: bool = False
    ) -> "Generator[Followed]":
        """Keep a local copy current: yield each state that it was brought to, and wait in between, for ever.

        Other processes may read the copy all the while: they see each change, whole or not at all. Whenever this one is
        killed, the next call with the same output goes on. Breaking out of the loop, or closing what this returns, ends
        it; the copy stays. It is in no WAL mode, whatever the source is in, and nobody else may write to it.

        Not for a program that has the copy open through another SQLite library, such as the standard library's: the
        system's locks are a process's. There, let `ltx restore -f` do it.

        Args:
            output: The copy; it is made where there is none.
            interval: Seconds from one look at the replica to the next.
            force: Replace an output that is no copy of this replica, unless somebody has it open.

        Raises:
            OutputExistsError: The output is no copy of this replica, or somebody else wrote to it; it is untouched.
            NoSnapshotError, GapError: There is no copy yet, and none can be made. Later these are waited out.
        """
        from ltx.replica.follow import following  # a plain restore does without

        return following(self, output, interval_s=interval, force=force)

    def _committed(self, plan: Plan, files: Sequence[LTXFile], header: Header) -> datetime:
        try:
            return self.times([plan.txid], [*files, *plan.files])[0]
        except (NotFoundError, CorruptError, UnsupportedVersionError):  # planned around, or pruned meanwhile
            return header.timestamp

    def verify(self, progress: Progress | None = None) -> "Verification":
        """Read every file, and say what is damaged, what is missing, and what can be restored.

        Args:
            progress: Called with the bytes done and in all.
        """
        from ltx.replica.verify import verify_files

        return verify_files(self.backend, self.files, progress)

    def use(
        self, plan: Plan, attempt: Callable[[Sequence[LTXFile]], _T], *, or_newer: bool = False
    ) -> tuple[_T, Plan, tuple[str, ...]]:
        """Do something with a plan's files, and again with others when one of them is damaged or gone.

        Args:
            plan: The plan to begin with; every other one leads to the same TXID.
            attempt: Called with the files of a plan, each time from the start; raises `FileError` to give up.
            or_newer: Let another plan lead to a later TXID where none leads to the same one any more: while a long
                restore of the newest state runs, files of level 0 are merged with later ones and pruned.

        Returns:
            What `attempt` returned, the plan that it got there with, and the keys that were passed over.
        """
        avoided: list[str] = []
        while True:
            try:
                return attempt(plan.files), plan, tuple(avoided)
            except FileError as error:
                avoided.append(error.file.key)
                rest = [file for file in self.files() if file.key not in avoided]
                try:
                    if len(avoided) >= _PLANS:
                        raise error.public() from error
                    plan = _other_plan(rest, plan.txid, or_newer)
                except ReplicaError:
                    raise error.public() from error

    def _plan_at(self, at: datetime, files: Sequence[LTXFile]) -> Plan:
        for _ in range(_PLANS - 1):
            try:
                return make_plan(files, last_txid_at(at, files, self._headers))
            except NotFoundError:  # pruned since the listing
                files = self.files()
        return make_plan(files, last_txid_at(at, files, self._headers))

    def close(self) -> None:
        """Release the storage's connections."""
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Replica {self.url}>"


def _other_plan(files: Sequence[LTXFile], txid: TXID, or_newer: bool) -> Plan:
    """Plan to a TXID anew, or to the newest state where that is allowed and not older."""
    try:
        return make_plan(files, txid)
    except ReplicaError:
        if not or_newer:
            raise
        plan = make_plan(files)
        if plan.txid < txid:
            raise
        return plan
