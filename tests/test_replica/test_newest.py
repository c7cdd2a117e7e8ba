"""Listing what leads to the newest state: one request for up to 1,000 keys, a few beyond, and never an older state."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest

from backends import ObjectInfo, Page, open_backend
from backends.memory import MemoryBackend
from backends.obstore_s3 import ObstoreS3Backend
from backends.s3 import S3Backend
from ltx.replica.files import files_of
from ltx.replica.layout import FLAT, FOLDERS, Layout, native_layout
from ltx.replica.newest import NewestLister
from ltx.replica.plan import extend, reach_of
from tests.servers.seaweedfs import S3Server

_names = itertools.count()


class Paged(MemoryBackend):
    """Names in pages, as S3 lists them; each page is a request."""

    def __init__(self, keys: Iterable[str] = (), *, page_size: int = 1000) -> None:
        super().__init__(f"paged-{next(_names)}")
        self.page_size, self.counted = page_size, 0
        self.waves: list[int] = []
        self.add(*keys)

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        raise NotImplementedError

    def add(self, *keys: str) -> None:
        for key in keys:
            self.put(key, b"")

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        found = tuple(super().list(prefix, start_after=start_after))
        for _ in range(self.page_size, len(found), self.page_size):
            self.stats.count("list")
        return iter(found)

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        found = tuple(super().list(prefix, start_after=start_after))
        return Page(found[: self.page_size], len(found) <= self.page_size)

    def list_pages(self, places: Sequence[tuple[str, str]]) -> Sequence[Page]:
        self.waves.append(len(places))
        return super().list_pages(places)

    def lists(self) -> int:
        """Count the requests since the last time."""
        before, self.counted = self.counted, self.stats.requests.get("list", 0)
        return self.counted - before


def zero(first: int, last: int, layout: Layout = FLAT) -> list[str]:
    """Name the files of level 0."""
    return [layout.key(0, txid, txid) for txid in range(first, last + 1)]


def merged(level: int, first: int, last: int, span: int, layout: Layout = FLAT) -> list[str]:
    """Name the files of a level, each of so many TXIDs."""
    return [layout.key(level, begin, min(last, begin + span - 1)) for begin in range(first, last + 1, span)]


def snapshots(*txids: int, layout: Layout = FLAT) -> list[str]:
    return [layout.key(9, 1, txid) for txid in txids]


def check(backend: Paged, lister: NewestLister) -> bool:
    """See that what is listed gives what all of it gives; return whether it was all."""
    whole, layout = files_of(MemoryBackend.list(backend), native_layout(backend.scheme))
    listing = lister.list()
    assert listing.layout == layout
    reach, wanted = reach_of(listing.files), reach_of(whole)
    assert reach.txids[-1:] == wanted.txids[-1:]
    assert set(listing.files) <= set(whole)
    base = max((file.max_txid for file in whole if file.level == 9), default=0)
    following = extend((file for file in listing.files if file.level < 9), base)
    assert [base, *(file.max_txid for file in following)][-1] == wanted.txids[-1]
    return listing.is_whole


@pytest.mark.parametrize(
    ("keys", "first", "again"),
    [
        pytest.param(zero(1, 999) + snapshots(990), 1, 1, id="1,000 keys: one page"),
        pytest.param(zero(1, 1000) + snapshots(990), 4, 4, id="1,001 keys: two more places, one tail"),
        pytest.param(zero(1, 49_999) + snapshots(49_990), 4, 4, id="50,000 keys: no more than for 1,001"),
        pytest.param(
            zero(10_001, 10_300) + merged(1, 1, 10_290, 3) + merged(2, 1, 10_200, 30) + snapshots(5000, 9000),
            4,
            4,
            id="a long level 1, as in a day of the usual intervals",
        ),
        pytest.param(zero(1, 2500) + merged(1, 1, 2490, 2) + snapshots(2000), 5, 5, id="two long levels"),
        pytest.param(zero(1, 3000) + snapshots(1500), 6, 6, id="a tail longer than a page: a look, then all of it"),
        pytest.param(
            zero(9001, 9100) + merged(1, 1, 9090, 3) + merged(2, 1, 9000, 6) + merged(3, 1, 8000, 800) + snapshots(9000),
            14,
            14,
            id="long levels above, too: level by level",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", [FLAT, FOLDERS], ids=["flat", "folders"])
def test_requests_for_a_listing(keys: list[str], first: int, again: int, layout: Layout) -> None:
    backend = Paged(key if layout == FLAT else f"ltx/{int(key[:4])}/{key[5:]}" for key in keys)
    backend.add("lineage.json")
    if len(keys) == 1000:
        backend.delete([*zero(1, 1, layout)])
    backend.lists()
    lister = NewestLister(backend)
    for count in (first, again, again):
        listing = lister.list()
        assert backend.lists() == count
        assert listing.is_whole == (count == 1)
    check(backend, lister)


def test_round_trips_do_not_grow_with_the_number_of_files() -> None:
    backend = Paged([*zero(1, 20_000), *merged(1, 1, 19_990, 5), *snapshots(19_000)])
    lister = NewestLister(backend)
    check(backend, lister)
    assert backend.waves == [1, 2, 2], (
        "what there is at all; level 1 and the rest; the tails of levels 0 and 1"
    )
    backend.waves.clear()
    check(backend, lister)
    assert backend.waves == [3, 2], "that there are many is known"


def test_a_file_that_begins_before_the_snapshot_and_ends_after_it_is_found() -> None:
    """What it held is pruned from level 0, but for the newest: nothing else leads on from the snapshot."""
    backend = Paged([*merged(1, 1, 6000, 4), *snapshots(5998), *zero(6000, 6000)])
    lister = NewestLister(backend)
    assert not check(backend, lister)
    assert reach_of(lister.list().files).txids[-1] == 6000


def test_a_file_that_begins_long_before_the_snapshot_is_found_by_listing_its_level() -> None:
    """The files that the level begins with do not tell how long its later ones are."""
    backend = Paged(
        [*merged(1, 1, 2400, 2), *merged(1, 2401, 9000, 3300), *snapshots(8000), *zero(9000, 9000)]
    )
    lister = NewestLister(backend)
    assert not check(backend, lister)
    backend.lists()
    lister.list()
    assert backend.lists() == 4 + 2, "the tail holds no file that begins early enough"


def test_without_a_snapshot_all_of_a_long_level_is_listed() -> None:
    backend = Paged(zero(1, 2500))
    lister = NewestLister(backend)
    check(backend, lister)
    assert len(lister.list().files) == 2500


def test_a_replica_that_becomes_short_again_takes_one_request() -> None:
    backend = Paged([*zero(1, 1500), *snapshots(1400)])
    lister = NewestLister(backend)
    assert not check(backend, lister)
    backend.delete(zero(1, 1399))
    assert check(backend, lister)
    backend.lists()
    assert lister.list().is_whole
    assert backend.lists() == 1


def test_files_in_both_layouts_are_all_listed() -> None:
    backend = Paged([*zero(1, 1500), *snapshots(1400)])
    lister = NewestLister(backend)
    assert not check(backend, lister)
    backend.add(*zero(1501, 1502, FOLDERS))
    assert check(backend, lister)
    assert reach_of(lister.list().files).txids[-1] == 1502
    folders = Paged([*zero(1, 1500, FOLDERS), *snapshots(1400, layout=FOLDERS)])
    lister = NewestLister(folders)
    assert not check(folders, lister)
    folders.add(*zero(1501, 1502))
    assert check(folders, lister)


@pytest.mark.parametrize("seed", range(60))
def test_any_replica_that_compaction_and_retention_leave_is_listed_as_far_as_it_goes(seed: int) -> None:
    """Levels without overlaps, pruned up to anywhere but for their newest file; snapshots anywhere."""
    chance = random.Random(seed)
    newest = chance.randrange(5, 400)
    keys, below, reached = [], 1, newest
    levels: list[list[str]] = []
    for level in range(chance.randrange(1, 6)):
        span = 1 if not level else chance.randrange(below, below * 8)
        end = newest if not level else chance.randrange(reached // 2, reached + 1)
        levels.append(merged(level, 1, end, span))
        below, reached = span, end
    base = 1 + chance.randrange(reached + 1)
    keys += snapshots(*{chance.randrange(1, base + 1), base})
    for level, names in enumerate(levels):
        gone = 0 if chance.random() < 0.3 else max(0, sum(int(key[22:38], 16) <= base for key in names) - 1)
        if level + 1 < len(levels):  # what the level above holds can go, too
            held = max((int(key[22:38], 16) for key in levels[level + 1]), default=0)
            covered = sum(int(key[22:38], 16) <= held for key in names)
            gone = max(gone, min(len(names) - 1, chance.randrange(covered + 1)))
        keys += names[gone:]
    backend = Paged(keys, page_size=chance.choice([2, 5, 20]))
    lister = NewestLister(backend)
    check(backend, lister)
    check(backend, lister)


def test_on_an_s3_server_with_obstore_and_without(s3_server: S3Server, s3_url: str) -> None:
    with open_backend(s3_url, **s3_server.options) as backend, ThreadPoolExecutor(16) as pool:
        keys = [*zero(1, 1100), *merged(1, 1, 1096, 4), *snapshots(1090), "lineage.json", "z/other"]
        list(pool.map(lambda key: backend.put(key, b"x"), keys))
        assert type(backend) is ObstoreS3Backend
        for kind in (ObstoreS3Backend, S3Backend):
            with kind.from_url(s3_url, **s3_server.options) as reader:
                listing = NewestLister(reader).list()
                assert reader.stats.requests == {"list": 4}
                assert not listing.is_whole
                assert reach_of(listing.files).txids[-1] == 1100
                assert sum(file.level == 0 for file in listing.files) < 30
