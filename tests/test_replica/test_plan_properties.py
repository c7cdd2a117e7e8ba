"""Plans of any set of files, against the rules written down as slowly and plainly as possible."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ltx import GapError, LTXFile, NoSnapshotError, NotReachableError, Plan, ReplicaError
from ltx.format import TXID
from ltx.replica.layout import FOLDERS
from ltx.replica.plan import make_plan, reach_of

HIGHEST = 12


@st.composite
def ltx_files(draw: st.DrawFn) -> LTXFile:
    level = draw(st.integers(0, 9))
    low = draw(st.integers(1, HIGHEST))
    high = draw(st.integers(low, HIGHEST))
    if level == 0 and draw(st.booleans()):
        high = low
    if level == 9 and draw(st.integers(0, 9)):
        low = 1
    return LTXFile(level, TXID(low), TXID(high), 200, FOLDERS.key(level, low, high))


file_sets = st.lists(ltx_files(), max_size=14, unique=True)
targets = st.none() | st.integers(1, HIGHEST + 1)


def reachable(files: Sequence[LTXFile]) -> set[int]:
    """Try every file on every state until nothing new comes of it."""
    states = {0}
    while True:
        more = {
            file.max_txid
            for file in files
            for state in states
            if (file.level < 9 or file.min_txid == 1) and file.min_txid <= state + 1 and file.max_txid > state
        }
        if more <= states:
            return states - {0}
        states |= more


def plan_by_the_rules(files: Sequence[LTXFile], txid: int | None) -> list[LTXFile]:
    """Take the newest snapshot, then again and again the best file that follows: the rules, word by word."""
    allowed = [file for file in files if txid is None or file.max_txid <= txid]
    snapshots = [file for file in allowed if file.level == 9 and file.min_txid == 1]
    plan = sorted(snapshots, key=lambda file: file.max_txid)[-1:]
    while True:
        there = plan[-1].max_txid if plan else 0
        following = [
            file
            for file in allowed
            if file.level < 9 and file.min_txid <= there + 1 and file.max_txid > there
        ]
        if not following:
            return plan
        plan.append(min(following, key=lambda file: (-file.max_txid, file.min_txid, -file.level)))


def outcome(files: list[LTXFile], txid: int | None) -> Plan | ReplicaError:
    try:
        return make_plan(files, txid)
    except ReplicaError as error:
        return error


@given(file_sets, targets)
def test_a_plan_is_the_one_of_the_rules_or_is_refused(files: list[LTXFile], txid: int | None) -> None:
    states = reachable(files)
    usable = [file for file in files if file.level < 9 or file.min_txid == 1]
    newest = max((file.max_txid for file in usable), default=0)
    found = outcome(files, txid)
    if not states:
        assert isinstance(found, NoSnapshotError)
    elif newest not in states and (txid is None or txid > max(states)):
        assert isinstance(found, GapError)
        assert found.after == max(states)
    elif txid is None or txid in states:
        assert isinstance(found, Plan)
        assert list(found.files) == plan_by_the_rules(files, txid)
        assert found.txid == (newest if txid is None else txid)
    else:
        assert isinstance(found, NotReachableError)
        assert found.before == max((state for state in states if state < txid), default=None)
        assert found.after == min((state for state in states if state > txid), default=None)


@given(file_sets)
def test_reach_is_what_trying_everything_finds(files: list[LTXFile]) -> None:
    reach = reach_of(files)
    assert list(reach.txids) == sorted(reachable(files))
    beyond = [file for file in files if file.is_usable and file.max_txid > max(reach.txids, default=0)]
    assert (reach.gap is not None) == bool(beyond)
    if reach.gap:
        assert reach.gap == (max(reach.txids, default=0), min(file.min_txid for file in beyond))


@given(file_sets)
def test_every_reachable_txid_has_a_plan_that_ends_there(files: list[LTXFile]) -> None:
    for txid in reach_of(files).txids:
        plan = make_plan(files, txid)
        there = 0
        for file in plan.files:
            assert file.min_txid <= there + 1
            assert file.max_txid > there
            there = file.max_txid
        assert there == txid
