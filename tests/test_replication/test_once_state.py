"""Whatever happens to our own state or to the replica between two runs, the next one makes the replica right."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ltx import Published, replicate_once
from ltx.replication import table
from tests.support.databases import connected, fill, make
from tests.support.ltxfiles import FileSpec
from tests.support.replicas import Case, pages_in


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A database of which the replica holds four transactions."""
    made = Case(tmp_path)
    make(made.database, rows=100)
    made.run()
    for _ in range(3):
        change(made)
        made.run()
    return made


def change(case: Case) -> None:
    with connected(case.database) as db:
        db.execute("UPDATE t SET a = a + 1 WHERE id IN (3, 70)")
        fill(db, 15)


def level_and_txid(done: Published | None) -> tuple[int, int] | None:
    return (done.level, done.txid) if done else None


def lose_sidecar(case: Case) -> None:
    case.sidecar.unlink()


def lose_state(case: Case) -> None:
    shutil.rmtree(case.state)


def damage_sidecar(case: Case) -> None:
    data = bytearray(case.sidecar.read_bytes())
    data[40] ^= 1
    case.sidecar.write_bytes(data)


def empty_sidecar(case: Case) -> None:
    case.sidecar.write_bytes(b"")


def make_sidecar_stale(case: Case) -> None:
    """Put back the sidecar of an older run, as a restored home folder does."""
    older = case.sidecar.read_bytes()
    change(case)
    case.run()
    case.sidecar.write_bytes(older)


def take_sidecar_of_another_replica(case: Case) -> None:
    """A sidecar of the same TXID that belongs to a replica with another history."""
    other = Case(case.folder / "other")
    other.folder.mkdir()
    make(other.database, rows=5)
    for _ in range(4):
        change(other)
        other.run()
    assert other.published[-1].txid == case.published[-1].txid
    shutil.copyfile(other.sidecar, case.sidecar)


