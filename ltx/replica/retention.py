"""Deleting what is no longer needed, and only that (docs/formats/compaction.md, Retention).

Every moment of the window stays restorable: the newest snapshot from before the window is kept, and all that leads
on from it. A file is deleted only if another one was read whole and has what it held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from backends import Backend, NotFoundError
from ltx.errors import CorruptError, NotReachableError, ReplicaError, UnsupportedVersionError
from ltx.format import HEADER_SIZE, TXID, Header
from ltx.replica.apply import FAULTS, FileError, decoded
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import reach_of
from ltx.replica.replica import Replica
from ltx.replica.times import last_at
from ltx.replica.verify import Restorable

__all__ = ["Deleted", "Fault", "Retained", "RetentionPolicy", "Verified", "restorable", "retain"]

_TRIES = 5
_CLOCKS_DIFFER = timedelta(minutes=5)
_UNREADABLE = (CorruptError, UnsupportedVersionError)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is kept. The defaults are the real Litestream's, but for the grace.

    Attributes:
        window: Every moment from so long ago until now can be restored; None keeps everything above level 0.
        level0: Files of level 0 are kept until the file of level 1 that has what they hold ends, and lies there, so
            long; None keeps them until they are older than the window.
        grace: So much more than the window is kept, so that a restore of its oldest moment can end; None for a tenth
            of the window, at most 10 minutes.

    Raises:
        ValueError: One of them is negative.
    """

    window: timedelta | None = timedelta(hours=24)
    level0: timedelta | None = timedelta(minutes=5)
    grace: timedelta | None = None

    def __post_init__(self) -> None:
        for length in (self.window, self.level0, self.grace):
            if length is not None and length < timedelta(0):
                raise ValueError(f"what is kept cannot end in the future: {length}")

    @property
    def kept_for(self) -> timedelta | None:
        """How old a snapshot must be before what lies below it can go; None for never."""
        if self.window is None:
            return None
        grace = min(self.window / 10, timedelta(minutes=10)) if self.grace is None else self.grace
        return max(self.window + grace, self.level0 or timedelta(0))


