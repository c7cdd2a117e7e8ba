"""Which objects of a storage are files of a replica, in either layout (docs/formats/replica.md, Keys)."""

from collections.abc import Sequence

import pytest

from backends import ObjectInfo
from backends.memory import MemoryBackend
from ltx import Replica
from ltx.format import file_name
from ltx.replica.files import files_of
from ltx.replica.layout import FLAT, FOLDERS, native_layout, parse_key
from tests.test_replica.histories import History, store

NAME = file_name(1, 255)


def infos(*keys: str) -> Sequence[ObjectInfo]:
    return [ObjectInfo(key, 200) for key in keys]


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("layout", [FOLDERS, FLAT], ids=["folders", "flat"])
@pytest.mark.parametrize("txids", [(1, 1), (1, 255), (2**64 - 1, 2**64 - 1)])
def test_a_key_says_what_it_was_made_from(level: int, layout: object, txids: tuple[int, int]) -> None:
    assert layout in (FOLDERS, FLAT)
    made = (FOLDERS if layout is FOLDERS else FLAT).key(level, *txids)
    place = parse_key(made)
    assert place
    assert (place.layout, place.level, place.min_txid, place.max_txid) == (layout, level, *txids)


def test_keys_are_those_of_the_real_litestream() -> None:
    assert FOLDERS.key(0, 1, 255) == "ltx/0/0000000000000001-00000000000000ff.ltx"
    assert FLAT.key(9, 1, 255) == "0009/0000000000000001-00000000000000ff.ltx"


@pytest.mark.parametrize(
    "key",
    [
        NAME,
        f"ltx/{NAME}",
        f"ltx/10/{NAME}",
        f"ltx/00/{NAME}",
        f"ltx/a/{NAME}",
        f"ltx/-1/{NAME}",
        f"LTX/0/{NAME}",
        f"x/ltx/0/{NAME}",
        f"ltx/0/x/{NAME}",
        f"ltx/0/ltx/0/{NAME}",
        f"0/{NAME}",
        f"000a/{NAME}",
        f"0010/{NAME}",
        f"00000/{NAME}",
        f"x/0000/{NAME}",
        f"0000/x/{NAME}",
        f"ltx/0000/{NAME}",
        f"ltx/٣/{NAME}",
        f"ltx/0/{NAME}.tmp",
        f"ltx/0/x{NAME}",
        f"ltx/0/{NAME.upper()}",
        f"ltx/0/{NAME.replace('ff', 'FF')}",
        "ltx/0/" + NAME.replace("00ff", "00fg"),
        "ltx/0/" + file_name(0, 1),
        "ltx/0/" + file_name(2, 1),
        "ltx/0/0000000000000001.ltx",
        "ltx/0/1-1.ltx",
        f"ltx/0/{NAME}\n",
        "ltx/0/",
        "lock.json",
        "",
        "generations/0123456789abcdef/snapshots/00000001.snapshot.lz4",
    ],
)
def test_any_other_key_is_no_file_of_a_replica(key: str) -> None:
    assert parse_key(key) is None


@pytest.mark.parametrize(
    ("scheme", "layout"),
    [
        ("s3", FLAT),
        ("file", FOLDERS),
        ("memory", FOLDERS),
        ("webdav", FOLDERS),
        ("gs", FOLDERS),
        ("sftp", FOLDERS),
    ],
)
def test_each_storage_has_the_layout_of_the_real_litestream(scheme: str, layout: object) -> None:
    assert native_layout(scheme) is layout


def test_files_are_sorted_by_level_and_txids_whatever_the_listing() -> None:
    keys = [FOLDERS.key(*place) for place in [(9, 1, 5), (0, 10, 10), (0, 2, 2), (1, 1, 4), (1, 1, 2)]]
    found, layout = files_of(infos(*keys), FOLDERS)
    assert [(file.level, file.min_txid, file.max_txid) for file in found] == [
        (0, 2, 2),
        (0, 10, 10),
        (1, 1, 2),
        (1, 1, 4),
        (9, 1, 5),
    ]
    assert layout is FOLDERS


@pytest.mark.parametrize("native", [FOLDERS, FLAT], ids=["folders", "flat"])
def test_a_file_in_both_layouts_counts_once_in_the_native_one(native: object) -> None:
    layout = FOLDERS if native is FOLDERS else FLAT
    for keys in ([FOLDERS.key(0, 1, 1), FLAT.key(0, 1, 1)], [FLAT.key(0, 1, 1), FOLDERS.key(0, 1, 1)]):
        found, used = files_of(infos(*keys), layout)
        assert [file.key for file in found] == [layout.key(0, 1, 1)]
        assert used is layout


def test_the_layout_of_a_replica_is_that_of_its_files_and_else_the_native_one() -> None:
    assert files_of([], FOLDERS)[1] is FOLDERS
    assert files_of([], FLAT)[1] is FLAT
    assert files_of(infos(FLAT.key(0, 1, 1)), FOLDERS)[1] is FLAT
    assert files_of(infos(FOLDERS.key(0, 1, 1)), FLAT)[1] is FOLDERS
    assert files_of(infos(FLAT.key(0, 1, 1), FOLDERS.key(0, 2, 2)), FOLDERS)[1] is FOLDERS


def test_listing_shows_sizes_times_and_versions_of_the_storage(
    backend: MemoryBackend, replica: Replica
) -> None:
    history = History.random(3)
    history.put_all(backend)
    listed = {info.key: info for info in backend.list()}
    files = replica.files()
    assert [file.max_txid for file in files] == [1, 2, 3]
    for file in files:
        info = listed[file.key]
        assert (file.size, file.modified, file.version) == (info.size, info.modified, info.version)
        assert file.name == file_name(file.min_txid, file.max_txid)


def test_a_level_alone_can_be_listed_and_one_listing_is_one_request(
    backend: MemoryBackend, replica: Replica
) -> None:
    History.random(6).put(backend, "0:1", "0:2", "1:1-2", "9:1-2")
    before = backend.stats.requests.get("list", 0)
    assert [file.level for file in replica.files(1)] == [1]
    assert [file.level for file in replica.files(9)] == [9]
    assert replica.files(8) == []
    assert [file.level for file in replica.files()] == [0, 0, 1, 9]
    assert backend.stats.requests["list"] - before == 4


def test_stray_objects_and_old_generations_are_passed_over(backend: MemoryBackend, replica: Replica) -> None:
    for key in (
        "lock.json",
        "ltx/0/readme",
        "generations/0123456789abcdef/wal/00000001_00000000.wal.lz4",
        "ltx/10/" + NAME,
    ):
        backend.put(key, b"stray")
    assert replica.files() == []
    History.random(1).put_all(backend)
    assert len(replica.files()) == 1


def test_a_replica_in_the_other_layout_is_restored_and_gone_on_with_there(
    backend: MemoryBackend, replica: Replica
) -> None:
    history = History.random(2)
    for spec in history.specs:
        store(backend, 0, spec, FLAT)
    assert [file.key for file in replica.files()] == [FLAT.key(0, 1, 1), FLAT.key(0, 2, 2)]
    assert replica.layout is FLAT
