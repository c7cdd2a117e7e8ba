"""Which files a restore takes, case by case (docs/formats/replica.md, Plan)."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from ltx import GapError, LTXFile, NoSnapshotError, NotReachableError
from ltx.format import TXID
from ltx.replica.layout import FOLDERS
from ltx.replica.plan import extend, make_plan, reach_of


def files(text: str) -> list[LTXFile]:
    """Read `level:txid` and `level:first-last`, as they would be listed."""
    found = []
    for place in text.split():
        level, _, txids = place.partition(":")
        first, _, last = txids.partition("-")
        low, high = TXID(int(first)), TXID(int(last or first))
        found.append(LTXFile(int(level), low, high, 200, FOLDERS.key(int(level), low, high)))
    return sorted(found)


def text_of(found: Sequence[LTXFile]) -> str:
    return " ".join(
        f"{file.level}:{file.min_txid}" + (f"-{file.max_txid}" if file.max_txid > file.min_txid else "")
        for file in found
    )


@dataclass(frozen=True)
class Case:
    promise: str
    there: str
    plan: str
    txid: int | None = None


CASES = [
    Case("a snapshot alone", "9:1-5", "9:1-5"),
    Case("a snapshot and what follows", "9:1-5 0:6 0:7", "9:1-5 0:6 0:7"),
    Case("the newest of several snapshots", "9:1-3 9:1-5 9:1-9 0:10", "9:1-9 0:10"),
    Case("level 0 alone, from TXID 1", "0:1 0:2 0:3", "0:1 0:2 0:3"),
    Case("a merged file in place of its parts", "0:1 0:2 0:3 1:1-3", "1:1-3"),
    Case("the file that reaches furthest, whatever its level", "9:1-4 0:5 1:5-7 2:5-9 3:5-8", "9:1-4 2:5-9"),
    Case("the wider one of two that reach as far", "9:1-4 1:5-9 2:3-9", "9:1-4 2:3-9"),
    Case("the higher level of two alike", "9:1-4 1:5-9 3:5-9 2:5-9", "9:1-4 3:5-9"),
    Case(
        "all levels, one after the other",
        "9:1-2 3:3-20 2:21-25 1:26-27 0:28",
        "9:1-2 3:3-20 2:21-25 1:26-27 0:28",
    ),
    Case(
        "levels 4 to 8, which defaults do not use", "8:1-4 7:5-6 6:7-8 5:9 4:10", "8:1-4 7:5-6 6:7-8 5:9 4:10"
    ),
    Case("a merged file that begins before the snapshot ends", "9:1-6 1:4-9", "9:1-6 1:4-9"),
    Case("nothing of what lies inside a file already taken", "9:1-9 1:4-7 0:8 0:9 0:10", "9:1-9 0:10"),
    Case("a hole in one level that another one covers", "0:1 0:2 0:5 1:3-4", "0:1 0:2 1:3-4 0:5"),
    Case("a hole in level 1 that level 0 covers", "1:1-2 1:5-6 0:3 0:4", "1:1-2 0:3 0:4 1:5-6"),
    Case("a merged file contained in another of its level", "1:1-100 1:50-60 1:101", "1:1-100 1:101"),
    Case("no snapshot that does not begin at 1", "9:3-9 0:1 0:2", "0:1 0:2"),
    Case("a snapshot even where a chain reaches as far", "9:1-3 2:1-3", "9:1-3"),
    Case("the newest snapshot up to the TXID", "9:1-3 9:1-5 9:1-9 0:6 0:7", "9:1-5 0:6 0:7", 7),
    Case("no file that goes beyond the TXID", "9:1-3 0:4 0:5 1:4-6", "9:1-3 0:4 0:5", 5),
    Case("a snapshot that ends at the TXID", "9:1-3 0:1 0:2 0:3", "9:1-3", 3),
    Case("no snapshot where the TXID is before the first", "9:1-3 0:1 0:2 0:3", "0:1 0:2", 2),
    Case("the prefix before a gap, asked for by TXID", "0:1 0:2 0:4", "0:1 0:2", 2),
    Case("the very first TXID", "0:1 0:2 9:1-2", "0:1", 1),
    Case("TXIDs of 64 bits", f"9:1-{2**64 - 2} 0:{2**64 - 1}", f"9:1-{2**64 - 2} 0:{2**64 - 1}"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_a_plan_takes(case: Case) -> None:
    plan = make_plan(files(case.there), case.txid)
    assert text_of(plan.files) == case.plan
    assert plan.txid == plan.files[-1].max_txid == (case.txid or plan.txid)
    assert plan.size == 200 * len(plan.files)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_a_plan_does_not_depend_on_the_order_of_the_files(case: Case) -> None:
    there = files(case.there)
    assert text_of(make_plan(there[::-1], case.txid).files) == case.plan
    assert text_of(make_plan(there[1:] + there[:1], case.txid).files) == case.plan


@pytest.mark.parametrize("txid", [None, 1, 7])
def test_an_empty_replica_has_no_plan(txid: int | None) -> None:
    with pytest.raises(NoSnapshotError, match="no LTX files"):
        make_plan([], txid)


@pytest.mark.parametrize("txid", [None, 2, 3])
def test_a_chain_that_begins_late_has_no_plan_and_the_missing_txids_are_named(txid: int | None) -> None:
    with pytest.raises(NoSnapshotError, match="the file of TXID 0000000000000001 is missing"):
        make_plan(files("0:2 0:3 1:2-3"), txid)


@pytest.mark.parametrize("txid", [None, 5])
def test_snapshots_that_begin_late_alone_have_no_plan(txid: int | None) -> None:
    with pytest.raises(NoSnapshotError, match="do not begin at TXID 1"):
        make_plan(files("9:2-5"), txid)


@pytest.mark.parametrize("txid", [None, 6, 7])
def test_a_gap_is_named_with_the_txids_on_both_sides(txid: int | None) -> None:
    with pytest.raises(
        GapError, match="the files of TXIDs 0000000000000003 to 0000000000000005 are missing"
    ) as caught:
        make_plan(files("0:1 0:2 0:6 0:7"), txid)
    assert (caught.value.after, caught.value.before) == (2, 6)


def test_a_txid_inside_a_merged_file_is_refused_with_its_neighbours() -> None:
    with pytest.raises(NotReachableError, match="inside a merged file") as caught:
        make_plan(files("0:1 1:2-5 0:6"), 3)
    assert (caught.value.before, caught.value.after) == (1, 5)


def test_a_txid_not_yet_written_is_refused_with_the_newest() -> None:
    with pytest.raises(NotReachableError, match="not written yet; the newest is 0000000000000002") as caught:
        make_plan(files("0:1 0:2"), 3)
    assert (caught.value.before, caught.value.after) == (2, None)


@pytest.mark.parametrize("txid", [0, 1, 4])
def test_a_txid_older_than_all_is_refused_with_the_oldest(txid: int) -> None:
    with pytest.raises(
        NotReachableError, match="the oldest that can be restored is 0000000000000005"
    ) as caught:
        make_plan(files("9:1-5 0:6"), txid)
    assert (caught.value.before, caught.value.after) == (None, 5)


def test_reach_is_every_txid_that_a_plan_can_end_at() -> None:
    assert reach_of(files("9:1-3 0:2 0:3 0:4 1:4-6 0:8")).txids == (3, 4, 6)
    assert reach_of(files("9:1-3 0:2 0:3 0:4 1:4-6 0:8")).gap == (6, 8)
    assert reach_of(files("0:1 0:2")).gap is None
    assert reach_of([]) == reach_of(files("9:2-3"))


def test_extending_goes_on_from_a_txid_and_stops_where_told() -> None:
    there = files("0:5 0:6 0:7 1:4-6 0:9")
    assert text_of(extend(there, 4)) == "1:4-6 0:7"
    assert text_of(extend(there, 4, 5)) == "0:5"
    assert text_of(extend(there, 7)) == ""
    assert text_of(extend(there, 8)) == "0:9"
    assert extend([], 0) == []
