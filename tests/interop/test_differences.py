"""Where we differ from the real Litestream on purpose (docs/formats/replica.md, Differences)."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ltx import CorruptError, GapError, NotReachableError, OutputExistsError, Replica
from ltx.format import file_name
from tests.interop.file_sets import Place, lay_out, time_of
from tests.interop.peer import Peer, PeerError


class Laid:
    """A replica of given files, for both programs."""

    def __init__(self, folder: Path, peer: Peer) -> None:
        self.folder = folder / "replica"
        self.peer = peer
        self.replica = Replica.open(f"file://{self.folder}")
        self._outputs = (folder / f"{number}.db" for number in range(1_000_000))

    def lay(self, *places: tuple[int, int, int]) -> None:
        lay_out(self.folder, [Place(*place) for place in places])

    def ours(self, **target: object) -> bytes:
        return self.replica.restore(next(self._outputs), **target).path.read_bytes()  # type: ignore[arg-type]

    def theirs(self, **target: object) -> bytes:
        return self.peer.restore(self.replica.url, next(self._outputs), **target)  # type: ignore[arg-type]

    def path(self, level: int, min_txid: int, max_txid: int) -> Path:
        return self.folder / "ltx" / str(level) / file_name(min_txid, max_txid)


@pytest.fixture
def laid(tmp_path: Path, peer: Peer) -> Laid:
    return Laid(tmp_path, peer)


def content(txid: int) -> bytes:
    """What `lay_out` makes of the database by a TXID."""
    return txid.to_bytes(512, "big")


def test_a_snapshot_that_does_not_begin_at_1_is_passed_over(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2), (9, 2, 3))
    with pytest.raises(PeerError):
        laid.theirs()
    assert laid.ours() == content(2)


def test_a_gap_is_named_whatever_was_asked_for(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2), (0, 5, 5), (0, 6, 6))
    for target in ({}, {"txid": 5}, {"txid": 6}, {"at": time_of(6)}, {"at": time_of(99)}):
        with pytest.raises(GapError, match="0000000000000003 to 0000000000000004") as caught:
            laid.ours(**target)
        assert (caught.value.after, caught.value.before) == (2, 5)
    with pytest.raises(PeerError, match="non-contiguous ltx files"):
        laid.theirs()
    with pytest.raises(PeerError, match="no matching backup files available"):
        laid.theirs(txid=6)
    assert laid.ours(txid=2) == laid.theirs(txid=2) == content(2)


def test_a_time_beyond_a_gap_is_refused_where_they_give_an_older_state(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2), (0, 5, 5), (0, 6, 6))
    assert laid.theirs(at=time_of(6)) == content(2)
    with pytest.raises(GapError):
        laid.ours(at=time_of(6))
    assert laid.ours(at=time_of(4)) == content(2)


def test_a_txid_inside_a_merged_file_is_refused_with_its_neighbours(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2), (1, 3, 7), (0, 8, 8))
    with pytest.raises(NotReachableError, match="0000000000000002 and 0000000000000007") as caught:
        laid.ours(txid=5)
    assert (caught.value.before, caught.value.after) == (2, 7)
    with pytest.raises(PeerError, match="no matching backup files available"):
        laid.theirs(txid=5)


def test_a_file_that_is_not_what_its_name_says_is_refused(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2), (1, 3, 3))
    laid.path(1, 3, 3).rename(laid.path(0, 1, 1).parent / file_name(3, 4))
    assert laid.theirs() == content(3)
    with pytest.raises(CorruptError, match="the name says otherwise"):
        laid.ours()


def test_a_folder_named_like_a_file_is_no_file(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2))
    laid.path(0, 3, 3).mkdir()
    with pytest.raises(PeerError):
        laid.theirs()
    assert laid.ours() == content(2)


def test_the_other_key_layout_is_read_too(laid: Laid) -> None:
    laid.lay((0, 1, 1), (0, 2, 2))
    (laid.folder / "ltx" / "0").rename(laid.folder / "0000")
    with pytest.raises(PeerError, match="no matching backup files available"):
        laid.theirs()
    assert laid.ours() == content(2)


@pytest.mark.parametrize(
    "name", ["0000000000000003-000000000000000A.ltx", "0000000000000003-0000000000000003.ltx.tmp"]
)
def test_stray_names_are_passed_over_by_both(laid: Laid, name: str) -> None:
    laid.lay((0, 1, 1), (0, 2, 2))
    (laid.path(0, 1, 1).parent / name).write_bytes(b"stray")
    for level in ("10", "x", "00"):
        stray = laid.folder / "ltx" / level / file_name(3, 3)
        stray.parent.mkdir()
        stray.write_bytes(b"stray")
    assert laid.ours() == laid.theirs() == content(2)


def test_an_empty_output_is_overwritten_by_them_only(laid: Laid, tmp_path: Path) -> None:
    laid.lay((0, 1, 1))
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(OutputExistsError):
        laid.replica.restore(empty)
    assert empty.read_bytes() == b""
    laid.peer.run("restore", "-o", empty, laid.replica.url)
    assert empty.read_bytes() == content(1)


def test_a_forced_restore_that_fails_costs_the_old_database_with_them_only(
    laid: Laid, tmp_path: Path
) -> None:
    laid.lay((0, 1, 1), (0, 2, 2))
    file = laid.path(0, 2, 2)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    for output in (ours, theirs):
        output.write_bytes(b"an old database")
    with pytest.raises(CorruptError):
        laid.replica.restore(ours, force=True)
    with pytest.raises(PeerError):
        laid.peer.run("restore", "-force", "-o", theirs, laid.replica.url)
    assert ours.read_bytes() == b"an old database"
    assert not os.path.lexists(theirs)


def test_a_damaged_file_is_done_without_where_others_hold_the_same(laid: Laid) -> None:
    places: Sequence[tuple[int, int, int]] = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 3)]
    laid.lay(*places)
    file = laid.path(1, 1, 3)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(PeerError):
        laid.theirs()
    assert laid.ours() == content(3)
