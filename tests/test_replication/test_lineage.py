"""Whose a replica is: nobody writes over what another one wrote last and this one never had, unless told to."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from backends import ObjectInfo, UnavailableError
from backends.local import LocalBackend
from ltx import ConflictError, DatabaseError, Replica, ReplicaError, replicate_once
from ltx.replication.database import Database, Settings
from ltx.replication.missing import restore_at_start
from tests.support.databases import connected, fill, image, make
from tests.support.replicating import restored


class Site:
    """One place where a database lies and is replicated from."""

    def __init__(self, path: Path, url: Path) -> None:
        self.path, self.url = path, url
        self.state = path.parent / f".{path.name}-litestream"

    def replicate(self, rows: int = 3, *, adopt: bool = False, all_pages: bool = False) -> None:
        """Commit something, and bring it to the replica in a process's whole life."""
        with connected(self.path) as db:
            fill(db, rows)
            if all_pages:
                db.execute("UPDATE t SET b = randomblob(length(b))")
        with (
            Replica.open(str(self.url)) as replica,
            closing(Database(self.path, [replica], Settings(adopt=adopt))) as database,
        ):
            for _ in range(3):
                database.sync()
                database.uploaders[0].push()
            if database.uploaders[0].error:
                raise database.uploaders[0].error
        assert restored(str(self.url), self.path.parent / "check.out") == image(self.path)

    def refused(self, *names: str) -> None:
        before = sorted(self.url.rglob("*"))
        with pytest.raises(ConflictError, match="--adopt") as refusal:
            self.replicate()
        assert all(name in str(refusal.value) for name in names)
        assert sorted(self.url.rglob("*")) == before

    def restored_to(self, path: Path) -> "Site":
        path.parent.mkdir(exist_ok=True)
        with Replica.open(str(self.url)) as replica:
            replica.restore(path, force=path.exists())
        return Site(path, self.url)


@pytest.fixture
def first(tmp_path: Path) -> Site:
    site = Site(make(tmp_path / "a.db", page_size=512, rows=60), tmp_path / "replica")
    site.replicate()
    return site


def test_the_replica_names_its_writer_and_a_restored_database_its_lineage(first: Site) -> None:
    theirs = json.loads((first.url / "lineage.json").read_text())
    assert theirs["path"] == str(first.path)
    assert theirs["inode"] == first.path.stat().st_ino
    second = first.restored_to(first.path.parent / "elsewhere" / "b.db")
    assert json.loads((second.state / "lineage.json").read_text()) == {"id": theirs["id"], "restored_txid": 1}


def test_a_replica_without_a_writer_leaves_nothing_beside_what_is_restored(first: Site) -> None:
    (first.url / "lineage.json").unlink()
    second = first.restored_to(first.path.parent / "elsewhere" / "b.db")
    assert [found.name for found in second.path.parent.iterdir()] == ["b.db"]


def test_a_restored_database_goes_on_and_the_old_one_does_not_win_by_a_restart(first: Site) -> None:
    second = first.restored_to(first.path.parent / "elsewhere" / "b.db")
    second.replicate(all_pages=True)  # nothing in common any more, but its lineage
    first.refused(str(second.path), str(first.path))
    first.refused(str(second.path))
    second.replicate()
    again = second.restored_to(first.path)
    again.replicate()
    second.refused(str(first.path))
    second.replicate(adopt=True)
    second.replicate()


def test_what_the_old_writer_wrote_since_the_restore_is_not_written_over(first: Site) -> None:
    second = first.restored_to(first.path.parent / "elsewhere" / "b.db")
    first.replicate()
    second.refused(str(first.path))
    second.restored_to(second.path).replicate()


def test_a_copy_beside_the_original_is_refused(first: Site) -> None:
    path = first.path.parent / "elsewhere" / "b.db"
    path.parent.mkdir()
    second = Site(Path(shutil.copy(first.path, path)), first.url)
    second.refused(str(first.path), str(second.path))
    first.replicate()


def test_a_copy_that_nothing_is_known_of_takes_over_from_one_that_is_gone(first: Site) -> None:
    path = first.path.parent / "elsewhere" / "b.db"
    path.parent.mkdir()
    second = Site(Path(shutil.copy(first.path, path)), first.url)
    away = first.path.rename(first.path.parent / "away.db")
    second.replicate()
    away.rename(first.path)
    first.refused(str(second.path))


def test_with_its_state_lost_or_moved_it_is_still_the_same_database(first: Site) -> None:
    first.replicate(all_pages=True)
    shutil.rmtree(first.state)
    first.replicate(all_pages=True)
    moved = Site(first.path.parent / "moved.db", first.url)
    first.path.rename(moved.path)
    first.state.rename(moved.state)
    for table in moved.state.glob("pages-*"):
        table.unlink()
    moved.replicate(all_pages=True)


def test_another_database_is_refused_even_with_a_lineage_of_its_own(first: Site) -> None:
    folder = first.path.parent / "elsewhere"
    folder.mkdir()
    other = Site(make(folder / "b.db", page_size=512, rows=50), folder / "replica")
    other.replicate()
    Site(other.path, first.url).refused(str(first.path))
    other.replicate()


