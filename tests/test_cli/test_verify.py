"""`ltx verify`."""

import json
from pathlib import Path

from ltx.replica import format_time
from tests.test_cli.conftest import LTX, Replicated


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_sound_replica(cli: LTX, replica: Replicated) -> None:
    found = cli("verify", "replica")
    assert (found.code, found.err) == (0, "")
    assert "damaged:     none" in found.out
    assert "missing:     none" in found.out
    assert "restorable:  3 states" in found.out
    for place in (0, 2):
        assert format_time(replica.published[place].time) in found.out


def test_json_says_all_of_it(cli: LTX, replica: Replicated) -> None:
    found = cli("verify", "replica", "--json")
    entry = json.loads(found.out)
    assert found.code == 0
    assert list(entry) == ["source", "sound", "files", "gaps", "states"]
    assert entry["sound"] is True
    assert entry["gaps"] == []
    assert [file["fault"] for file in entry["files"]] == [None] * 3
    assert entry["files"][0]["page_count"] == replica.published[0].page_count
    assert entry["states"] == [
        {"txid": f"{one.txid:016x}", "timestamp": format_time(one.time)} for one in replica.published
    ]


def test_a_damaged_file_is_named_and_the_exit_code_is_1(cli: LTX, replica: Replicated) -> None:
    damage(replica.file(3))
    found = cli("verify", "replica")
    assert found.code == 1
    assert replica.file(3).name in found.out
    assert "damaged:     1" in found.out
    assert "missing:     TXID 0000000000000003" in found.out
    assert "restorable:  2 states" in found.out
    assert found.err.startswith("ltx: the replica is not sound; ")
    entry = json.loads(cli("verify", "replica", "--json").out)
    assert entry["sound"] is False
    assert entry["files"][2]["fault"]
    assert [state["txid"] for state in entry["states"]] == ["0000000000000001", "0000000000000002"]


def test_missing_txids_are_named(cli: LTX, replica: Replicated) -> None:
    replica.file(2).unlink()
    found = cli("verify", "replica")
    assert found.code == 1
    assert "missing:     TXID 0000000000000002" in found.out
    assert "restorable:  1 state\n" in found.out
    entry = json.loads(cli("verify", "replica", "--json").out)
    assert entry["gaps"] == [{"min_txid": "0000000000000002", "max_txid": "0000000000000002"}]
    replica.file(1).unlink()
    found = cli("verify", "replica")
    assert "restorable:  no states" in found.out
    assert "missing:     TXIDs 0000000000000001 to 0000000000000002\n" in found.out


def test_an_empty_place_is_not_sound(cli: LTX, place: Path) -> None:
    found = cli("verify", "nothing")
    assert found.code == 1
    assert "no LTX files lie at" in found.err
    assert found.err.count("\n") == 1
    assert json.loads(cli("verify", "nothing", "--json").out)["states"] == []


def test_stats(cli: LTX, replica: Replicated) -> None:
    assert "requests: " in cli("verify", "replica", "--stats").err
