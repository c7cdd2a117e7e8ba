"""Which files give a database as it was after a transaction: the rules of the real Litestream.

Start from the newest snapshot at or below the target; then, again and again, take the file that follows what
is there and reaches furthest (docs/formats/replica.md, Plan). Overlaps are fine, containment is passed over.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ltx.errors import GapError, NoSnapshotError, NotReachableError
from ltx.format import TXID, format_txid
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL

__all__ = ["Plan", "Reach", "extend", "make_plan", "missing_in", "reach_of"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Files that, applied in order, give the database as it was after `txid`."""

    files: tuple[LTXFile, ...]

    @property
    def txid(self) -> TXID:
        """The last transaction in it."""
        return self.files[-1].max_txid

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a set of files can give.

    Attributes:
        txids: Every TXID that a plan can end at, ascending.
        gap: The last TXID before files that cannot be reached, and the first after it; None where all can.
    """

    txids: tuple[TXID, ...]
    gap: tuple[TXID, TXID] | None


def reach_of(files: Iterable[LTXFile]) -> Reach:
    """Find every TXID that can be restored, and the gap that keeps later files out of reach."""
    txids: list[TXID] = []
    usable = sorted(
        (file for file in files if file.is_usable), key=lambda file: (file.max_txid, file.min_txid)
    )
    for file in usable:
        below = txids[-1] if txids else TXID(0)
        if below == file.max_txid:
            continue
        if file.min_txid == 1 or (below and file.min_txid <= below + 1):
            txids.append(file.max_txid)
    newest = txids[-1] if txids else TXID(0)
    beyond = [file.min_txid for file in usable if file.max_txid > newest]
    return Reach(tuple(txids), (newest, min(beyond)) if beyond else None)


def extend(files: Iterable[LTXFile], after: int, txid: int | None = None) -> list[LTXFile]:
    """Return the files that lead from one TXID as far as it goes, or to a target.

    Args:
        files: Any files, in any order.
        after: The TXID that is there already; 0 for nothing.
        txid: Go no further than this.

    Returns:
        Files in the order to apply them; none where nothing follows.
    """
    waiting = sorted(
        (
            file
            for file in files
            if file.is_usable and file.max_txid > after and (txid is None or file.max_txid <= txid)
        ),
        key=lambda file: file.min_txid,
        reverse=True,
    )
    chosen: list[LTXFile] = []
    best: LTXFile | None = None
    while True:
        while waiting and waiting[-1].min_txid <= after + 1:
            file = waiting.pop()
            if best is None or _rank(file) > _rank(best):
                best = file
        if best is None or best.max_txid <= after:
            return chosen
        chosen.append(best)
        after = best.max_txid


def _rank(file: LTXFile) -> tuple[int, int, int]:
    return file.max_txid, -file.min_txid, file.level


def make_plan(files: Sequence[LTXFile], txid: int | None = None) -> Plan:
    """Return the files that give the newest state, or the state after a transaction.

    Args:
        files: All files of the replica.
        txid: The last transaction to include; None for the newest.

    Raises:
        NoSnapshotError: Nothing can be restored.
        GapError: Files before the newest (or before the one asked for) are missing.
        NotReachableError: The TXID is not one of those that can be restored; the error has its neighbours.
    """
    if not files:
        raise NoSnapshotError("the replica is empty: no LTX files lie there")
    reach = reach_of(files)
    if not reach.txids and not reach.gap:
        raise NoSnapshotError(
            f"nothing can be restored: the replica holds only snapshots that do not begin at TXID 1: {files[0].key}"
        )
    if txid is None:
        if reach.gap:
            raise gap_error(reach)
        target: int = reach.txids[-1]
    else:
        target = txid
        _check_reachable(reach, target)
    snapshots = [
        file for file in files if file.level == SNAPSHOT_LEVEL and file.is_usable and file.max_txid <= target
    ]
    start = [max(snapshots, key=lambda file: file.max_txid)] if snapshots else []
    rest = (file for file in files if file.level != SNAPSHOT_LEVEL)
    return Plan((*start, *extend(rest, start[0].max_txid if start else 0, target)))


def gap_error(reach: Reach) -> GapError | NoSnapshotError:
    """Return the error that names what is missing and offers what there is."""
    if reach.gap is None:
        raise ValueError("there is no gap")
    after, before = reach.gap
    missing = missing_in(reach.gap)
    if not after:
        return NoSnapshotError(f"nothing can be restored: {missing}, and no snapshot covers what they held")
    return GapError(
        f"{missing}; the newest state before that is TXID {format_txid(after)}: ask for it by its TXID",
        after=after,
        before=before,
    )


def missing_in(gap: tuple[TXID, TXID]) -> str:
    """Return what a gap is, in words."""
    first, last = format_txid(gap[0] + 1), format_txid(gap[1] - 1)
    if first == last:
        return f"the file of TXID {first} is missing"
    return f"the files of TXIDs {first} to {last} are missing"


def _check_reachable(reach: Reach, txid: int) -> None:
    """Raise unless a plan can end at a TXID."""
    place = bisect_left(reach.txids, txid)
    if place < len(reach.txids) and reach.txids[place] == txid:
        return
    before = reach.txids[place - 1] if place else None
    after = reach.txids[place] if place < len(reach.txids) else None
    if after is None and reach.gap and txid > reach.gap[0]:
        raise gap_error(reach)
    asked = format_txid(txid)
    if before is None:
        text = (
            f"TXID {asked} is older than all that is kept; the oldest that can be restored is {_text(after)}"
        )
    elif after is None:
        text = f"TXID {asked} is not written yet; the newest is {_text(before)}"
    else:
        text = (
            f"TXID {asked} lies inside a merged file and cannot be had alone any more; "
            f"the nearest are {_text(before)} and {_text(after)}"
        )
    raise NotReachableError(text, before=before, after=after)


def _text(txid: int | None) -> str:
    return "none" if txid is None else format_txid(txid)