def test_once_does_not_write_over_what_another_one_wrote_last_either(first: Site) -> None:
    second = first.restored_to(first.path.parent / "elsewhere" / "b.db")
    second.replicate()
    with Replica.open(str(first.url)) as replica:
        with pytest.raises(ConflictError, match="--adopt"):
            replicate_once(first.path, replica)
        with connected(second.path) as db:
            fill(db, 1)
        assert replicate_once(second.path, replica)
        assert replicate_once(first.path, replica, adopt=True)
        with pytest.raises(ConflictError, match="--adopt"):
            replicate_once(second.path, replica)
    second.refused(str(first.path))


def test_once_names_its_writer_so_that_another_database_is_refused(tmp_path: Path) -> None:
    users, orders = (make(tmp_path / name, page_size=512, rows=60) for name in ("users.db", "orders.db"))
    with Replica.open(str(tmp_path / "replica")) as replica:
        assert replicate_once(users, replica)
        assert json.loads((tmp_path / "replica" / "lineage.json").read_text())["path"] == str(users)
        for _ in range(2):
            with pytest.raises(ConflictError, match=r"users\.db, up to TXID"):
                replicate_once(orders, replica)
        with connected(users) as db:
            fill(db, 3)
        assert replicate_once(users, replica)
    assert restored(str(tmp_path / "replica"), tmp_path / "out") == image(users)


def test_once_compares_with_a_replica_that_names_nobody(tmp_path: Path) -> None:
    """As the real Litestream leaves it: the same database goes on, another one does not."""
    users, orders = (make(tmp_path / name, page_size=512, rows=60) for name in ("users.db", "orders.db"))
    with Replica.open(str(tmp_path / "replica")) as replica:
        assert replicate_once(users, replica)
        (tmp_path / "replica" / "lineage.json").unlink()
        shutil.rmtree(tmp_path / ".users.db-litestream")
        with pytest.raises(ConflictError, match="holds another database"):
            replicate_once(orders, replica)
        with connected(users) as db:
            fill(db, 3)
        assert replicate_once(users, replica)
    assert restored(str(tmp_path / "replica"), tmp_path / "out") == image(users)


def further(site: Site, count: int) -> None:
    for _ in range(count):
        site.replicate()


def wiped_and_taken(first: Site, other: Path) -> Site:
    """Let the first one's replica be deleted, and another database be replicated there while nobody looks."""
    further(first, 6)
    shutil.rmtree(first.url)
    taker = Site(make(other, page_size=512, rows=50), first.url)
    further(taker, 2)
    return taker


def test_another_database_with_fewer_transactions_than_ours_keeps_its_replica(first: Site) -> None:
    taker = wiped_and_taken(first, first.path.parent / "other.db")
    first.refused(str(taker.path), str(first.path))
    first.refused(str(taker.path))
    taker.replicate()
    first.replicate(adopt=True)
    taker.refused(str(first.path))


def test_another_database_that_left_no_name_keeps_its_replica_too(first: Site) -> None:
    """As the real Litestream would have written it."""
    taker = wiped_and_taken(first, first.path.parent / "other.db")
    (first.url / "lineage.json").unlink()
    first.refused(f"{first.url} holds another database")
    assert not list(first.state.glob("*.tmp"))
    (first.url / "lineage.json").unlink(missing_ok=True)
    taker.replicate()


def test_a_second_replica_that_is_another_databases_is_refused_and_the_first_goes_on(first: Site) -> None:
    further(first, 2)
    folder = first.path.parent / "elsewhere"
    folder.mkdir()
    own = folder / "replica"
    other = Site(make(folder / "b.db", page_size=512, rows=50), own)
    further(other, 6)
    before = sorted(first.url.rglob("*"))
    with (
        Replica.open(str(own)) as ours,
        Replica.open(str(first.url)) as theirs,
        closing(Database(other.path, [ours, theirs], Settings())) as database,
    ):
        for _ in range(3):
            with connected(other.path) as db:
                fill(db, 3)
            database.sync()
            for uploader in database.uploaders:
                uploader.push()
        own_uploader, refused = database.uploaders
        assert own_uploader.error is None
        assert isinstance(refused.error, ConflictError)
        assert str(first.path) in str(refused.error)
        assert refused.stopped
    assert sorted(first.url.rglob("*")) == before
    assert restored(str(own), folder / "out") == image(other.path)
    first.replicate()


def test_a_replica_of_ours_that_was_down_for_long_is_gone_on_with(first: Site) -> None:
    """It names us, and nothing here tells any more what its newest transaction was."""
    own = first.path.parent / "second"
    for urls in ([first.url, own], [first.url], [first.url, own]):
        with closing(Database(first.path, [Replica.open(str(url)) for url in urls], Settings())) as database:
            for _ in range(4):
                with connected(first.path) as db:
                    fill(db, 3)
                for _ in range(3):
                    database.sync()
                    for uploader in database.uploaders:
                        uploader.push()
            assert [uploader.error for uploader in database.uploaders] == [None] * len(urls)
    assert restored(str(own), first.path.parent / "out") == image(first.path)


