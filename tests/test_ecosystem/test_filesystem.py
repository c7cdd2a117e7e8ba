"""The file system `ltx`: the bytes of a restore, byte for byte, read as a file."""

import io
import pickle
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest

import ltx
import vfs
from backends import BackendError, ConfigError
from ltx import TXID
from tests.servers.seaweedfs import S3Server
from tests.support.ltxfiles import FileSpec, block
from tests.test_vfs.origin import Origin, origin
from tests.test_vfs.storages import hooked
from tests.test_vfs.test_processes import in_child, together
from vfs.filesystem import LTXFileSystem


@pytest.fixture(params=[512, 4096, 65536])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Origin]:
    """Five states: growing, changed, cut down by VACUUM, grown again."""
    with origin(tmp_path, f"file://{tmp_path}/replica", page_size=request.param) as made:
        made.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES (1, 'one')")
        made.commit("INSERT INTO t SELECT value, randomblob(900) FROM generate_series(2, 1000)")
        made.commit("UPDATE t SET b = 'x' WHERE id % 7 = 0")
        made.commit("DELETE FROM t WHERE id > 50", "VACUUM")
        made.commit("INSERT INTO t SELECT value, randomblob(500) FROM generate_series(51, 300)")
        yield made


def files_of(source: Origin) -> LTXFileSystem:
    made: LTXFileSystem = fsspec.filesystem("ltx", fo=source.url)
    return made


def restored(source: Origin, folder: Path, **moment: Any) -> bytes:
    path = folder / "restored.db"
    source.replica.restore(path, force=True, **moment)
    return path.read_bytes()


def test_every_state_is_what_a_restore_writes(source: Origin, tmp_path: Path) -> None:
    files = files_of(source)
    for txid in source.states:
        whole = restored(source, tmp_path, txid=txid)
        by_name = f"{txid:016x}.db"
        assert files.cat_file(by_name) == whole
        assert files.size(by_name) == len(whole)
        with fsspec.open(f"ltx::{source.url}", txid=txid) as file:
            assert file.read() == whole
        with fsspec.open(f"ltx::{source.url}", at=source.times[txid].isoformat()) as file:
            assert file.read() == whole
            assert (file.size, file.txid) == (len(whole), txid)
    assert files.cat_file("latest.db") == files.cat_file("") == whole


