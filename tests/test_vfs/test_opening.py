"""Which replica a name means: paths, URLs, labels, and what changes their meaning."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfs
from tests.test_vfs.origin import Origin, as_read, content, number, origin, rows, seen

FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
STRANGE = (
    "plain",
    "with space",
    "100%41",
    "a?b=c&vfs=unix",
    "a#b",
    "käse-🧀",
    "semi;colon",
    "quo'te\"s",
    "a+b",
    "~tilde",
)


@pytest.fixture(params=STRANGE)
def strange(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Origin, Path]]:
    """A replica in a folder with that name."""
    folder = tmp_path / str(request.param)
    with origin(tmp_path, str(folder)) as source:
        source.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (7)")
        yield source, folder


def test_a_folder_of_any_name_is_opened_by_path_and_by_url(strange: tuple[Origin, Path]) -> None:
    source, folder = strange
    assert folder.is_dir()
    for name in (str(folder), source.url):
        assert content(vfs.connect(name)) == as_read(source.states[1])
        assert number(apsw.Connection(vfs.uri(name), flags=FLAGS), "SELECT n FROM t") == 7
        db = apsw.Connection(":memory:", flags=FLAGS)
        db.execute("ATTACH ? AS r", (vfs.uri(name, txid=1),))
        assert (number(db, "SELECT n FROM r.t"), seen(db, "r")) == (7, 1)


def test_a_relative_path_means_the_folder_that_it_means_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with origin(tmp_path / name, "replica") as source:
            source.commit("CREATE TABLE t (n)", f"INSERT INTO t VALUES ('{name}')")
        kept.append(vfs.connect("replica", poll_interval=0))
        assert rows(kept[-1], "SELECT n FROM t") == [(name,)]
    assert [rows(db, "SELECT n FROM t") for db in kept] == [[("one",)], [("two",)]]


def test_replicas_beside_each_other_are_not_mixed(tmp_path: Path) -> None:
    with origin(tmp_path) as first, origin(tmp_path) as second:
        first.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (1)")
        second.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (2)")
        db = vfs.connect(first.url)
        db.execute("ATTACH ? AS other", (vfs.uri(second.url),))
        assert rows(db, "SELECT a.n, b.n FROM main.t a, other.t b") == [(1, 2)]
        second.commit("UPDATE t SET n = 3")
        assert content(vfs.connect(second.url, poll_interval=0)) == as_read(second.states[2])
        assert content(vfs.connect(first.url, poll_interval=0)) == as_read(first.states[1])


def test_a_connection_has_the_last_part_of_the_url_for_a_name(tmp_path: Path) -> None:
    with origin(tmp_path, f"file://{tmp_path}/backups/app") as source:
        source.commit("CREATE TABLE t (n)")
        db = vfs.connect(source.url)
        assert db.filename == "app"
        assert rows(db, "PRAGMA database_list") == [(0, "main", "app")]


def test_a_uri_keeps_its_meaning_when_it_is_opened_again(tmp_path: Path) -> None:
    """As a connection pool does."""
    with origin(tmp_path) as source:
        source.commit("CREATE TABLE t (n)")
        source.commit("INSERT INTO t VALUES (1)")
        for uri, txid in (
            (vfs.uri(source.url, txid=1), 1),
            (vfs.uri(source.url), 2),
            (vfs.uri(source.url, txid=1), 1),
        ):
            for _ in range(2):
                db = apsw.Connection(uri, flags=FLAGS)
                assert number(db, "SELECT count(*) FROM t") == txid - 1
                db.close()