def test_what_is_kept_here_of_one_replica_says_nothing_of_another_that_names_nobody(first: Site) -> None:
    """Such as the real Litestream's, to which a mistyped URL leads."""
    folder = first.path.parent / "elsewhere"
    folder.mkdir()
    other = Site(make(folder / "b.db", page_size=512, rows=50), folder / "replica")
    further(other, 4)
    (other.url / "lineage.json").unlink()
    Site(first.path, other.url).refused(f"{other.url} holds another database")
    first.replicate()


def test_once_does_not_write_over_another_one_that_has_no_more_transactions(tmp_path: Path) -> None:
    users, orders = (make(tmp_path / name, page_size=512, rows=60) for name in ("users.db", "orders.db"))
    for count in (1, 3):
        with Replica.open(str(tmp_path / "replica")) as replica:
            for _ in range(count):
                assert replicate_once(users, replica, adopt=count > 1)
                with connected(users) as db:
                    fill(db, 3)
            shutil.rmtree(tmp_path / "replica")
            shutil.rmtree(tmp_path / ".orders.db-litestream", ignore_errors=True)
            assert replicate_once(orders, replica)
            for _ in range(2):
                with pytest.raises(ConflictError, match=r"orders\.db, up to TXID"):
                    replicate_once(users, replica)
            (tmp_path / "replica" / "lineage.json").unlink()
            with pytest.raises(ConflictError, match="holds another database"):
                replicate_once(users, replica)
        assert restored(str(tmp_path / "replica"), tmp_path / "out") == image(orders)


@pytest.mark.parametrize("named", [True, False])
def test_one_of_several_replicas_that_is_another_databases_and_ahead_stops_alone(
    named: bool, first: Site
) -> None:
    folder = first.path.parent / "elsewhere"
    folder.mkdir()
    other = Site(make(folder / "b.db", page_size=512, rows=50), folder / "replica")
    further(other, 6)
    if not named:
        (other.url / "lineage.json").unlink()
    before = sorted(other.url.rglob("*"))
    with closing(
        Database(first.path, [Replica.open(str(url)) for url in (first.url, other.url)], Settings())
    ) as database:
        for _ in range(3):
            with connected(first.path) as db:
                fill(db, 3)
            with suppress(DatabaseError):
                database.sync()
                for uploader in database.uploaders:
                    uploader.push()
        own, refused = database.uploaders
        assert own.error is None
        assert refused.stopped
        assert "--adopt" in str(refused.error)
    assert sorted(other.url.rglob("*")) == before
    assert restored(str(first.url), folder / "out") == image(first.path)


def test_one_that_is_another_databases_keeps_nobody_from_one_that_does_not_answer_yet(first: Site) -> None:
    further(first, 2)
    folder = first.path.parent / "elsewhere"
    folder.mkdir()
    path, own = make(folder / "b.db", page_size=512, rows=50), folder / "replica"
    away = True

    class Away(LocalBackend):
        def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
            if away:
                raise UnavailableError("is away")
            return super().list(prefix, start_after=start_after)

    before = sorted(first.url.rglob("*"))
    replicas = [Replica(Away(own)), Replica.open(str(first.url))]
    with closing(Database(path, replicas, Settings())) as database:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                database.sync()
        slow, refused = database.uploaders
        assert refused.stopped
        assert "--adopt" in str(refused.error)
        away = False
        for _ in range(3):
            database.sync()
            slow.push()
        assert slow.error is None
        assert refused.stopped
    assert sorted(first.url.rglob("*")) == before
    assert restored(str(own), folder / "out") == image(path)


@pytest.mark.parametrize("host", ["", "another name of the same container"])
def test_a_newest_file_that_is_torn_is_no_other_writers(
    host: str, first: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    further(first, 2)
    newest = max((first.url / "ltx" / "0").iterdir())
    newest.write_bytes(newest.read_bytes()[:-40])
    if host:
        monkeypatch.setattr("socket.gethostname", lambda: host)
    first.replicate()


def test_a_missing_database_is_not_restored_to_an_old_state_while_a_newer_one_may_be_out_of_reach(
    first: Site, tmp_path: Path
) -> None:
    second, away = tmp_path / "second", tmp_path / "away"
    shutil.copytree(first.url, second)
    further(first, 3)
    first.path.unlink()
    shutil.rmtree(first.state)
    first.url.rename(away)
    first.url.write_text("in the way")
    urls = (first.url, second)
    with closing(
        Database(first.path, [Replica.open(str(url)) for url in urls], Settings(restore=True))
    ) as database:
        with pytest.raises(ReplicaError, match=f"all that file://{second} has"):
            restore_at_start(database)
        assert not first.path.exists()
        first.url.unlink()
        away.rename(first.url)
        restore_at_start(database)
    assert image(first.path) == restored(str(first.url), tmp_path / "out")