def test_a_copy_is_a_database(source: Origin, tmp_path: Path) -> None:
    with fsspec.open(f"ltx::{source.url}", txid=2) as file, (tmp_path / "copy.db").open("wb") as copy:
        shutil.copyfileobj(file, copy)
    files_of(source).get("latest.db", str(tmp_path / "got.db"))
    for name, rows in (("copy.db", 1000), ("got.db", 300)):
        with closing(sqlite3.connect(tmp_path / name)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("SELECT count(*) FROM t").fetchall() == [(rows,)]


def test_any_part_can_be_read_in_any_order(source: Origin, tmp_path: Path) -> None:
    whole = restored(source, tmp_path)
    chance = random.Random(7)
    with files_of(source).open("latest.db") as file, io.BytesIO(whole) as expected:
        assert file.seekable()
        assert file.readable()
        assert not file.writable()
        for _ in range(200):
            place, size = (
                chance.randrange(len(whole) + 100),
                chance.choice([0, 1, 16, 100, 512, 4096, 5000, 65536, 70_000]),
            )
            assert file.seek(place) == expected.seek(place)
            assert file.read(size) == expected.read(size)
            assert file.tell() == expected.tell()
        for page_size in (
            512,
            4096,
            65536,
        ) * 2:  # as SQLite reads, which gets page 1 as a reader without WAL must see it
            assert file.seek(0) == expected.seek(0)
            assert file.read(page_size) == expected.read(page_size)
        for offset, whence in ((-100, 2), (10, 1), (0, 0)):
            assert file.seek(offset, whence) == expected.seek(offset, whence)
            assert file.read() == expected.read()
        with pytest.raises(ValueError, match="not negative"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed file"):
        file.read(1)


def test_the_states_are_listed_with_size_and_time(source: Origin) -> None:
    files = files_of(source)
    names = [f"{txid:016x}.db" for txid in source.states]
    assert files.ls("", detail=False) == [*names, "latest.db"]
    found = files.ls("ltx://")
    assert [each["name"] for each in found] == [*names, "latest.db"]
    for each, txid in zip(found, [*source.states, source.newest], strict=True):
        assert (each["type"], each["txid"]) == ("file", f"{txid:016x}")
        assert each["size"] == len(source.states[txid])
        assert each["created"] == source.times[txid]
        assert files.info(each["name"]) == each
        assert files.ls(each["name"]) == [each]
    assert files.modified("latest.db") == files.created(names[-1]) == source.times[source.newest]
    assert files.isdir("")
    assert files.glob("*2.db") == [names[1]]
    assert files.find("") == [*names, "latest.db"]
    assert files.exists(names[0])
    assert not files.exists("0000000000000009.db")
    source.commit("DELETE FROM t")
    assert files.ls("", detail=False)[-2] == f"{6:016x}.db"  # nothing is kept


def test_an_open_file_stays_what_it_was(source: Origin, tmp_path: Path) -> None:
    whole = restored(source, tmp_path)
    with files_of(source).open("latest.db") as file:
        start = file.read(1000)
        source.commit("DELETE FROM t", "VACUUM")
        source.merge(1, 1, 6)
        assert start + file.read() == whole
    assert len(files_of(source).cat_file("latest.db")) < len(whole)


def test_merged_states_and_pruned_ones_are_not_listed(source: Origin) -> None:
    source.snapshot(3)
    source.prune(0, 4)
    files = files_of(source)
    assert files.ls("", detail=False) == [f"{txid:016x}.db" for txid in (3, 4, 5)] + ["latest.db"]
    assert [each["created"] for each in files.ls("")[1:]] == [source.times[txid] for txid in (4, 5, 5)]
    with pytest.raises(FileNotFoundError, match="older than all that is kept"):
        files.open("0000000000000001.db")


def test_a_copy_reads_ahead_and_a_page_reads_a_page(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(4000) FROM generate_series(1, 2000)",
        )
        url, hooks = hooked(source.url)
        files = fsspec.filesystem("ltx", fo=url)
        with files.open("") as file:
            file.seek(5_000_000)
            before = hooks.count("get")
            file.read(100)
            assert hooks.count("get") == before + 1
            file.seek(0)
            before = hooks.count("get")
            assert len(file.read()) == file.size > 8_000_000
        assert (
            hooks.count("get") - before <= 16
        )  # two for each MiB: short ones before it is clear that all is wanted


def test_the_lock_page_is_zeros() -> None:
    """It is never stored. All other pages are one and the same here."""
    page, lock_page = bytes(range(256)) * 256, (1 << 30) // 65536 + 1
    last = lock_page + 5
    pages = {pgno: page for pgno in range(1, last + 1) if pgno != lock_page}
    spec = FileSpec(
        pages=pages, page_size=65536, payloads=dict.fromkeys(pages, block(page)), file_checksum=1 << 63
    )
    with ltx.Replica.open("memory://lock-page") as replica:
        replica.backend.put(replica.layout.key(9, TXID(1), TXID(1)), spec.encode())
    with fsspec.open("ltx::memory://lock-page") as file:
        assert file.size == last * 65536
        file.seek((1 << 30) - 65536)
        assert file.read(3 * 65536) == page + bytes(65536) + page


def test_a_replica_on_s3_is_opened_by_a_chained_url(s3_server: S3Server, s3_url: str, tmp_path: Path) -> None:
    options = s3_server.options
    with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
        database.execute("CREATE TABLE t AS SELECT 1 AS n")
    with ltx.Replica.open(s3_url, **options) as replica:
        ltx.replicate_once(tmp_path / "app.db", replica)
        replica.restore(tmp_path / "restored.db")
    with fsspec.open(f"ltx::{s3_url}", s3=options) as file:
        assert file.read() == (tmp_path / "restored.db").read_bytes()
    files = fsspec.filesystem("ltx", fo=s3_url, target_options=options)
    assert files.ls("", detail=False) == ["0000000000000001.db", "latest.db"]


def test_it_can_be_sent_to_other_processes_and_used_by_threads(source: Origin, tmp_path: Path) -> None:
    files = fsspec.filesystem("ltx", fo=source.url, txid=2)
    whole = restored(source, tmp_path, txid=2)
    assert pickle.loads(pickle.dumps(files)).cat_file("") == whole

    def read(_place: int) -> None:
        assert files.cat_file("") == whole

    together(4, read)
    in_child(lambda: read(0))


@pytest.mark.parametrize(
    ("url", "options", "kind", "text"),
    [
        ("ltx://", {}, ConfigError, "write ltx::s3://bucket/app"),
        ("ltx::{url}", {"at": "when"}, ValueError, "not a time: 'when'"),
        ("ltx::{url}", {"at": "2020-01-01"}, ltx.NotReachableError, "before all that is kept"),
        ("ltx::{url}", {"txid": 9}, ltx.NotReachableError, "not written yet"),
        ("ltx::{url}", {"at": "now", "txid": 1}, ConfigError, "not both"),
        ("ltx::{url}", {"key": "x"}, ConfigError, "no option 'key'; those of the storage go by its name"),
        ("ltx::{url}x", {}, ltx.NoSnapshotError, "no LTX files lie at"),
        (
            "ltx://app.db::{url}",
            {},
            FileNotFoundError,
            "files are latest.db and <16 lower-case hex digits>.db",
        ),
        ("ltx://0000000000000009.db::{url}", {}, FileNotFoundError, "not written yet"),
    ],
)
def test_what_is_not_there_says_so(
    tmp_path: Path, url: str, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with origin(tmp_path, f"file://{tmp_path}/replica") as source:
        source.commit("CREATE TABLE t (n)")
        with pytest.raises((ValueError, OSError, ltx.LTXError, BackendError), match=text) as caught:
            fsspec.open(url.format(url=source.url), **options).open()
        assert isinstance(caught.value, kind)


@pytest.mark.parametrize("source", [512], indirect=True)
def test_nothing_can_be_written(source: Origin, tmp_path: Path) -> None:
    files = files_of(source)
    calls: list[Callable[[], object]] = [
        lambda: files.open("latest.db", "wb"),
        lambda: files.pipe_file("new.db", b"x"),
        lambda: files.rm("latest.db"),
        lambda: files.rm_file("latest.db"),
        lambda: files.mv("latest.db", "new.db"),
        lambda: files.put_file(str(source.path), "new.db"),
        lambda: files.mkdir("new"),
        lambda: files.touch("new.db"),
    ]
    for call in calls:
        with pytest.raises(vfs.ReadOnlyError, match="write to the database itself"):
            call()
