"""The smallest databases, and files as older and other writers made them."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import ltx
from ltx import Replica
from ltx.format import file_name
from tests.interop.peer import Peer, PeerError
from tests.support.ltxfiles import FLAG, NO_CHECKSUM, FileSpec, apply, database_checksum

PAGE_SIZE = 512
CHECKSUMMED = 0


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 7",
        "CREATE TABLE empty (id INTEGER PRIMARY KEY)",
        "CREATE TABLE t (x); DROP TABLE t",
    ],
    ids=["one page", "empty table", "dropped table"],
)
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_tiny_database_of_ours_is_restored_by_both(
    peer: Peer, tmp_path: Path, page_size: int, statement: str, journal_mode: str
) -> None:
    path = tmp_path / "tiny.db"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"PRAGMA page_size={page_size}; PRAGMA journal_mode={journal_mode}").fetchall()
        connection.execute(statement)
    with Replica.open(f"file://{tmp_path}/replica") as replica:
        assert ltx.replicate_once(path, replica)
        ours = replica.restore(tmp_path / "ours.db").path.read_bytes()
        theirs = peer.restore(replica.url, tmp_path / "theirs.db")
    assert ours == theirs == path.read_bytes()


def test_an_empty_table_of_theirs_is_restored(peer: Peer, tmp_path: Path) -> None:
    path, url = tmp_path / "tiny.db", f"file://{tmp_path}/replica"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE empty (id INTEGER PRIMARY KEY)")
    peer.replicate_once(path, url)
    with Replica.open(url) as replica:
        restored = replica.restore(tmp_path / "ours.db", integrity_check="full")
    assert restored.path.read_bytes() == peer.restore(url, tmp_path / "theirs.db")


def page(content: int) -> bytes:
    return bytes([content]) * PAGE_SIZE


LEGACY = FileSpec(pages={1: page(1), 2: page(2), 3: page(3)}, legacy=frozenset({1, 2, 3}))
MIXED = FileSpec(pages={2: page(4), 3: page(5)}, min_txid=2, commit=3, legacy=frozenset({3}))
NO_PAGES = FileSpec(pages={}, min_txid=3, commit=3)
SHRINKING = FileSpec(pages={1: page(6)}, min_txid=4, commit=2)
GROWING = FileSpec(pages={3: page(7), 4: page(8)}, min_txid=5, commit=4, legacy=frozenset({4}))


def checksummed(spec: FileSpec, before: dict[int, bytes]) -> FileSpec:
    """Return a file as writers with database checksums made it."""
    return FileSpec(
        pages=spec.pages,
        min_txid=spec.min_txid,
        commit=spec.commit,
        legacy=spec.legacy,
        flags=CHECKSUMMED,
        pre_checksum=database_checksum(before) if before else 0,
        post_checksum=database_checksum(apply(before, spec)),
    )


def lay(folder: Path, specs: Sequence[FileSpec]) -> str:
    """Write a replica of level 0; return its URL."""
    for spec in specs:
        path = folder / "replica" / "ltx" / "0" / file_name(spec.min_txid, spec.last_txid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(spec.encode())
    return f"file://{folder}/replica"


def database(specs: Sequence[FileSpec]) -> bytes:
    pages: dict[int, bytes] = {}
    for spec in specs:
        pages = apply(pages, spec)
    return b"".join(pages.get(pgno, bytes(PAGE_SIZE)) for pgno in range(1, specs[-1].page_count + 1))


CHAIN = (LEGACY, MIXED, NO_PAGES, SHRINKING, GROWING)


@pytest.mark.parametrize("length", range(1, len(CHAIN) + 1))
def test_every_way_to_write_a_page_is_read_as_they_read_it(peer: Peer, tmp_path: Path, length: int) -> None:
    specs = CHAIN[:length]
    url = lay(tmp_path, specs)
    ours = Replica.open(url).restore(tmp_path / "ours.db").path.read_bytes()
    assert ours == peer.restore(url, tmp_path / "theirs.db") == database(specs)


@pytest.mark.parametrize("length", range(1, len(CHAIN) + 1))
def test_files_with_database_checksums_are_restored_even_as_the_last_ones(
    peer: Peer, tmp_path: Path, length: int
) -> None:
    specs: list[FileSpec] = []
    pages: dict[int, bytes] = {}
    for spec in CHAIN[:length]:
        specs.append(checksummed(spec, pages))
        pages = apply(pages, spec)
    assert all(spec.flags == CHECKSUMMED and (spec.post_checksum or 0) & FLAG for spec in specs)
    url = lay(tmp_path, specs)
    assert Replica.open(url).restore(tmp_path / "ours.db").path.read_bytes() == database(specs)
    with pytest.raises(PeerError, match="post-apply checksum not allowed"):
        peer.restore(url, tmp_path / "theirs.db")


def test_a_plain_file_may_follow_files_with_database_checksums(peer: Peer, tmp_path: Path) -> None:
    specs = [checksummed(LEGACY, {}), MIXED]
    assert specs[-1].flags == NO_CHECKSUM
    url = lay(tmp_path, specs)
    ours = Replica.open(url).restore(tmp_path / "ours.db").path.read_bytes()
    assert ours == peer.restore(url, tmp_path / "theirs.db") == database(specs)