@dataclass(frozen=True, slots=True)
class Deleted:
    """A file that went, or would go.

    Attributes:
        file: The file.
        covered_by: A file that stays and has what it held.
    """

    file: LTXFile
    covered_by: LTXFile


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is damaged; what only it could replace stays."""

    file: LTXFile
    text: str


@dataclass(frozen=True, slots=True)
class Retained:
    """What a run did, or would do.

    Attributes:
        deleted: What went, in the order of a listing.
        kept: What stays.
        faults: Files found damaged. What they should replace is kept.
        state_count: How many states can still be restored.
        states_before: How many could be before.
    """

    deleted: tuple[Deleted, ...]
    kept: tuple[LTXFile, ...]
    faults: tuple[Fault, ...]
    state_count: int
    states_before: int

    @property
    def size(self) -> int:
        """Bytes of what went."""
        return sum(deleted.file.size for deleted in self.deleted)


@dataclass(slots=True)
class Verified:
    """Remembers which files were read whole, and what was found, so that each is read once: keep it between runs."""

    _found: dict[tuple[str, int, str], Fault | None] = field(default_factory=dict)

    def fault_of(self, backend: Backend, file: LTXFile) -> Fault | None:
        """Read a file to its end, unless that was done.

        Returns:
            What is wrong with it; None for nothing.

        Raises:
            NotFoundError: It is gone.
            UnavailableError: The storage did not answer.
        """
        identity = _identity(file)
        if identity not in self._found:
            self._found[identity] = _read(backend, file)
        return self._found[identity]

    def note(self, fault: Fault) -> None:
        """Let a file count as damaged that somebody else found to be so."""
        self._found[_identity(fault.file)] = fault

    def forget_all_but(self, files: Sequence[LTXFile]) -> None:
        """Forget files that are gone."""
        for identity in self._found.keys() - {_identity(file) for file in files}:
            del self._found[identity]


def _read(backend: Backend, file: LTXFile) -> Fault | None:
    try:
        for _, decoder in decoded(backend, [file]):
            for _ in decoder:
                pass
            if decoder.size != file.size:
                return Fault(file, f"the listing says {file.size} bytes, the file has {decoder.size}")
    except FileError as error:
        return _fault(file, error.reason)
    except FAULTS as error:
        return _fault(file, error)
    return None


def _fault(file: LTXFile, error: Exception) -> Fault:
    if isinstance(error, NotFoundError):
        raise error
    return Fault(file, str(error))


def _identity(file: LTXFile) -> tuple[str, int, str]:
    return file.key, file.size, file.version


def retain(
    replica: Replica,
    policy: RetentionPolicy | None = None,
    *,
    dry_run: bool = False,
    now: datetime | None = None,
    verified: Verified | None = None,
) -> Retained:
    """Delete what the policy does not keep.

    It may run in several places at once, beside merges, restores and queries, and be stopped anywhere: whoever
    finds a file gone plans again, to the same TXID.

    Args:
        replica: The replica.
        policy: What to keep; None for the defaults.
        dry_run: Delete nothing, and read nothing but headers: what would replace a file is taken to be sound.
        now: The time; None for the clock.
        verified: What was read whole before, to be handed in again by whoever runs this often.

    Returns:
        What went and what stays.

    Raises:
        ReplicaError: Deleting would take away a state that must stay; nothing was deleted. It cannot happen.
        BackendError: The storage failed; some of it may be deleted, the rest goes the next time.
    """
    verified = Verified() if verified is None else verified
    run = _Run(replica, policy or RetentionPolicy(), now or datetime.now(UTC), None if dry_run else verified)
    for _ in range(_TRIES - 1):
        try:
            return run.once()
        except NotFoundError:  # somebody else prunes, too
            continue
    return run.once()


def restorable(replica: Replica, files: Sequence[LTXFile]) -> tuple[Restorable, Restorable] | None:
    """Return the oldest and the newest state that files give, or None where they give none.

    Raises:
        CorruptError, NotFoundError: The time of one of them cannot be read.
    """
    txids = reach_of(files).txids
    if not txids:
        return None
    oldest, newest = replica.times([txids[0], txids[-1]], files)
    return Restorable(txids[0], oldest), Restorable(txids[-1], newest)


@dataclass(slots=True)
class _Run:
    replica: Replica
    policy: RetentionPolicy
    now: datetime
    verified: Verified | None
    faults: dict[LTXFile, Fault] = field(default_factory=dict)

    def once(self) -> Retained:
        files = self.replica.files()
        self.faults.clear()
        if self.verified:
            self.verified.forget_all_but(files)
        doomed = {deleted.file: deleted for deleted in self._below_base(files)}
        rest = [file for file in files if file not in doomed]
        doomed |= {deleted.file: deleted for deleted in self._merged(rest)}
        kept = [file for file in files if file not in doomed]
        before, after = reach_of(files), reach_of(kept)
        if before.txids[-1:] != after.txids[-1:] or before.gap != after.gap:
            raise ReplicaError(
                f"{self.replica.url}: deleting would lose the newest state; please report this"
            )
        if self.verified and doomed:
            self.replica.backend.delete([file.key for file in doomed])
        return Retained(
            tuple(doomed[file] for file in files if file in doomed),
            tuple(kept),
            tuple(self.faults.values()),
            len(after.txids),
            len(before.txids),
        )

    def _is_sound(self, file: LTXFile) -> bool:
        if self.verified is None or file in self.faults:
            return file not in self.faults
        fault = self.verified.fault_of(self.replica.backend, file)
        if fault:
            self.faults[file] = fault
        return fault is None

    def _below_base(self, files: Sequence[LTXFile]) -> Iterator[Deleted]:
        """Yield what ends no later than the newest sound snapshot from before the window."""
        stays = _newest_of_levels(files)
        for base in reversed(self._bases(files)):
            below = [
                file
                for file in files
                if file.max_txid <= base.max_txid and file not in stays and file != base
            ]
            if not below:
                return
            if self._is_sound(base):
                yield from (Deleted(file, base) for file in below)
                return

    def _bases(self, files: Sequence[LTXFile]) -> Sequence[LTXFile]:
        """Return the snapshots of states from before the window, as their own headers date them.

        Where times go back, none behind the first that lies within the window; what lies in the future says nothing.
        """
        kept_for = self.policy.kept_for
        if kept_for is None:
            return []
        found: list[LTXFile] = []
        snapshots = [file for file in files if file.level == SNAPSHOT_LEVEL and file.is_usable]
        for file, time in zip(snapshots, self._times(snapshots), strict=True):
            if time is None or time > self.now + _CLOCKS_DIFFER:
                continue
            if time > self.now - kept_for:
                break
            found.append(file)
        return found

    def _times(self, files: Sequence[LTXFile]) -> Sequence[datetime | None]:
        """Return the times in headers, which are cached; None for a damaged one."""
        try:
            return [header.timestamp for header in self.replica.headers(files)]
        except _UNREADABLE:
            return [self._time(file) for file in files]

    def _time(self, file: LTXFile) -> datetime | None:
        try:
            return self.replica.headers([file])[0].timestamp
        except _UNREADABLE as error:
            self.faults[file] = Fault(file, str(error))
            return None

    def _merged(self, files: Sequence[LTXFile]) -> Iterator[Deleted]:
        """Yield the files of level 0 that others have: all that one file covers, when its last is old enough.

        A single one that stayed behind could not be reached.
        """
        if self.policy.level0 is None:
            return
        stays, limit = _newest_of_levels(files), self.now - self.policy.level0
        covered = [found for found in _covered(files) if found.file not in stays]
        merged = {found.covered_by for found in covered if self._is_long_stored(found.covered_by, limit)}
        old = self._old_enough(merged, limit)
        for found in covered:
            if found.covered_by in old and self._is_sound(found.covered_by):
                yield found

    def _is_long_stored(self, file: LTXFile, limit: datetime) -> bool:
        """Whether a file lies there since a time, too: what was merged late is read from what it was made of.

        A storage's clock may be wrong: what it says of the future counts for nothing.
        """
        stored = file.modified
        return stored is None or stored <= limit or stored > self.now + _CLOCKS_DIFFER

    def _old_enough(self, files: set[LTXFile], limit: datetime) -> set[LTXFile]:
        """Find the files up to the last one whose header is not younger than a time, by few headers."""
        by_txid = {file.max_txid: file for file in files}
        while by_txid:
            try:
                last = self._last_before(sorted(by_txid), by_txid, limit)
            except NotReachableError:
                break
            except FileError as error:  # damaged: the others have times, too
                self.faults[error.file] = Fault(error.file, str(error.reason))
                del by_txid[error.file.max_txid]
            else:
                return {file for file in by_txid.values() if file.max_txid <= last}
        return set()

    def _last_before(self, txids: Sequence[TXID], by_txid: dict[TXID, LTXFile], limit: datetime) -> TXID:
        """Find it by the storage's own times where a header says that they are no later; else search the headers.

        The storage's times are a little later, by the time that an upload takes: some files wait for the next run.
        """

        def times_of(some: Sequence[TXID]) -> Sequence[datetime]:
            return _header_times(self.replica.backend, [by_txid[txid] for txid in some])

        stored = (by_txid[txid].modified for txid in txids)
        guess = sum(modified is not None and modified <= limit for modified in stored)
        is_before = times_of([txids[max(0, guess - 1)]])[0] <= limit
        if guess and is_before:
            return txids[guess - 1]
        if not guess and not is_before:
            raise NotReachableError("all are younger")
        return last_at(txids, limit, times_of)


def _header_times(backend: Backend, files: Sequence[LTXFile]) -> Sequence[datetime]:
    """Read the times of files that are asked for once: caching their headers would only fill memory."""
    times: list[datetime] = []
    for file, data in zip(
        files, backend.get_ranges([(file.key, 0, HEADER_SIZE) for file in files]), strict=True
    ):
        try:
            times.append(Header.unpack(data).timestamp)
        except _UNREADABLE as error:
            raise FileError(file, error) from error
    return times


def _newest_of_levels(files: Sequence[LTXFile]) -> set[LTXFile]:
    """Return the newest file of each level: the real Litestream takes its position from it, and goes on behind it."""
    newest: dict[int, LTXFile] = {}
    for file in files:
        if file.is_usable and (file.level not in newest or file.max_txid > newest[file.level].max_txid):
            newest[file.level] = file
    return set(newest.values())


def _covered(files: Sequence[LTXFile]) -> Iterator[Deleted]:
    """Yield each file of level 0 with the file of level 1 that it lies in, or with the snapshot that equals it."""
    snapshots = {file.max_txid: file for file in files if file.level == SNAPSHOT_LEVEL and file.is_usable}
    merged = [file for file in files if file.level == 1]
    best: LTXFile | None = None
    place = 0
    for file in (file for file in files if file.level == 0):  # both sorted by their first TXID
        while place < len(merged) and merged[place].min_txid <= file.min_txid:
            if best is None or merged[place].max_txid > best.max_txid:
                best = merged[place]
            place += 1
        if best is not None and file.max_txid <= best.max_txid:
            yield Deleted(file, best)
        elif file.min_txid == 1 and file.max_txid in snapshots:
            yield Deleted(file, snapshots[file.max_txid])