LOSSES = [
    lose_sidecar,
    lose_state,
    damage_sidecar,
    empty_sidecar,
    make_sidecar_stale,
    take_sidecar_of_another_replica,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_without_a_sidecar_to_trust_nothing_is_published_twice(
    lose: Callable[[Case], None], case: Case
) -> None:
    lose(case)
    keys = case.keys()
    assert case.run() is None
    assert case.keys() == keys
    assert case.run() is None  # from the sidecar that was made again


@pytest.mark.parametrize("lose", LOSSES)
def test_without_a_sidecar_to_trust_an_increment_holds_only_what_changed(
    lose: Callable[[Case], None], case: Case
) -> None:
    lose(case)
    before = case.published[-1].txid
    change(case)
    done = case.run()
    assert level_and_txid(done) == (0, before + 1)
    case.check_sealed()


def test_a_sidecar_is_made_again_over_shrinks_and_growth(case: Case) -> None:
    with connected(case.database) as db:
        db.execute("DELETE FROM t WHERE id > 9; VACUUM")
        case.run()
        fill(db, 200)
        case.run()
        lose_sidecar(case)
        assert case.run() is None
        db.execute("UPDATE t SET a = 777 WHERE id = 2")
    lose_sidecar(case)
    done = case.run()
    assert done
    assert done.page_count == 1
    case.check_sealed()


def path_of(case: Case, txid: int) -> Path:
    return case.root / case.published[txid - 1].key


def lose_file(case: Case, txid: int) -> None:
    path_of(case, txid).unlink()


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("txid", [1, 2, 3])
def test_a_hole_in_the_replica_is_healed_by_a_snapshot(
    txid: int, changed: bool, sidecar: bool, case: Case
) -> None:
    lose_file(case, txid)
    if not sidecar:
        lose_sidecar(case)
    if changed:
        change(case)
    case.published.clear()
    assert level_and_txid(case.run()) == (9, 5)
    assert case.run() is None
    change(case)
    assert level_and_txid(case.run()) == (0, 6)
    case.check_sealed()


def test_a_txid_that_the_replica_lost_is_not_used_again(case: Case) -> None:
    """A reader may have seen the first file of that name."""
    lose_file(case, 4)
    assert level_and_txid(case.run()) == (9, 5)
    assert case.run() is None
    shutil.rmtree(case.root)
    case.known = b""
    assert level_and_txid(case.run()) == (9, 6)
    change(case)
    assert level_and_txid(case.run()) == (0, 7)
    case.check_sealed()


def test_a_new_replica_begins_at_1_whatever_others_of_the_database_have(case: Case) -> None:
    other = Case(case.folder, root_name="second")
    assert level_and_txid(other.run()) == (0, 1)
    change(case)
    assert level_and_txid(case.run()) == (0, 5)
    assert level_and_txid(other.run()) == (0, 2)
    assert case.restored() == other.restored()


def test_the_next_txid_follows_the_highest_of_all_levels(case: Case) -> None:
    """Level 0 was pruned behind a snapshot: beginning at 1 again would hide all that follows."""
    snapshot = FileSpec(pages=pages_in(case.known, 4096), page_size=4096, max_txid=40)
    (case.root / "ltx" / "9").mkdir()
    (case.root / "ltx" / "9" / f"{1:016x}-{40:016x}.ltx").write_bytes(snapshot.encode())
    shutil.rmtree(case.root / "ltx" / "0")
    assert case.run() is None
    change(case)
    assert level_and_txid(case.run()) == (0, 41)
    case.check_sealed()


def test_files_of_other_levels_give_the_pages_to_compare_with(case: Case) -> None:
    pages = pages_in(case.known, 4096)
    merged = FileSpec(pages=pages, page_size=4096, max_txid=4)
    folder = case.root / "ltx" / "1"
    folder.mkdir()
    (folder / f"{1:016x}-{4:016x}.ltx").write_bytes(merged.encode())
    shutil.rmtree(case.root / "ltx" / "0")
    assert case.run() is None
    change(case)
    assert level_and_txid(case.run()) == (0, 5)
    case.check_sealed()


def flip(case: Case, txid: int, place: int) -> None:
    data = bytearray(path_of(case, txid).read_bytes())
    data[place] ^= 1
    path_of(case, txid).write_bytes(data)


@pytest.mark.parametrize("place", [0, 3, 10, 130, -30, -1])
@pytest.mark.parametrize("txid", [1, 3, 4])
def test_a_damaged_file_is_as_good_as_a_hole_once_it_must_be_read(txid: int, place: int, case: Case) -> None:
    flip(case, txid, place)
    lose_sidecar(case)
    assert level_and_txid(case.run()) == (9, 5)
    change(case)
    assert level_and_txid(case.run()) == (0, 6)
    case.check_sealed()


def test_a_damaged_file_is_planned_around_where_others_hold_the_same(case: Case) -> None:
    merged = FileSpec(pages=pages_in(case.known, 4096), page_size=4096, max_txid=4)
    (case.root / "ltx" / "9").mkdir()
    path = case.root / "ltx" / "9" / f"{1:016x}-{4:016x}.ltx"
    path.write_bytes(merged.encode()[:-1] + b"?")
    lose_sidecar(case)
    assert case.run() is None
    change(case)
    assert level_and_txid(case.run()) == (0, 5)


def test_a_chain_that_no_restore_can_use_is_not_continued(case: Case) -> None:
    """Each file is whole by itself; together they are no database."""
    commit = len(case.known) // 4096
    good = FileSpec(pages={1: bytes(4096)}, page_size=4096, commit=commit, min_txid=5)
    wrong = {
        "another page size": replace(good, page_size=512, pages={1: bytes(512)}),
        "growth without its pages": replace(good, commit=commit + 3),
    }
    for name, spec in wrong.items():
        path = case.root / "ltx" / "0" / f"{5:016x}-{5:016x}.ltx"
        path.write_bytes(spec.encode())
        lose_sidecar(case)
        done = case.run()
        assert level_and_txid(done) == (9, 6), name
        path.unlink()
        (case.root / (done.key if done else "")).unlink()


def test_a_block_of_another_compressor_is_no_change(case: Case) -> None:
    """Only pages count: the real Litestream's compressed bytes differ from ours."""
    pages = pages_in(case.known, 4096)
    legacy = FileSpec(pages=pages, page_size=4096, legacy=frozenset(pages), max_txid=4)
    shutil.rmtree(case.root / "ltx")
    (case.root / "ltx" / "9").mkdir(parents=True)
    (case.root / "ltx" / "9" / f"{1:016x}-{4:016x}.ltx").write_bytes(legacy.encode())
    assert case.run() is None


def test_what_a_killed_run_left_is_removed_once_it_is_old(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.sidecar.name
    left, strange = case.state / f"{name}.0123456789ab.tmp", case.state / "notes.tmp"
    left.write_bytes(b"x" * 100)
    strange.write_bytes(b"not ours")
    replicate_once(case.database, case.replica())
    assert left.exists()  # a run may be making it just now
    os.utime(left, (1, 1))
    replicate_once(case.database, case.replica())
    assert sorted(path.name for path in case.state.iterdir()) == ["lineage.json", "notes.tmp", name]
    with closing(table.TableWriter(case.state / name, 512, 1)):
        monkeypatch.setattr(table, "_OLD_S", -1)
        replicate_once(case.database, case.replica())
        assert len(list(case.state.iterdir())) == 4  # somebody holds it
