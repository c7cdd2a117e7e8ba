"""Damaged and vanished files: named, worked around where others hold the same, and never restored from."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backends import NotFoundError
from backends.memory import MemoryBackend
from ltx import CorruptError, LTXError, Replica, UnsupportedVersionError
from ltx.replica.layout import FOLDERS
from tests.test_replica.histories import PAGE_SIZE, History, store, time_of

HISTORY = History.random(9, seed=7)

EVERYTHING_TWICE = (
    ("0:1", "0:2", "0:3", "0:4", "0:5", "0:6", "1:1-2", "1:3-4", "1:5-6"),
    ("9:1-4", "1:5-6", "0:1", "0:2", "0:3", "0:4", "0:5", "0:6"),
    ("9:1-4", "9:1-6", "2:1-3", "1:4-6", "0:5", "0:6"),
)
"""Files of which any one can be done without."""


def key_of(level: int, first: int, last: int | None = None) -> str:
    return FOLDERS.key(level, first, first if last is None else last)


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An output that a failing restore must leave as it is."""
    path = tmp_path / "out.db"
    path.write_bytes(b"an old database")
    return path


def refused(replica: Replica, old: Path, *kinds: type[Exception]) -> str:
    """Restore over the old output, which fails; return the error's text."""
    with pytest.raises(kinds) as caught:
        replica.restore(old, force=True)
    assert old.read_bytes() == b"an old database"
    assert [path.name for path in old.parent.iterdir()] == ["out.db"]
    return str(caught.value)


@pytest.mark.parametrize("legacy", [frozenset[int](), frozenset({2})], ids=["blocks", "a legacy frame"])
@pytest.mark.parametrize("txid", [1, 2])
def test_a_flipped_bit_in_any_byte_is_found_and_the_file_named(
    backend: MemoryBackend, replica: Replica, old: Path, txid: int, legacy: frozenset[int]
) -> None:
    history = History.random(2, seed=17)
    specs = [replace(spec, legacy=legacy & {pgno for pgno, _ in spec.content}) for spec in history.specs]
    for spec in specs:
        store(backend, 0, spec)
    key = key_of(0, txid)
    sound = backend.get(key)
    harmless = 0
    for place in range(len(sound)):
        backend.put(key, flipped(sound, place))
        try:
            replica.restore(old, force=True)
        except LTXError as error:
            assert isinstance(error, CorruptError | UnsupportedVersionError)  # noqa: PT017
            assert key in str(error)  # noqa: PT017
            assert old.read_bytes() == b"an old database"
            assert [path.name for path in old.parent.iterdir()] == ["out.db"]
        else:  # half of one byte in an LZ4 block means nothing
            assert old.read_bytes() == history.state(2)
            old.write_bytes(b"an old database")
            harmless += 1
    assert harmless <= specs[txid - 1].page_count


def test_a_file_cut_short_anywhere_is_found_and_named(
    backend: MemoryBackend, replica: Replica, old: Path
) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    key = key_of(0, 2)
    sound = backend.get(key)
    for size in range(len(sound)):
        backend.put(key, sound[:size])
        assert key in refused(replica, old, CorruptError), f"{size} bytes"


@pytest.mark.parametrize("more", [b"\0", b"x" * 16, b"x" * 5000])
def test_a_file_with_something_behind_it_is_found_and_named(
    backend: MemoryBackend, replica: Replica, old: Path, more: bytes
) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    key = key_of(0, 2)
    backend.put(key, backend.get(key) + more)
    assert key in refused(replica, old, CorruptError)


def test_the_error_says_where_in_the_file(backend: MemoryBackend, replica: Replica, old: Path) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    key = key_of(0, 2)
    sound = backend.get(key)
    backend.put(key, flipped(sound, len(sound) - 1))
    with pytest.raises(CorruptError, match=rf"{key} is damaged.*at byte {len(sound) - 8:,}") as caught:
        replica.restore(old, force=True)
    assert caught.value.offset == len(sound) - 8


