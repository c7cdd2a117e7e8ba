"""`replicate_once`, run after run: each publishes what differs, and the replica gives the source byte for byte."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import pytest

from backends.local import LocalBackend
from ltx import DatabaseError, Published, Replica, replicate_once
from tests.support.databases import connected, fill, image, make, scalar, sealed
from tests.support.ltxfiles import ALL_PAGE_SIZES, FileSpec
from tests.support.replicas import Case, pages_in

Change = Callable[[apsw.Connection], object]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    made = Case(tmp_path)
    make(made.database, rows=200)
    return made


def level_and_txid(done: Published | None) -> tuple[int, int] | None:
    return (done.level, done.txid) if done else None


@pytest.mark.parametrize("page_size", ALL_PAGE_SIZES)
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_first_run_publishes_everything_as_txid_1(mode: str, page_size: int, tmp_path: Path) -> None:
    case = Case(tmp_path)
    make(case.database, page_size=page_size, mode=mode, rows=30)
    assert level_and_txid(case.run()) == (0, 1)
    assert case.run() is None
    with connected(case.database) as db:
        fill(db, 3, size=page_size)
        assert level_and_txid(case.run()) == (0, 2)
    case.check_sealed()


def update_few(db: apsw.Connection) -> None:
    db.execute("UPDATE t SET a = a + 1 WHERE id IN (3, 90, 170)")


def grow(db: apsw.Connection) -> None:
    fill(db, 300)


def shrink(db: apsw.Connection) -> None:
    db.execute("DELETE FROM t WHERE id > 20; VACUUM")


def shrink_and_grow(db: apsw.Connection) -> None:
    shrink(db)
    fill(db, 150)


def vacuum(db: apsw.Connection) -> None:
    db.execute("DELETE FROM t WHERE id % 3; VACUUM")


def several(db: apsw.Connection) -> None:
    for size in (10, 2000, 100):
        fill(db, 10, size=size)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def drop(db: apsw.Connection) -> None:
    db.execute("DROP TABLE t; CREATE TABLE t (a, b)")


def leave_wal(db: apsw.Connection) -> None:
    assert scalar(db, "PRAGMA journal_mode = delete") == "delete"


def leave_wal_and_come_back(db: apsw.Connection) -> None:
    leave_wal(db)
    fill(db, 3)
    assert scalar(db, "PRAGMA journal_mode = wal") == "wal"
    fill(db, 3)


CHANGES = [
    update_few,
    grow,
    shrink,
    shrink_and_grow,
    vacuum,
    several,
    drop,
    leave_wal,
    leave_wal_and_come_back,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_later_run_publishes_the_pages_that_differ_and_no_others(change: Change, case: Case) -> None:
    case.run()
    with connected(case.database) as db:
        change(db)
        done = case.run()
        assert level_and_txid(done) == (0, 2)
        assert case.run() is None
        update_few(db) if change != drop else fill(db, 1)
        assert level_and_txid(case.run()) == (0, 3)
    case.check_sealed()


def test_every_txid_can_be_restored(case: Case) -> None:
    images = []
    with connected(case.database) as db:
        for change in (update_few, grow, shrink, several, vacuum):
            change(db)
            case.run()
            images.append(case.known)
    assert [case.restored(txid) for txid in range(1, 6)] == images
    assert len(set(images)) == 5


def test_checkpoints_alone_are_no_change(case: Case) -> None:
    with connected(case.database) as db:
        fill(db, 10)
        case.run()
        for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            assert case.run() is None, mode
    assert len(case.keys()) == 1
    case.check_sealed()


def test_where_nothing_changed_little_is_asked_and_nothing_written(case: Case) -> None:
    case.run()
    before, sidecar = case.keys(), case.sidecar.stat()
    backend = LocalBackend(case.root)
    assert replicate_once(case.database, case.replica(backend)) is None
    assert backend.stats.requests == {"list": 1, "get": 1}
    assert backend.stats.received == 8
    assert case.keys() == before
    assert case.sidecar.stat() == sidecar


def test_an_open_transaction_is_not_published(case: Case) -> None:
    case.run()
    with connected(case.database) as db:
        db.execute("PRAGMA cache_size = 3; PRAGMA cache_spill = 3; BEGIN; UPDATE t SET b = randomblob(900)")
        assert os.path.getsize(f"{case.database}-wal") > 50_000
        assert case.run() is None
        db.execute("COMMIT")
        assert level_and_txid(case.run()) == (0, 2)


def test_a_new_page_size_needs_a_snapshot(case: Case) -> None:
    """No increment can follow pages of another size, so the snapshot goes to level 9."""
    case.run()
    with connected(case.database) as db:
        leave_wal(db)
        db.execute("PRAGMA page_size = 8192; VACUUM")
        assert scalar(db, "PRAGMA page_size") == 8192
        assert level_and_txid(case.run()) == (9, 2)
        assert case.run() is None
        update_few(db)
        assert level_and_txid(case.run()) == (0, 3)
    case.check_sealed()
    assert len(case.restored(1)) % 4096 == 0
    assert case.keys()[-1].startswith("ltx/9/0000000000000001-0000000000000002")


def test_an_older_copy_of_the_database_is_published_as_it_is(case: Case, tmp_path: Path) -> None:
    older = tmp_path / "older.db"
    older.write_bytes(sealed(case.database))
    case.run()
    with connected(case.database) as db:
        grow(db)
    case.run()
    shutil.copyfile(older, case.database)
    assert level_and_txid(case.run()) == (0, 3)
    assert case.known == older.read_bytes()
    case.check_sealed()


def test_an_older_database_file_beside_a_kept_wal_is_published_as_sqlite_reads_it(case: Case) -> None:
    """A header and checksum of the WAL alone would say that nothing but its new frames changed."""
    older = sealed(case.database)
    with connected(case.database) as db:
        db.execute("UPDATE t SET b = zeroblob(700)")
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        update_few(db)
        case.run()
        wal = Path(f"{case.database}-wal").read_bytes()
    for suffix in ("-wal", "-shm"):
        Path(f"{case.database}{suffix}").unlink(missing_ok=True)
    case.database.write_bytes(older)
    Path(f"{case.database}-wal").write_bytes(wal)
    assert level_and_txid(case.run()) == (0, 2)
    case.check_sealed()


def test_a_big_change_goes_in_one_file(tmp_path: Path) -> None:
    case = Case(tmp_path)
    make(case.database, page_size=512, rows=10)
    case.run()
    with connected(case.database) as db:
        fill(db, 20_000, size=350)
    done = case.run()
    assert done
    assert done.page_count > 16_000
    case.check_sealed()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_run_of_changes_is_followed(seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")
    choice, case = Random(seed), Case(tmp_path)
    make(case.database, page_size=choice.choice(ALL_PAGE_SIZES[:5]), rows=60)
    with connected(case.database) as db:
        for _ in range(14):
            for change in choice.choices([update_few, grow, shrink, vacuum, several], k=choice.randrange(3)):
                change(db)
            case.run()
    case.check_sealed()
    assert [done.txid for done in case.published] == list(range(1, len(case.published) + 1))


def test_progress_goes_from_the_first_page_to_the_last(case: Case) -> None:
    with connected(case.database) as db:
        fill(db, 20_000)
    seen: list[tuple[int, int]] = []
    replicate_once(case.database, case.replica(), progress=lambda done, total: seen.append((done, total)))
    pages = len(image(case.database)) // 4096
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (pages, pages)


def test_a_wal_that_begins_anew_meanwhile_is_read_from_its_new_beginning(tmp_path: Path) -> None:
    case = Case(tmp_path)
    make(case.database, page_size=512, rows=5000)
    with connected(case.database) as db:
        fill(db, 5)
        db.execute(
            "PRAGMA wal_checkpoint(PASSIVE)"
        ).fetchall()  # all of it: the next commit begins the WAL anew
        began: list[int] = []

        def progress(done: int, _: int) -> None:
            if not began:
                fill(db, 5)
            began.append(done)

        done = replicate_once(case.database, case.replica(), progress=progress)
        assert done
        assert began != sorted(began)  # a second pass
        assert case.restored() == image(case.database)
        assert len(case.keys()) == 1


def test_a_shrink_alone_is_a_change_without_pages(case: Case) -> None:
    """Page 1 would tell of it; a replica that somebody else wrote need not agree with it."""
    case.run()
    longer = FileSpec(pages=pages_in(case.known + bytes(3 * 4096), 4096), page_size=4096, max_txid=2)
    (case.root / "ltx" / "9").mkdir()
    (case.root / "ltx" / "9" / f"{1:016x}-{2:016x}.ltx").write_bytes(longer.encode())
    case.known = case.restored()
    done = case.run()
    assert done
    assert (done.level, done.txid, done.page_count) == (0, 3, 0)
    assert len(case.known) == len(case.restored(2)) - 3 * 4096


def test_a_relative_path_and_a_link_name_the_same_database(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert replicate_once("a.db", case.replica())
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(case.database)
    with connected(case.database) as db:
        fill(db, 5)
        wal = Path(f"{case.database}-wal").read_bytes()
        side = {suffix: Path(f"{case.database}{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")}
    for suffix, content in side.items():  # as a killed application leaves it: nobody has it open
        Path(f"{case.database}{suffix}").write_bytes(content)
    assert level_and_txid(replicate_once(link, case.replica())) == (0, 2)
    assert case.database.read_bytes() == side[""]
    assert Path(f"{case.database}-wal").read_bytes() == wal
    assert sealed(case.database) == case.restored()


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "garbage"])
def test_what_is_no_database_changes_nothing_anywhere(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else Random(1).randbytes(9000))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatabaseError):
        replicate_once(path, Replica(LocalBackend(tmp_path / "replica")))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_url_is_no_replica(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"opened first: with ltx\.Replica\.open\(url\)"):
        replicate_once(make(tmp_path / "a.db"), str(tmp_path / "replica"))  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db"]
