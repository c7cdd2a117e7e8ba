"""Which transaction was the last one at a time, and what it costs to find out (docs/formats/replica.md, Times)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import NotFoundError, Piece
from backends.memory import MemoryBackend
from ltx import CorruptError, GapError, NoSnapshotError, NotReachableError, Replica, UnsupportedVersionError
from ltx.format import TXID, to_timestamp_ms
from ltx.replica.layout import FOLDERS
from ltx.replica.times import last_at
from tests.support.ltxfiles import FileSpec
from tests.test_replica.histories import BEGIN, PAGE_SIZE, History, store, time_of

MS = timedelta(milliseconds=1)


def tiny(first: int, last: int, time: datetime) -> FileSpec:
    """A file of one page with a time of its own."""
    pages = {1: bytes(PAGE_SIZE)}
    return FileSpec(pages=pages, min_txid=first, max_txid=last, timestamp_ms=to_timestamp_ms(time))


@pytest.mark.parametrize("txid", [2, 3, 7, 11])
def test_a_transaction_belongs_to_its_very_millisecond(
    backend: MemoryBackend, replica: Replica, txid: int
) -> None:
    History.random(12).put_all(backend)
    assert replica.plan(at=time_of(txid) - MS).txid == txid - 1
    assert replica.plan(at=time_of(txid)).txid == txid
    assert replica.plan(at=time_of(txid) + MS).txid == txid


def test_times_may_be_given_as_text(backend: MemoryBackend, replica: Replica) -> None:
    History.random(12).put_all(backend)
    assert replica.plan(at="2026-09-21T12:00:05Z").txid == 5
    assert replica.plan(at="2026-09-21 14:00:05+02:00").txid == 5
    assert replica.plan(at="1790000000000").txid == 12
    assert replica.plan(at="1 minute ago").txid == 12
    assert replica.plan(at="now").txid == 12


def test_the_storage_s_own_times_do_not_count(backend: MemoryBackend, replica: Replica) -> None:
    History.random(3).put_all(backend)
    assert all(file.modified and file.modified > time_of(3) for file in replica.files())
    assert replica.plan(at=time_of(2)).txid == 2


def test_a_snapshot_made_later_does_not_move_its_transaction(
    backend: MemoryBackend, replica: Replica
) -> None:
    history = History.random(8)
    history.put(backend, "0:1", "0:2", "0:3", "0:4", "0:5", "0:6")
    store(backend, 9, history.file(1, 3, later_s=2.5))
    assert [replica.plan(at=time_of(txid)).txid for txid in range(1, 7)] == [1, 2, 3, 4, 5, 6]
    assert list(replica.times([TXID(3)], replica.files())) == [time_of(3)]


def test_a_merged_file_has_the_time_of_its_last_transaction(backend: MemoryBackend, replica: Replica) -> None:
    History.random(8).put(backend, "0:1", "0:2", "1:3-6", "0:7")
    assert [replica.plan(at=time_of(txid)).txid for txid in range(1, 8)] == [1, 2, 2, 2, 2, 6, 7]


def test_three_thousand_files_cost_few_header_reads(replica: Replica, backend: MemoryBackend) -> None:
    for txid in range(1, 3001):
        store(backend, 0, tiny(txid, txid, time_of(txid)))
    before = backend.stats
    gets, received = before.requests.get("get", 0), before.received
    assert replica.plan(at=time_of(1234)).txid == 1234
    reads = backend.stats.requests["get"] - gets
    assert reads <= 30
    assert backend.stats.received - received == 100 * reads
    assert backend.stats.requests["list"] == 1


def test_a_search_takes_few_round_trips() -> None:
    calls: list[int] = []

    def times_of(txids: Sequence[TXID]) -> Sequence[datetime]:
        calls.append(len(txids))
        return [time_of(txid) for txid in txids]

    txids = [TXID(txid) for txid in range(1, 3001)]
    for wanted in (1, 2, 1499, 2999, 3000):
        calls.clear()
        assert last_at(txids, time_of(wanted), times_of) == wanted
        assert len(calls) <= 4
        assert max(calls) <= 7


def test_headers_are_read_once(backend: MemoryBackend, replica: Replica) -> None:
    History.random(12).put_all(backend)
    replica.plan(at=time_of(5))
    gets = backend.stats.requests["get"]
    assert replica.plan(at=time_of(5)).txid == 5
    assert backend.stats.requests["get"] == gets


def test_a_file_that_was_replaced_is_read_again(backend: MemoryBackend, replica: Replica) -> None:
    store(backend, 0, tiny(1, 1, time_of(1)))
    assert replica.plan(at=time_of(5)).txid == 1
    store(backend, 0, tiny(1, 1, time_of(9)))
    with pytest.raises(NotReachableError):
        replica.plan(at=time_of(5))


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.integers(-1, 31),
)
def test_where_the_clock_never_went_back_the_search_is_exact(steps: list[int], at: int) -> None:
    seconds = sorted(steps)
    expected = max((txid for txid, second in enumerate(seconds, 1) if second <= at), default=None)
    assert searched(seconds, at) == expected


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.integers(-1, 31),
)
def test_where_the_clock_went_back_the_answer_is_by_then_and_the_next_one_is_later(
    seconds: list[int], at: int
) -> None:
    found = searched(seconds, at)
    if found is None:
        assert seconds[0] > at
    else:
        assert seconds[found - 1] <= at
        assert found == len(seconds) or seconds[found] > at


def searched(seconds: Sequence[int], at: int) -> int | None:
    txids = [TXID(txid) for txid in range(1, len(seconds) + 1)]

    def times_of(some: Sequence[TXID]) -> Sequence[datetime]:
        return [BEGIN + timedelta(seconds=seconds[txid - 1]) for txid in some]

    try:
        return last_at(txids, BEGIN + timedelta(seconds=at), times_of)
    except NotReachableError as error:
        assert error.after == 1  # noqa: PT017
        return None


def test_a_clock_that_was_set_back_hides_no_other_transaction(
    backend: MemoryBackend, replica: Replica
) -> None:
    """An hour ahead for TXIDs 3 and 4: states before and after are found by their times."""
    hour = timedelta(hours=1)
    for txid in range(1, 9):
        store(backend, 0, tiny(txid, txid, time_of(txid) + (hour if txid in (3, 4) else timedelta(0))))
    assert replica.plan(at=time_of(2)).txid == 2
    assert replica.plan(at=time_of(8)).txid in (2, 8)
    assert replica.plan(at=time_of(4) + hour).txid == 8
    restorable = replica.verify().restorable
    times = [state.time for state in restorable]
    assert times == sorted(times)


def test_before_the_oldest_the_oldest_is_named(backend: MemoryBackend, replica: Replica) -> None:
    History.random(8).put(backend, "9:1-4", "0:5", "0:6")
    with pytest.raises(NotReachableError, match=r"0000000000000004 of 2026-09-21T12:00:04\.000Z") as caught:
        replica.plan(at=time_of(4) - MS)
    assert (caught.value.before, caught.value.after) == (None, 4)


def test_the_future_is_refused_and_the_newest_is_named(backend: MemoryBackend, replica: Replica) -> None:
    History.random(3).put_all(backend)
    now = datetime.now(UTC)
    with pytest.raises(
        NotReachableError, match="in the future; the newest is TXID 0000000000000003"
    ) as caught:
        replica.plan(at=now + timedelta(hours=1))
    assert caught.value.before == 3
    assert replica.plan(at=now + timedelta(minutes=1)).txid == 3  # clocks differ


def test_a_time_that_the_writer_s_fast_clock_stated_is_not_the_future(
    backend: MemoryBackend, replica: Replica
) -> None:
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    store(backend, 0, tiny(1, 1, time_of(1)))
    store(backend, 0, tiny(2, 2, ahead))
    assert replica.plan(at=ahead).txid == 2
    assert replica.plan(at=ahead - MS).txid == 1
    with pytest.raises(NotReachableError, match="in the future"):
        replica.plan(at=ahead + MS)


def test_a_time_beyond_a_gap_is_refused_and_one_before_it_is_not(
    backend: MemoryBackend, replica: Replica
) -> None:
    History.random(9).put(backend, "0:1", "0:2", "0:6", "0:7")
    assert replica.plan(at=time_of(1)).txid == 1
    assert replica.plan(at=time_of(5)).txid == 2
    for at in (time_of(6), time_of(7), datetime.now(UTC)):
        with pytest.raises(GapError, match="0000000000000003 to 0000000000000005") as caught:
            replica.plan(at=at)
        assert (caught.value.after, caught.value.before) == (2, 6)


def test_an_empty_replica_and_one_without_a_beginning_have_no_time(
    backend: MemoryBackend, replica: Replica
) -> None:
    with pytest.raises(NoSnapshotError, match="check the URL"):
        replica.plan(at=time_of(1))
    store(backend, 9, tiny(2, 5, time_of(5)))
    with pytest.raises(NoSnapshotError, match="do not begin at TXID 1"):
        replica.plan(at=time_of(9))
    store(backend, 0, tiny(3, 3, time_of(3)))
    with pytest.raises(NoSnapshotError, match="nothing can be restored"):
        replica.plan(at=time_of(9))


def test_a_time_and_a_txid_together_are_refused(replica: Replica) -> None:
    with pytest.raises(ValueError, match="not both"):
        replica.plan(at="now", txid=1)


def spoil(backend: MemoryBackend, level: int, txid: int, replacement: bytes = b"JUNK") -> str:
    key = FOLDERS.key(level, txid, txid)
    backend.put(key, replacement + backend.get(key)[len(replacement) :])
    return key


def test_a_damaged_header_far_from_the_answer_does_not_matter(
    backend: MemoryBackend, replica: Replica
) -> None:
    History.random(9).put(backend, *(f"0:{txid}" for txid in range(1, 10)), "9:1-9")
    for txid in (1, 5, 9):
        spoil(backend, 0, txid)
    assert [replica.plan(at=time_of(txid)).txid for txid in (2, 6, 9)] == [2, 6, 9]


@pytest.mark.parametrize(("damage", "kind"), [(b"JUNK", CorruptError), (b"LTX7", UnsupportedVersionError)])
@pytest.mark.parametrize("txid", [1, 5])
def test_a_damaged_header_next_to_the_answer_is_named(
    backend: MemoryBackend, replica: Replica, txid: int, damage: bytes, kind: type[Exception]
) -> None:
    History.random(9).put_all(backend)
    key = spoil(backend, 0, txid, damage)
    with pytest.raises(kind, match=key):
        replica.plan(at=time_of(txid) + MS)


def test_where_every_header_is_damaged_the_first_is_named(backend: MemoryBackend, replica: Replica) -> None:
    History.random(2).put_all(backend)
    keys = [spoil(backend, 0, txid) for txid in (1, 2)]
    with pytest.raises(CorruptError, match=keys[0]):
        replica.plan(at=time_of(2))


def test_headers_name_the_file_that_has_none(backend: MemoryBackend, replica: Replica) -> None:
    History.random(3).put_all(backend)
    key = spoil(backend, 0, 2)
    with pytest.raises(CorruptError, match=key):
        replica.headers(replica.files())
    with pytest.raises(CorruptError, match=key):
        replica.times([TXID(2)], replica.files())


class Pruning(MemoryBackend):
    """Loses objects between the listing and the first read."""

    doomed: Sequence[str] = ()

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        self.delete(self.doomed)
        return super().get_ranges(pieces)


def test_files_pruned_during_the_search_are_done_without(request: pytest.FixtureRequest) -> None:
    backend = Pruning(request.node.nodeid)
    history = History.random(40)
    history.put_all(backend)
    history.put(backend, "1:1-20", "1:21-39")
    backend.doomed = [FOLDERS.key(0, txid, txid) for txid in range(1, 40)]
    assert Replica(backend).plan(at=time_of(30)).txid == 20
    assert Replica(backend).plan(at=time_of(40)).txid == 40


def test_a_replica_that_vanishes_during_the_search_is_said_to_be_empty(
    request: pytest.FixtureRequest,
) -> None:
    backend = Pruning(request.node.nodeid)
    History.random(5).put_all(backend)
    backend.doomed = [info.key for info in backend.list()]
    with pytest.raises(NoSnapshotError):
        Replica(backend).plan(at=time_of(3))


class Forgetful(MemoryBackend):
    """Lists what it does not give."""

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        raise NotFoundError("gone", key=key)


def test_a_storage_that_lists_what_it_does_not_give_is_asked_a_few_times_only(
    request: pytest.FixtureRequest,
) -> None:
    backend = Forgetful(request.node.nodeid)
    History.random(5).put_all(backend)
    with pytest.raises(NotFoundError):
        Replica(backend).plan(at=time_of(3))
    assert backend.stats.requests["list"] <= 5
