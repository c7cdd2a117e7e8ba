"""What verifying finds: every damaged file, every missing TXID, and every state that can be restored."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from backends import UnavailableError
from backends.memory import MemoryBackend
from ltx import Replica
from ltx.format import TXID
from ltx.replica.layout import FOLDERS
from ltx.replica.verify import Gap, Verification
from tests.support.ltxfiles import FileSpec, varint
from tests.test_replica.histories import PAGE_SIZE, History, store, time_of

HISTORY = History.random(12, seed=5)


def faults(found: Verification) -> dict[str, str]:
    return {checked.file.key: checked.fault for checked in found.files if checked.fault}


def key_of(level: int, first: int, last: int | None = None) -> str:
    return FOLDERS.key(level, first, first if last is None else last)


def test_a_sound_replica_is_sound_and_every_state_has_its_time(
    backend: MemoryBackend, replica: Replica
) -> None:
    HISTORY.put_all(backend)
    HISTORY.put(backend, "1:1-4", "1:5-9", "2:1-9")
    store(backend, 9, HISTORY.file(1, 6, later_s=3))
    found = replica.verify()
    assert found.is_sound
    assert faults(found) == {}
    assert found.gaps == ()
    assert found.newest == 12
    assert [(state.txid, state.time) for state in found.restorable] == [
        (txid, time_of(txid)) for txid in range(1, 13)
    ]
    assert [checked.file for checked in found.files] == replica.files()
    for checked in found.files:
        expected = HISTORY.file(checked.file.min_txid, checked.file.max_txid)
        assert checked.header
        assert (checked.page_count, checked.header.commit) == (len(expected.content), expected.page_count)


def test_an_empty_replica_is_not_sound(replica: Replica) -> None:
    found = replica.verify()
    assert not found.is_sound
    assert (found.files, found.gaps, found.restorable, found.newest) == ((), (), (), 0)


@pytest.mark.parametrize("place", [0, 3, 40, 130, -20, -1])
def test_a_damaged_file_is_named_and_is_no_gap_where_others_hold_the_same(
    backend: MemoryBackend, replica: Replica, place: int
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3", "1:1-3", "0:4")
    key = key_of(0, 2)
    data = bytearray(backend.get(key))
    data[place] ^= 0x10
    backend.put(key, data)
    found = replica.verify()
    assert list(faults(found)) == [key]
    assert not found.is_sound
    assert found.gaps == ()
    assert [state.txid for state in found.restorable] == [1, 3, 4]


def test_a_damaged_file_without_others_is_a_gap_too(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3", "0:4", "0:5")
    for txid in (2, 3):
        backend.put(key_of(0, txid), b"damaged")
    found = replica.verify()
    assert list(faults(found)) == [key_of(0, 2), key_of(0, 3)]
    assert found.gaps == (Gap(TXID(2), TXID(3)),)
    assert [state.txid for state in found.restorable] == [1]


@pytest.mark.parametrize(
    ("places", "gaps", "restorable"),
    [
        (["0:1", "0:2", "0:5", "0:6", "0:9"], [(3, 4), (7, 8)], [1, 2]),
        (["0:1", "1:2-4", "0:6"], [(5, 5)], [1, 4]),
        (["0:1", "0:3", "9:1-6", "0:7"], [], [1, 6, 7]),
        (["0:4", "0:5", "0:7"], [(1, 3), (6, 6)], []),
        (["1:2-4", "0:5"], [(1, 1)], []),
        (["9:1-4", "0:2", "0:3"], [], [4]),
    ],
)
def test_missing_txids_are_told_from_the_first_to_the_newest(
    backend: MemoryBackend,
    replica: Replica,
    places: Sequence[str],
    gaps: Sequence[tuple[int, int]],
    restorable: Sequence[int],
) -> None:
    HISTORY.put(backend, *places)
    found = replica.verify()
    assert faults(found) == {}
    assert [(gap.first, gap.last) for gap in found.gaps] == gaps
    assert [state.txid for state in found.restorable] == restorable
    assert found.is_sound == (not gaps and bool(restorable))


def test_the_newest_file_damaged_leaves_an_older_newest_state(
    backend: MemoryBackend, replica: Replica
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    backend.put(key_of(0, 3), b"")
    found = replica.verify()
    assert (found.newest, found.restorable[-1].txid, found.is_sound) == (3, 2, False)
    assert found.gaps == (Gap(TXID(3), TXID(3)),)


def page(content: int) -> bytes:
    return bytes([content]) * PAGE_SIZE


def test_a_page_index_that_lies_is_found_though_the_checksum_is_right(
    backend: MemoryBackend, replica: Replica
) -> None:
    right = FileSpec(pages={1: page(1), 2: page(2)})
    frames = [(pgno, offset, len(head) + len(payload)) for pgno, offset, head, payload, _ in right.frames]
    (_, first, size), (_, second, other) = frames
    wrong = b"".join(varint(number) for number in (1, first, size + 1, 2, second + 1, other - 1)) + b"\0"
    key = store(backend, 0, FileSpec(pages=right.pages, index=wrong))
    assert "index does not say where" in faults(replica.verify())[key]
    store(backend, 0, right)
    assert replica.verify().is_sound


def test_growth_that_is_not_covered_is_found(backend: MemoryBackend, replica: Replica) -> None:
    store(backend, 0, FileSpec(pages={1: page(1)}))
    key = store(backend, 0, FileSpec(pages={1: page(2), 4: page(4)}, min_txid=2, commit=4))
    assert "grows the database to 4 pages and lacks 2" in faults(replica.verify())[key]


def test_a_name_that_is_not_the_header_s_is_found(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    backend.put(key_of(0, 3), backend.get(key_of(0, 2)))
    assert "the name says otherwise" in faults(replica.verify())[key_of(0, 3)]


def test_a_snapshot_that_does_not_begin_at_1_is_at_fault(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    backend.put(key_of(9, 2), backend.get(key_of(0, 2)))
    assert "does not begin at TXID 1" in faults(replica.verify())[key_of(9, 2)]


def test_times_never_go_back_where_the_writer_s_clock_did(backend: MemoryBackend, replica: Replica) -> None:
    for txid, seconds in enumerate((0, 50, 20, 30, 60), 1):
        timestamp_ms = HISTORY.specs[0].timestamp_ms + seconds * 1000
        store(backend, 0, FileSpec(pages={1: page(txid)}, min_txid=txid, timestamp_ms=timestamp_ms))
    begin = replica.verify().restorable[0].time
    after = [(state.time - begin) / timedelta(seconds=1) for state in replica.verify().restorable]
    assert after == [0, 50, 50, 50, 60]


def test_every_byte_is_read_once_and_the_index_once_more(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put_all(backend)
    seen: list[tuple[int, int]] = []
    replica.verify(lambda done, total: seen.append((done, total)))
    total = sum(file.size for file in replica.files())
    assert seen[-1] == (total, total)
    assert len(seen) == 12
    assert backend.stats.received < total * 1.5
    assert backend.stats.requests["get"] == 3 * 12


class Pruned(MemoryBackend):
    """Merges and prunes level 0 when it is read for the first time, as the writer's daemon may at any moment."""

    pruned = False

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key.startswith("ltx/0/") and not self.pruned:
            self.pruned = True
            HISTORY.put(self, "1:1-6")
            self.delete([key_of(0, txid) for txid in range(1, 6)])
        return super().get(key, start, end)


