"""Merges when inputs are damaged or vanish, when names are taken, and when the process ends anywhere."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from backends import Capabilities, UnavailableError
from backends.memory import MemoryBackend
from backends.testing.support import at_once
from ltx import ConflictError, CorruptError, Replica
from ltx.replica.compaction import LocalFiles, compact, snapshot
from ltx.replica.layout import FOLDERS
from ltx.replica.levels import LevelPolicy
from tests.support.ltxfiles import FileSpec, literal_block
from tests.support.measure import peak_memory
from tests.test_replica.histories import PAGE_SIZE, History, store, time_of
from tests.test_replica.upkeep import Killed, Stepping, checked, copy_of, merged

HISTORY = History.random(12, seed=5)
HOUR = LevelPolicy((timedelta(hours=1),))
SOME = (*(f"0:{txid}" for txid in range(1, 10)), "1:1-4")


def key_of(level: int, first: int, last: int | None = None) -> str:
    return FOLDERS.key(level, first, first if last is None else last)


def damaged(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_a_bit_that_is_wrong_anywhere_in_any_input_stops_the_merge(
    backend: MemoryBackend, replica: Replica
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    for txid in (1, 2, 3):
        key = key_of(0, txid)
        whole = backend.get(key)
        for place in range(0, len(whole), 13):
            backend.put(key, damaged(whole, place))
            with pytest.raises(CorruptError, match=key):
                compact(replica, 1, policy=HOUR)
            assert merged(replica, 1) == []
        backend.put(key, whole)
    assert len(compact(replica, 1, policy=HOUR)) == 1


@pytest.mark.parametrize("size", [0, 1, 99, 100, 150])
def test_an_input_that_is_cut_short_stops_the_merge(
    backend: MemoryBackend, replica: Replica, size: int
) -> None:
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    backend.put(key_of(0, 2), backend.get(key_of(0, 2))[:size])
    with pytest.raises(CorruptError, match=key_of(0, 2)):
        compact(replica, 1, policy=HOUR)
    assert merged(replica, 1) == []


def test_an_object_that_does_not_show_all_of_itself_yet_is_not_merged(
    backend: MemoryBackend, replica: Replica
) -> None:
    class HalfVisible(Stepping):
        def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            return super().get(key, start, end)[:-7]

    HISTORY.put(backend, "0:1", "0:2")
    with pytest.raises(UnavailableError, match="bytes where"):
        compact(Replica(HalfVisible(backend, lambda *_: None)), 1, policy=HOUR)
    assert merged(replica, 1) == []


def test_inputs_that_vanish_are_merged_from_a_new_listing(backend: MemoryBackend, tmp_path: Path) -> None:
    """Another one merged and pruned them meanwhile."""
    HISTORY.put_all(backend)
    pruned: list[str] = []

    def before(verb: str, key: str) -> None:
        if verb == "get" and not pruned:
            pruned.append(key)
            HISTORY.put(backend, "1:1-7")
            backend.delete([key_of(0, txid) for txid in range(1, 8)])

    [made] = compact(Replica(Stepping(backend, before)), 1, policy=HOUR)
    assert (made.file.min_txid, made.file.max_txid) == (8, 12)
    assert checked(Replica(backend), HISTORY, tmp_path) == [7, 8, 9, 10, 11, 12]


def test_inputs_that_vanish_all_the_time_are_an_error(backend: MemoryBackend) -> None:
    class Vanishing(Stepping):
        def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            return self.backend.get(key + "-gone", start, end)

    HISTORY.put_all(backend)
    with pytest.raises(FileNotFoundError):
        compact(Replica(Vanishing(backend, lambda *_: None)), 1)
    assert backend.stats.requests["list"] == 5


def test_files_of_level_0_that_still_lie_here_are_not_downloaded(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    here = tmp_path / "ltx"
    here.mkdir()
    for file in replica.files(0):
        (here / file.name).write_bytes(backend.get(file.key))
    before = backend.stats.requests["get"]
    compact(replica, 1, policy=HOUR, local=LocalFiles(here))
    assert backend.stats.requests["get"] == before
    assert checked(replica, HISTORY, tmp_path) == list(range(1, 13))


def test_a_local_file_that_is_damaged_missing_or_of_another_size_is_downloaded(
    backend: MemoryBackend, replica: Replica, tmp_path: Path
) -> None:
    HISTORY.put_all(backend)
    here = tmp_path / "ltx"
    here.mkdir()
    for file in replica.files(0):
        (here / file.name).write_bytes(backend.get(file.key))
    (here / name_of(3)).unlink()
    (here / name_of(4)).write_bytes(b"short")
    whole = (here / name_of(5)).read_bytes()
    (here / name_of(5)).write_bytes(damaged(whole, 110))
    os.truncate(here / name_of(7), 0)
    (here / name_of(8)).write_bytes(bytes(len(backend.get(key_of(0, 8)))))
    [made] = compact(replica, 1, policy=HOUR, local=LocalFiles(here))
    assert (made.file.min_txid, made.file.max_txid) == (1, 12)
    assert checked(replica, HISTORY, tmp_path) == list(range(1, 13))


def test_local_files_that_go_while_a_merge_runs_are_downloaded_by_the_same_merge(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    """A replicator removes what it uploaded: with a slow storage that goes on faster than the merge."""
    here = tmp_path / "ltx"
    here.mkdir()

    class Removing(Stepping):
        def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            for path in here.iterdir():
                path.unlink()
            return self.backend.get(key, start, end)

    HISTORY.put_all(backend)
    replica = Replica(Removing(backend, lambda *_: None))
    for file in replica.files(0)[1:]:
        (here / file.name).write_bytes(backend.get(file.key))
    before = dict(backend.stats.requests)
    [made] = compact(replica, 1, policy=HOUR, local=LocalFiles(here))
    assert (made.file.min_txid, made.file.max_txid) == (1, 12)
    assert backend.stats.requests["get"] - before["get"] == 12
    assert backend.stats.requests["list"] - before["list"] == 1
    assert checked(replica, HISTORY, tmp_path) == list(range(1, 13))


def name_of(txid: int) -> str:
    return f"{txid:016x}-{txid:016x}.ltx"


def _other_bytes(spec: FileSpec) -> FileSpec:
    return replace(spec, timestamp_ms=7, payloads={pgno: literal_block(page) for pgno, page in spec.content})


def test_an_equal_file_under_the_name_is_as_good_whatever_its_bytes_and_time(
    backend: MemoryBackend, replica: Replica
) -> None:
    """Our own retry, or another one that merges: the listing did not show it yet."""
    HISTORY.put(backend, "0:1", "0:2", "0:3")
    files = replica.files()
    theirs = _other_bytes(HISTORY.file(1, 3)).encode()
    backend.put(key_of(1, 1, 3), theirs)
    [made] = compact(replica, 1, policy=HOUR, files=files)
    assert not made.is_new
    assert made.file.size == len(theirs)
    assert backend.get(key_of(1, 1, 3)) == theirs


@pytest.mark.parametrize("change", ["page", "commit", "fewer", "more"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_different_file_under_the_name_is_a_conflict(
    backend: MemoryBackend, replica: Replica, change: str, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MemoryBackend, "capabilities", Capabilities(put_if_absent=exclusive, timestamps=True, atomic_put=True)
    )
    page = bytes(PAGE_SIZE)
    store(backend, 0, HISTORY.file(1))
    store(backend, 0, FileSpec(pages={1: page, 2: page}, min_txid=2, commit=5))
    store(backend, 0, FileSpec(pages={1: page, 3: page}, min_txid=3, commit=5))
    HISTORY.put(backend, "1:1")
    spec = {
        "page": FileSpec(pages={1: page, 2: page, 3: page[:-1] + b"!"}, commit=5),
        "commit": FileSpec(pages={1: page, 2: page, 3: page}, commit=4),
        "fewer": FileSpec(pages={1: page, 2: page}, commit=5),
        "more": FileSpec(pages=dict.fromkeys(range(1, 5), page), commit=5),
    }[change]
    files = replica.files()
    theirs = replace(spec, min_txid=2, max_txid=3)
    store(backend, 1, theirs)
    with pytest.raises(ConflictError) as caught:
        compact(replica, 1, policy=HOUR, files=files)
    assert caught.value.key == key_of(1, 2, 3)
    assert backend.get(key_of(1, 2, 3)) == theirs.encode()


def test_a_damaged_file_under_the_name_stays_and_is_named(backend: MemoryBackend, replica: Replica) -> None:
    HISTORY.put(backend, "0:1", "0:2")
    files = replica.files()
    backend.put(key_of(1, 1, 2), b"damaged")
    with pytest.raises(CorruptError, match=key_of(1, 1, 2)):
        compact(replica, 1, policy=HOUR, files=files)
    assert backend.get(key_of(1, 1, 2)) == b"damaged"


def _everything(replica: Replica) -> None:
    for level in (1, 2, 3):
        compact(replica, level, policy=LevelPolicy((timedelta(seconds=4),) * 3))
    snapshot(replica)


def test_killed_before_any_call_nothing_is_lost_and_the_next_run_ends_the_work(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    HISTORY.put(backend, *SOME)
    calls: list[str] = []
    _everything(Replica(Stepping(copy_of(backend, "killed"), lambda *call: calls.append(call[0]))))
    assert {"list", "get", "put", "done"} <= set(calls)
    whole = [(file.level, file.max_txid) for file in Replica(MemoryBackend("killed")).files()]
    for place in range(len(calls)):
        copy = copy_of(backend, "killed")
        with pytest.raises(Killed):
            _everything(Replica(Stepping.killed_after(copy, place)))
        assert checked(Replica(copy), HISTORY, tmp_path) == list(range(1, 10))
        _everything(Replica(copy))
        assert checked(Replica(copy), HISTORY, tmp_path) == list(range(1, 10))
        assert {each for each in whole if each[0] in (1, 9)} <= {
            (file.level, file.max_txid) for file in Replica(copy).files()
        }
        assert Replica(copy).verify().is_sound


def _meanwhile(backend: MemoryBackend, place: int) -> Callable[[str, str], None]:
    """Return what lets another one do everything before a call, once."""
    left = place

    def before(_: str, __: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            HISTORY.put(backend, "0:10", "0:11")
            _everything(Replica(backend))

    return before


def test_two_that_do_the_same_at_the_same_time_disturb_each_other_nowhere(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    """The second one runs whole before each call of the first, also while newer files arrive."""
    HISTORY.put(backend, *SOME)
    calls: list[str] = []
    _everything(Replica(Stepping(copy_of(backend, "two"), lambda *call: calls.append(call[0]))))
    for place in range(len(calls)):
        copy = copy_of(backend, "two")

        before = _meanwhile(copy, place)
        _everything(Replica(Stepping(copy, before)))
        HISTORY.put(copy, "0:12")
        _everything(Replica(copy))
        assert checked(Replica(copy), HISTORY, tmp_path) == list(range(1, 13))
        assert Replica(copy).verify().is_sound
        assert max(file.max_txid for file in Replica(copy).files(9)) == 12


def _do_everything(backend: MemoryBackend, _: int) -> None:
    _everything(Replica(backend))


def test_many_threads_that_merge_at_once(backend: MemoryBackend, tmp_path: Path) -> None:
    HISTORY.put_all(backend)
    for _ in range(5):
        copy = copy_of(backend, "threads")
        assert at_once(4, partial(_do_everything, copy)) == [None] * 4
        assert checked(Replica(copy), HISTORY, tmp_path) == list(range(1, 13))
        assert Replica(copy).verify().is_sound


def test_thousands_of_files_are_merged_with_a_bounded_number_open_and_in_memory(
    backend: MemoryBackend, replica: Replica
) -> None:
    def merge_of(count: int) -> int:
        for txid in range(1, count + 1):
            page = txid.to_bytes(2, "big") * (PAGE_SIZE // 2)
            commit = min(txid, 50)
            pages = {commit if txid <= 50 else txid % 50 + 1: page}
            store(backend, 0, FileSpec(pages=pages, min_txid=txid, commit=commit, timestamp_ms=_ms(txid % 9)))
        before = backend.stats.requests
        peak = peak_memory(lambda: compact(replica, 1, policy=HOUR))
        after = backend.stats.requests
        assert {kind: after[kind] - before[kind] for kind in ("list", "get", "put", "head")} == {
            "list": 1,
            "get": count,
            "put": 1,
            "head": 0,
        }
        assert merged(replica, 1) == [(1, count)]
        backend.delete([file.key for file in replica.files()])
        return peak

    few, many = merge_of(300), merge_of(3000)
    assert many < few + 4_000_000  # the listing alone takes 600 bytes a file


def _ms(seconds: int) -> int:
    return int(time_of(seconds).timestamp() * 1000)


def test_big_files_are_read_in_pieces_and_memory_stays_flat(backend: MemoryBackend, replica: Replica) -> None:
    """16 MB in 2 files cost about as much memory as 4 MB do."""

    def merge_of(page_count: int) -> int:
        source = History.random(1).specs[0]
        big = {pgno: os.urandom(16384) for pgno in range(1, page_count + 1)}
        spec = replace(source, pages=big, page_size=16384, commit=page_count, max_txid=1, file_checksum=None)
        store(backend, 0, _quick(spec))
        store(backend, 0, _quick(replace(spec, min_txid=2, max_txid=2)))
        peak = peak_memory(lambda: compact(replica, 1, policy=HOUR))
        backend.delete([file.key for file in replica.files()])
        return peak - 2 * page_count * 16384  # the storage's own copy of the result is not ours

    assert merge_of(512) < merge_of(128) + 12_000_000


def _quick(spec: FileSpec) -> FileSpec:
    """Let `ltx.format` encode it: the oracle's checksum takes a second a megabyte."""

    class Quick(FileSpec):
        def encode(self) -> bytes:
            from ltx.format import TXID, Encoder, Header

            header = Header(
                page_size=self.page_size,
                commit=self.page_count,
                min_txid=TXID(self.min_txid),
                max_txid=TXID(self.last_txid),
                timestamp_ms=self.timestamp_ms,
            )
            return b"".join(Encoder(header, self.content))

    return Quick(
        **{name: getattr(spec, name) for name in ("pages", "page_size", "commit", "min_txid", "max_txid")}
    )
