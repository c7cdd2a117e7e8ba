"""`ltx list`."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.test_cli.conftest import LTX, Replicated


def test_a_listing_is_plain_aligned_text_where_it_is_not_a_terminal(cli: LTX, replica: Replicated) -> None:
    found = cli("list", "replica")
    heading, *rows = found.out.splitlines()
    assert found.code == 0
    assert found.err == ""
    assert heading.split() == ["level", "min_txid", "max_txid", "size", "stored"]
    assert [row.split()[:3] for row in rows] == [["0", f"{txid:016x}", f"{txid:016x}"] for txid in (1, 2, 3)]
    assert [int(row.split()[3]) for row in rows] == [replica.file(txid).stat().st_size for txid in (1, 2, 3)]
    assert len({row.index(row.split()[4]) for row in rows}) == 1


def test_json_has_the_fields_of_the_real_litestream(cli: LTX, replica: Replicated) -> None:
    entries = json.loads(cli("list", "replica", "--json").out)
    assert [list(entry) for entry in entries] == [["level", "min_txid", "max_txid", "size", "timestamp"]] * 3
    assert entries[1]["min_txid"] == entries[1]["max_txid"] == "0000000000000002"
    assert entries[1]["size"] == replica.file(2).stat().st_size
    assert datetime.fromisoformat(entries[1]["timestamp"]) == replica.published[1].time


def test_one_level_can_be_asked_for(cli: LTX, replica: Replicated) -> None:
    snapshot = replica.url / f"ltx/9/{1:016x}-{1:016x}.ltx"
    snapshot.parent.mkdir()
    snapshot.write_bytes(replica.file(1).read_bytes())
    assert len(json.loads(cli("list", "replica", "--json").out)) == 4
    assert [
        entry["level"] for entry in json.loads(cli("list", "replica", "--json", "--level", "all").out)
    ] == [0, 0, 0, 9]
    assert [entry["level"] for entry in json.loads(cli("list", "replica", "--json", "--level", "9").out)] == [
        9
    ]
    assert json.loads(cli("list", "replica", "--json", "--level", "5").out) == []


@pytest.mark.parametrize("level", ["10", "-1", "x", "", "٣"])
def test_a_level_that_there_is_not_is_wrong_usage(cli: LTX, replica: Replicated, level: str) -> None:
    found = cli("list", "replica", f"--level={level}")
    assert found.code == 2
    assert found.err == f"ltx: --level is 0 to 9 or all; not {level!r}\n"


def test_header_times_are_those_in_the_files_whatever_the_storage_says(cli: LTX, replica: Replicated) -> None:
    moved = datetime(2020, 1, 1, tzinfo=UTC)
    os.utime(replica.file(2), (moved.timestamp(), moved.timestamp()))
    stored = json.loads(cli("list", "replica", "--json").out)
    inside = json.loads(cli("list", "replica", "--json", "--header-times").out)
    assert datetime.fromisoformat(stored[1]["timestamp"]) == moved
    assert datetime.fromisoformat(inside[1]["timestamp"]) == replica.published[1].time
    assert "in header" in cli("list", "replica", "--header-times").out


def test_an_empty_replica_lists_nothing_and_says_so_beside_it(cli: LTX, place: Path) -> None:
    found = cli("list", "nothing")
    assert found.code == 1
    assert found.out.split() == ["level", "min_txid", "max_txid", "size", "stored"]
    assert "no LTX files lie at" in found.err
    as_json = cli("list", "nothing", "--json")
    assert (as_json.code, json.loads(as_json.out), as_json.err) == (1, [], found.err)
    assert not (place / "nothing").exists()


def test_a_level_without_files_is_no_failure(cli: LTX, replica: Replicated) -> None:
    found = cli("list", "replica", "--level", "8")
    assert (found.code, found.err) == (0, f"ltx: file://{replica.url} has no files of level 8\n")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("replica/ltx", "check the URL, it goes on inside a replica, so leave out its end"),
        ("replica/ltx/0", "check the URL, it goes on inside a replica, so leave out its end"),
        (".", "check the URL, below it there is a replica at replica"),
    ],
)
def test_a_replica_above_or_below_is_named(cli: LTX, replica: Replicated, url: str, said: str) -> None:
    for words in (["list"], ["compact"], ["retain"], ["verify"], ["restore", "-o", "out.db"]):
        found = cli(*words, url)
        assert (found.code, found.err.endswith(f"{said}\n")) == (1, True), found.err


def test_stats_count_requests_and_bytes_on_stderr(cli: LTX, replica: Replicated) -> None:
    found = cli("list", "replica", "--json", "--stats")
    assert found.err == "requests: 1 (1 list); bytes: 0 received, 0 sent\n"
    json.loads(found.out)
    assert cli("list", "replica", "--header-times", "--stats").err.startswith(
        "requests: 4 (3 get, 1 list); bytes: 300"
    )


def test_a_file_is_no_replica(cli: LTX, database: Path) -> None:
    found = cli("list", database)
    assert found.code == 2
    assert "is a file; name the replica" in found.err
