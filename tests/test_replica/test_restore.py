"""A database given back as it was: whole, verified, at its place at once, and cheaply."""

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

import ltx
from backends import UnavailableError
from backends.local import LocalBackend
from backends.memory import MemoryBackend
from backends.retrying import Retry, RetryingBackend
from ltx import (
    CorruptError,
    DatabaseError,
    GapError,
    LTXError,
    NoSnapshotError,
    NotReachableError,
    OutputExistsError,
    Replica,
)
from tests.support.ltxfiles import FileSpec
from tests.test_replica.histories import PAGE_SIZE, History, store, time_of

HISTORY = History.random(12, seed=5)


def left_in(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("txid", range(1, 13))
def test_every_transaction_gives_the_database_after_it(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, txid: int
) -> None:
    HISTORY.put_all(backend)
    HISTORY.put(backend, "1:1-4", "1:5-9", "2:1-9", "3:3-6", "9:1-3", "9:1-7")
    restored = replica.restore(tmp_path / "out.db", txid=txid)
    assert restored.path.read_bytes() == HISTORY.state(txid)
    assert (restored.txid, restored.time, restored.size) == (txid, time_of(txid), len(HISTORY.state(txid)))
    assert restored.passed_over == ()
    assert restored.files == replica.plan(txid=txid).files
    assert left_in(tmp_path) == ["out.db"]


@pytest.mark.parametrize(
    "places",
    [
        ("0:1", "0:2", "0:3", "0:4", "0:5", "0:6"),
        ("1:1-6",),
        ("9:1-6",),
        ("9:1-3", "0:4", "0:5", "0:6"),
        ("9:1-4", "1:2-6"),
        ("1:1-4", "2:3-6"),
        ("0:1", "1:2-3", "2:2-5", "0:6"),
        ("8:1-2", "5:3-4", "4:5-6"),
    ],
    ids=" ".join,
)
def test_any_files_that_hold_the_same_give_the_same(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, places: Sequence[str]
) -> None:
    HISTORY.put(backend, *places)
    assert replica.restore(tmp_path / "out.db").path.read_bytes() == HISTORY.state(6)


def test_by_time_it_is_the_database_at_that_time(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    restored = replica.restore(tmp_path / "out.db", at=time_of(7))
    assert (restored.txid, restored.time) == (7, time_of(7))
    assert restored.path.read_bytes() == HISTORY.state(7)


def test_a_restore_costs_one_listing_one_read_per_mebibyte_and_one_header(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    pages = {pgno: os.urandom(65536) for pgno in range(1, 41)}
    snapshot = ltx.format.Encoder(
        ltx.format.Header(
            page_size=65536, commit=40, min_txid=ltx.TXID(1), max_txid=ltx.TXID(1), timestamp_ms=1000
        ),
        pages.items(),
    )
    backend.put("ltx/0/0000000000000001-0000000000000001.ltx", b"".join(snapshot))
    before = backend.stats.received
    restored = replica.restore(tmp_path / "out.db")
    assert restored.path.read_bytes() == b"".join(pages.values())
    mebibytes = -(-snapshot.size // (1 << 20))
    assert dict(backend.stats.requests) == {"put": 1, "list": 1, "get": mebibytes + 1}
    assert backend.stats.received - before == snapshot.size + 100


def test_progress_goes_from_nothing_to_all(backend: MemoryBackend, replica: Replica, tmp_path: Path) -> None:
    HISTORY.put_all(backend)
    seen: list[tuple[int, int]] = []
    replica.restore(tmp_path / "out.db", progress=lambda done, total: seen.append((done, total)))
    total = sum(file.size for file in replica.files())
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_a_new_database_has_the_mode_of_a_new_file(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    (tmp_path / "any").touch()
    path = replica.restore(tmp_path / "out.db").path
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_side_files_of_an_older_database_are_gone_first(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    for suffix in ("-wal", "-shm", "-journal"):
        (tmp_path / f"out.db{suffix}").write_bytes(b"stale")
    (tmp_path / "out.db-other").write_bytes(b"not ours")
    replica.restore(tmp_path / "out.db")
    assert left_in(tmp_path) == ["out.db", "out.db-other"]


@pytest.mark.parametrize("content", [b"", b"an old database"])
def test_an_existing_output_is_refused_before_anything_is_asked_for(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, content: bytes
) -> None:
    HISTORY.put_all(backend)
    requests = dict(backend.stats.requests)
    output = tmp_path / "out.db"
    output.write_bytes(content)
    (tmp_path / "out.db-wal").write_bytes(b"its log")
    with pytest.raises(OutputExistsError, match="--force") as caught:
        replica.restore(output)
    assert isinstance(caught.value, FileExistsError)
    assert output.read_bytes() == content
    assert left_in(tmp_path) == ["out.db", "out.db-wal"]
    assert dict(backend.stats.requests) == requests


def test_an_output_that_appears_meanwhile_is_not_overwritten(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    output = tmp_path / "out.db"

    def appear(done: int, total: int) -> None:
        output.write_bytes(b"somebody else's")

    with pytest.raises(OutputExistsError):
        replica.restore(output, progress=appear)
    assert output.read_bytes() == b"somebody else's"
    assert left_in(tmp_path) == ["out.db"]


def test_a_missing_folder_is_named_and_not_made(replica: Replica, tmp_path: Path) -> None:
    with pytest.raises(LTXError, match=f"{tmp_path}/missing does not exist"):
        replica.restore(tmp_path / "missing" / "out.db")
    assert left_in(tmp_path) == []


def test_a_folder_as_output_is_refused(replica: Replica, tmp_path: Path) -> None:
    with pytest.raises(LTXError, match="is a folder"):
        replica.restore(tmp_path, force=True)


@pytest.mark.parametrize("name", ["x" * 247, "я" * 123, "数" * 82], ids=["ASCII", "2 bytes", "3 bytes"])
def test_a_name_may_be_as_long_as_sqlite_allows_beside_its_journal(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, name: str
) -> None:
    HISTORY.put_all(backend)
    assert replica.restore(tmp_path / name).path.read_bytes() == HISTORY.state(12)
    assert left_in(tmp_path) == [name]


def test_a_relative_output_and_one_in_the_home_folder_are_found(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HISTORY.put_all(backend)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert replica.restore("out.db").path == tmp_path / "out.db"
    assert replica.restore("~/home.db").path == tmp_path / "home.db"


@pytest.mark.parametrize(
    ("places", "target", "kind"),
    [
        ((), {}, NoSnapshotError),
        (("0:2", "0:3"), {}, NoSnapshotError),
        (("0:1", "0:3"), {}, GapError),
        (("0:1", "1:2-5"), {"txid": 3}, NotReachableError),
        (("0:1",), {"txid": 2}, NotReachableError),
        (("0:1",), {"txid": "2"}, ValueError),
        (("0:1",), {"at": "0000000000000001"}, ValueError),
        (("0:1",), {"at": "now", "txid": 1}, ValueError),
        (("0:1",), {"at": "2020-01-01"}, NotReachableError),
    ],
)
def test_what_cannot_be_had_leaves_nothing_behind(
    backend: MemoryBackend,
    replica: Replica,
    tmp_path: Path,
    places: Sequence[str],
    target: Mapping[str, Any],
    kind: type[Exception],
) -> None:
    HISTORY.put(backend, *places)
    with pytest.raises(kind):
        replica.restore(tmp_path / "out.db", **target)
    assert left_in(tmp_path) == []


def page(content: int) -> bytes:
    return bytes([content]) * PAGE_SIZE


def test_a_file_that_grows_the_database_must_hold_the_new_pages(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    store(backend, 0, FileSpec(pages={1: page(1)}))
    key = store(backend, 0, FileSpec(pages={1: page(2), 4: page(4)}, min_txid=2, commit=4))
    with pytest.raises(CorruptError, match=r"grows from 1 to 4 pages, of which 2 are in no file") as caught:
        replica.restore(tmp_path / "out.db")
    assert key in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_file_of_another_page_size_is_refused_by_name(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    store(backend, 0, FileSpec(pages={1: page(1)}))
    key = store(backend, 0, FileSpec(pages={1: bytes(1024)}, min_txid=2, page_size=1024))
    with pytest.raises(CorruptError, match=f"{key} .*pages of 1024 bytes after pages of 512"):
        replica.restore(tmp_path / "out.db")


def test_a_shrunk_database_that_grew_again_has_nothing_of_before(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    store(backend, 0, FileSpec(pages={pgno: page(pgno) for pgno in range(1, 6)}))
    store(backend, 0, FileSpec(pages={1: page(11)}, min_txid=2, commit=2))
    store(backend, 0, FileSpec(pages={3: page(13)}, min_txid=3, commit=3))
    assert replica.restore(tmp_path / "out.db").path.read_bytes() == page(11) + page(2) + page(13)


def test_a_deleted_database_is_restored_as_an_empty_file(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    store(backend, 0, FileSpec(pages={1: page(1)}))
    flag = 1 << 63
    store(backend, 0, FileSpec(min_txid=2, commit=0, flags=0, pre_checksum=flag, post_checksum=flag))
    restored = replica.restore(tmp_path / "out.db")
    assert (restored.path.read_bytes(), restored.size) == (b"", 0)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A database of three tables and an index, in rollback-journal mode."""
    path = tmp_path / "source" / "app.db"
    path.parent.mkdir()
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x); CREATE INDEX by_x ON t (x)")
        with connection:
            connection.executemany(
                "INSERT INTO t (x) VALUES (?)", [(f"row {number}",) for number in range(3000)]
            )
    return path


@pytest.mark.parametrize("kind", ["none", "quick", "full"])
def test_a_sound_database_passes_every_integrity_check(
    replica: Replica, real: Path, tmp_path: Path, kind: str
) -> None:
    ltx.replicate_once(real, replica)
    restored = replica.restore(tmp_path / "odd name?#%41.db", integrity_check=kind)
    assert restored.path.read_bytes() == real.read_bytes()
    assert left_in(tmp_path) == [".odd name?#%41.db-litestream", "odd name?#%41.db", "source"]


@pytest.mark.parametrize("kind", ["quick", "full"])
def test_a_database_that_fails_its_integrity_check_is_not_installed(
    backend: MemoryBackend, replica: Replica, real: Path, tmp_path: Path, kind: str
) -> None:
    data = bytearray(real.read_bytes())
    page_size = int.from_bytes(data[16:18], "big")
    data[page_size * 2 : page_size * 2 + 200] = bytes(200)
    pages = {
        start // page_size + 1: bytes(data[start : start + page_size])
        for start in range(0, len(data), page_size)
    }
    store(backend, 0, FileSpec(pages=pages, page_size=page_size))
    with pytest.raises(DatabaseError, match="check of the restored database found"):
        replica.restore(tmp_path / "out.db", integrity_check=kind)
    assert left_in(tmp_path) == ["source"]
    assert replica.restore(tmp_path / "out.db").path.read_bytes() == bytes(data)


def test_an_unknown_integrity_check_is_refused_before_the_work(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="none, quick or full, not 'thorough'"):
        replica.restore(tmp_path / "out.db", integrity_check="thorough")
    assert dict(backend.stats.requests) == {}


class Shortening(MemoryBackend):
    """Gives the first reads of each object only in part, as a broken stream does."""

    def __init__(self, name: str, times: int) -> None:
        super().__init__(name)
        self.times = times
        self._given: dict[tuple[str, int], int] = {}

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        data = super().get(key, start, end)
        count = self._given[key, start] = self._given.get((key, start), 0) + 1
        return data if count > self.times or len(data) <= 100 else data[: len(data) // 2]


def test_a_short_read_is_asked_for_again(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    backend = Shortening(request.node.nodeid, times=1)
    HISTORY.put_all(backend)
    assert Replica(backend).restore(tmp_path / "out.db").path.read_bytes() == HISTORY.state(12)


def test_reads_that_stay_short_are_no_damage_but_a_storage_that_fails(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend = Shortening(request.node.nodeid, times=99)
    HISTORY.put_all(backend)
    with pytest.raises(UnavailableError, match="bytes where"):
        Replica(backend).restore(tmp_path / "out.db")
    assert left_in(tmp_path) == []


class Unwilling(MemoryBackend):
    """Does not answer every other time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked = self.refused = 0

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.asked += 1
        if self.asked % 2:
            self.refused += 1
            raise UnavailableError("busy", key=key)
        return super().get(key, start, end)


def test_a_storage_that_does_not_answer_is_asked_again(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend = Unwilling(request.node.nodeid)
    HISTORY.put_all(backend)
    replica = Replica(RetryingBackend(backend, Retry(sleep=lambda seconds: None)))
    assert replica.restore(tmp_path / "out.db").path.read_bytes() == HISTORY.state(12)
    assert backend.refused > 3


def test_a_storage_that_never_answers_ends_in_its_error_and_nothing_is_left(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend = Unwilling(request.node.nodeid)
    HISTORY.put_all(backend)
    with pytest.raises(UnavailableError, match="busy"):
        Replica(backend).restore(tmp_path / "out.db")
    assert left_in(tmp_path) == []


def test_opened_by_url_and_used_as_a_context(tmp_path: Path) -> None:
    with LocalBackend(tmp_path / "replica") as backend:
        HISTORY.put_all(backend)
    with Replica.open(str(tmp_path / "replica")) as replica:
        assert replica.restore(tmp_path / "out.db").path.read_bytes() == HISTORY.state(12)
        assert repr(replica) == f"<Replica {replica.url}>"