def test_what_is_merged_and_pruned_meanwhile_is_no_damage(request: pytest.FixtureRequest) -> None:
    backend = Pruned(request.node.nodeid)
    HISTORY.put(backend, "0:1", "0:2", "0:3", "0:4", "0:5", "0:6", "0:7")
    found = Replica(backend).verify()
    assert found.is_sound
    assert [checked.file.key for checked in found.files] == [key_of(0, 6), key_of(0, 7), key_of(1, 1, 6)]
    assert [state.txid for state in found.restorable] == [6, 7]


class Forgetful(MemoryBackend):
    """Lists an object that it does not give."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key == key_of(0, 2):
            return super().get("missing")
        return super().get(key, start, end)


def test_what_is_listed_and_not_given_is_at_fault(request: pytest.FixtureRequest) -> None:
    backend = Forgetful(request.node.nodeid)
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    found = Replica(backend).verify()
    assert list(faults(found)) == [key_of(0, 2)]
    assert found.gaps == (Gap(TXID(2), TXID(2)),)
    assert backend.stats.requests["list"] <= 5


class Silent(MemoryBackend):
    """Does not answer."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        raise UnavailableError("busy", key=key)


def test_a_storage_that_does_not_answer_says_nothing_of_the_files(request: pytest.FixtureRequest) -> None:
    backend = Silent(request.node.nodeid)
    HISTORY.put(backend, "0:1")
    with pytest.raises(UnavailableError):
        Replica(backend).verify()