@pytest.mark.parametrize("places", EVERYTHING_TWICE, ids=" ".join)
@pytest.mark.parametrize("target", [{}, {"txid": 6}, {"at": time_of(6)}], ids=["newest", "TXID", "time"])
def test_each_damaged_file_is_done_without(
    backend: MemoryBackend, replica: Replica, tmp_path: Path, places: Sequence[str], target: dict[str, object]
) -> None:
    HISTORY.put(backend, *places)
    output = tmp_path / "out.db"
    for file in replica.plan(txid=6).files:
        sound = backend.get(file.key)
        for damaged in (
            flipped(sound, 2),
            flipped(sound, 3),
            flipped(sound, 20),
            flipped(sound, len(sound) // 2),
            sound[:-1],
            b"",
        ):
            backend.put(file.key, damaged)
            restored = replica.restore(output, force=True, **target)  # type: ignore[arg-type]
            assert output.read_bytes() == HISTORY.state(6)
            assert (restored.txid, restored.passed_over) == (6, (file.key,))
            assert file not in restored.files
        backend.put(file.key, sound)


class Losing(MemoryBackend):
    """Loses objects when one of them is first read: between the plan and the read."""

    doomed: Sequence[str] = ()

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key in self.doomed:
            self.delete(self.doomed)
        return super().get(key, start, end)


@pytest.fixture
def losing(request: pytest.FixtureRequest) -> Losing:
    return Losing(request.node.nodeid)


@pytest.mark.parametrize("places", EVERYTHING_TWICE, ids=" ".join)
@pytest.mark.parametrize("target", [{}, {"txid": 6}], ids=["newest", "TXID"])
def test_each_vanished_file_is_done_without(
    losing: Losing, tmp_path: Path, places: Sequence[str], target: dict[str, object]
) -> None:
    HISTORY.put(losing, *places)
    replica = Replica(losing)
    output = tmp_path / "out.db"
    for file in replica.plan(txid=6).files:
        sound = losing.get(file.key)
        losing.doomed = [file.key]
        restored = replica.restore(output, force=True, **target)  # type: ignore[arg-type]
        assert output.read_bytes() == HISTORY.state(6)
        assert (restored.txid, restored.passed_over) == (6, (file.key,))
        losing.doomed = []
        losing.put(file.key, sound)


@pytest.mark.parametrize("target", [{}, {"txid": 6}, {"at": time_of(6)}], ids=["newest", "TXID", "time"])
def test_a_vanished_file_that_nothing_replaces_is_named(
    losing: Losing, old: Path, target: dict[str, object]
) -> None:
    HISTORY.put(losing, "9:1-4", "0:5", "0:6")
    losing.doomed = [key_of(0, 5)]
    with pytest.raises((NotFoundError, LTXError), match=r"0000000000000005"):
        Replica(losing).restore(old, force=True, **target)  # type: ignore[arg-type]
    assert old.read_bytes() == b"an old database"


def test_the_newest_state_is_never_one_older_than_was_listed(losing: Losing, old: Path) -> None:
    HISTORY.put(losing, "9:1-4", "0:5", "0:6")
    losing.doomed = [key_of(0, 6)]
    assert key_of(0, 6) in refused(Replica(losing), old, NotFoundError)


class Merging(Losing):
    """Merges level 0 with what was committed meanwhile, and prunes it, while a restore runs."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key in self.doomed and key_of(1, 5, 9) not in (info.key for info in self.list()):
            HISTORY.put(self, "1:5-9")
        return super().get(key, start, end)


@pytest.fixture
def merging(request: pytest.FixtureRequest) -> Merging:
    backend = Merging(request.node.nodeid)
    HISTORY.put(backend, "9:1-4", "0:5", "0:6")
    backend.doomed = [key_of(0, 5), key_of(0, 6)]
    return backend


def test_the_newest_state_moves_on_when_what_was_listed_is_merged_with_later_transactions(
    merging: Merging, tmp_path: Path
) -> None:
    restored = Replica(merging).restore(tmp_path / "out.db")
    assert restored.path.read_bytes() == HISTORY.state(9)
    assert (restored.txid, restored.time) == (9, time_of(9))


def test_a_txid_that_was_asked_for_never_moves(merging: Merging, old: Path) -> None:
    with pytest.raises(NotFoundError, match=re.escape(key_of(0, 5))):
        Replica(merging).restore(old, force=True, txid=6)
    assert old.read_bytes() == b"an old database"


def test_planning_anew_has_an_end(backend: MemoryBackend, replica: Replica, old: Path) -> None:
    for level in range(1, 9):
        key = store(backend, level, HISTORY.file(1, 6))
        backend.put(key, b"damaged")
    assert "is damaged" in refused(replica, old, CorruptError)
    assert backend.stats.requests["list"] <= 6


def test_a_file_that_is_longer_than_listed_is_never_half_read(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    """A file grew between listing and read, as uploads without atomicity do."""
    HISTORY.put(backend, "0:1", "0:2")
    key = key_of(0, 2)
    sound = backend.get(key)
    backend.put(key, sound[:PAGE_SIZE])
    files = replica.files()
    backend.put(key, sound)
    with pytest.raises(CorruptError, match=key):
        replica.use(replica.plan(files=files), lambda wanted: _apply(replica, wanted, tmp_path / "out.db"))
    assert replica.restore(tmp_path / "whole.db").path.read_bytes() == HISTORY.state(2)


def _apply(replica: Replica, files: Sequence[object], path: Path) -> None:
    from ltx.replica.apply import apply_files

    with open(path, "wb") as file:
        apply_files(replica.backend, files, file.fileno())  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [23, 31])
def test_a_header_that_names_other_txids_than_the_file_gives_no_time(place: int) -> None:
    backend = MemoryBackend(f"names-{place}")
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    key = key_of(0, 2)
    backend.put(key, flipped(backend.get(key), place))
    replica = Replica(backend)
    with pytest.raises(CorruptError, match=re.escape(key)):
        replica.times([file.max_txid for file in replica.files()], replica.files())
