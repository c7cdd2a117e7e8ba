"""Our plan is the real Litestream's on generated sets of files, and where ours differs it is meant to."""

import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ltx import GapError, NoSnapshotError, NotReachableError, Plan, Replica
from tests.interop.file_sets import KINDS, Place, file_set, lay_out, time_of
from tests.interop.peer import Peer, PeerError

SETS_A_KIND = 32
TXIDS_A_SET = 3
assert SETS_A_KIND * len(KINDS) > 200

Answer = Sequence[Place] | str
"""A plan, or why there is none: `gap` or `nothing`."""


@pytest.mark.parametrize("kind", KINDS)
def test_our_plan_is_theirs(peer: Peer, tmp_path: Path, kind: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = [
            answer
            for some in pool.map(
                lambda seed: _compare(peer, tmp_path / str(seed), kind, seed), range(SETS_A_KIND)
            )
            for answer in some
        ]
    found = Counter("plan" if not isinstance(answer, str) else answer for answer in answers)
    print(f"{kind}: {dict(found)}")
    assert found["plan"] >= (1 if kind == "starting late" else SETS_A_KIND)
    assert found["nothing"] > 0  # a TXID that is not to be had
    assert (found["gap"] > 0) == (kind in ("with holes", "anything"))


@pytest.mark.parametrize("kind", ["as written", "pruned", "without snapshots", "overlapping"])
def test_our_plan_for_a_time_is_theirs(peer: Peer, tmp_path: Path, kind: str) -> None:
    """Between two transactions: there its rule and ours mean the same."""
    compared = 0
    for seed in range(100, 110):
        folder = tmp_path / str(seed)
        places = file_set(kind, seed)
        lay_out(folder, places)
        newest = max(place.max_txid for place in places)
        at = time_of(random.Random(seed).randint(1, newest)) - timedelta(milliseconds=500)
        replica = Replica.open(f"file://{folder}")
        ours, theirs = _ours(replica, at=at), _theirs(peer, replica.url, at=at)
        assert ours == theirs, f"{kind!r}, seed {seed}, {at}: {places}"
        compared += ours != "nothing"
    assert compared > 2


def _compare(peer: Peer, folder: Path, kind: str, seed: int) -> Sequence[Answer]:
    """Ask both for the newest state and for some TXIDs; return what both said."""
    places = file_set(kind, seed)
    lay_out(folder, places)
    newest = max(place.max_txid for place in places)
    source = random.Random(seed)
    txids = [None, *(source.randint(1, newest + 1) for _ in range(TXIDS_A_SET))]
    replica = Replica.open(f"file://{folder}")
    answers = []
    for txid in txids:
        ours, theirs = _ours(replica, txid=txid), _theirs(peer, replica.url, txid=txid)
        assert ours == theirs, f"{kind!r}, seed {seed}, TXID {txid}: {places}"
        answers.append(ours)
    return answers


def _ours(replica: Replica, *, txid: int | None = None, at: datetime | None = None) -> Answer:
    try:
        return _places(replica.plan(at, txid))
    except GapError:
        return "gap" if txid is None else "nothing"
    except (NoSnapshotError, NotReachableError):
        return "nothing"


def _theirs(peer: Peer, url: str, *, txid: int | None = None, at: datetime | None = None) -> Answer:
    try:
        return [Place(file.level, file.min_txid, file.max_txid) for file in peer.plan(url, txid=txid, at=at)]
    except PeerError as error:
        return "gap" if "non-contiguous ltx files: have up to" in str(error) else "nothing"


def _places(plan: Plan) -> Sequence[Place]:
    return [Place(file.level, file.min_txid, file.max_txid) for file in plan.files]
