"""`ltx compact` and `ltx snapshot`."""

import json
from datetime import datetime
from pathlib import Path

import pytest

import ltx
from tests.test_cli.conftest import LTX, Replicated, change


def levels(replica: Replicated) -> list[str]:
    return sorted(f"{file.parent.name}/{file.name}" for file in replica.url.glob("ltx/*/*.ltx"))


def key(level: int, first: int, last: int) -> str:
    return f"{level}/{first:016x}-{last:016x}.ltx"


def test_compact_makes_what_levels_lack_and_says_so(cli: LTX, replica: Replicated) -> None:
    found = cli("compact", "replica")
    assert (found.code, found.err) == (0, "")
    heading, *rows = found.out.splitlines()
    assert heading.split("  ")[0] == "level"
    assert sum(int(row.split()[4]) for row in rows if row.split()[0] == "1") == 3
    assert rows[-1].split()[2] == f"{3:016x}"
    again = cli("compact", "replica", "--stats")
    assert again.out.startswith("nothing was merged: file://")
    assert again.err == "requests: 1 (1 list); bytes: 0 received, 0 sent\n"


def test_compact_as_json_names_the_files_made(cli: LTX, replica: Replicated) -> None:
    made = json.loads(cli("compact", "replica", "--level", "1", "--json").out)
    for entry in made:
        assert list(entry) == [
            "level", "name", "min_txid", "max_txid", "size", "timestamp", "page_count", "input_count",
        ]  # fmt: skip
        assert (replica.url / "ltx/1" / entry["name"]).stat().st_size == entry["size"]
    assert datetime.fromisoformat(made[-1]["timestamp"]) == replica.published[2].time
    assert json.loads(cli("compact", "replica", "--level", "1", "--json").out) == []


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("9", "level 9 has snapshots; use 'ltx snapshot' to make one"),
        ("0", "--level is 1 to 8 or all; not '0'"),
        ("10", "--level is 1 to 8 or all; not '10'"),
        ("", "--level is 1 to 8 or all; not ''"),
        ("x", "--level is 1 to 8 or all; not 'x'"),
    ],
)
def test_levels_that_are_not_merged_are_wrong_usage(
    cli: LTX, replica: Replicated, level: str, said: str
) -> None:
    found = cli("compact", "replica", f"--level={level}")
    assert (found.code, found.err) == (2, f"ltx: {said}\n")
    assert len(levels(replica)) == 3


def test_compact_refuses_a_damaged_file_and_makes_nothing(cli: LTX, replica: Replicated) -> None:
    replica.file(2).write_bytes(replica.file(2).read_bytes()[:-1])
    found = cli("compact", "replica")
    assert found.code == 1
    assert f"{key(0, 2, 2)} is damaged" in found.err
    assert not [file for file in levels(replica) if key(0, 2, 2).split("/")[1] in file and file[0] == "1"]


def test_a_place_without_files_is_probably_a_wrong_url(cli: LTX, place: Path) -> None:
    found = cli("compact", "nothing")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith(f"ltx: no LTX files lie at file://{place}/nothing; check the URL")
    assert cli("compact", "nothing", "--json").out == "[]\n"


def test_compact_says_what_is_missing(cli: LTX, replica: Replicated) -> None:
    replica.file(1).unlink()
    found = cli("compact", "replica")
    assert found.code == 1
    assert "0000000000000001 is missing" in found.err


def test_compact_names_an_equal_file_that_another_made(
    cli: LTX, replica: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("compact", "replica", "--level=1")
    files = ltx.Replica.files
    monkeypatch.setattr(
        ltx.Replica, "files", lambda self, level=None: [each for each in files(self, level) if not each.level]
    )
    found = cli("compact", "replica", "--level=1")
    assert found.code == 0
    assert "was there already and holds the same" in found.err


def test_snapshot_makes_one_file_of_the_newest_state(cli: LTX, replica: Replicated, place: Path) -> None:
    found = cli("snapshot", "replica")
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines()[1].split()[:3] == ["9", f"{1:016x}", f"{3:016x}"]
    for path in replica.url.glob("ltx/0/*"):
        path.unlink()
    assert cli("restore", "replica", "-o", "out.db").code == 0
    assert (place / "out.db").read_bytes() == replica.states[2]
    again = cli("snapshot", "replica")
    assert again.code == 0
    assert "has the newest state in a single file already" in again.out
    assert json.loads(cli("snapshot", "replica", "--json").out) == []


def test_snapshot_of_a_database_takes_what_is_committed_first(
    cli: LTX, replica: Replicated, database: Path, place: Path
) -> None:
    change(database, "DELETE FROM sandwich_ratings")
    [made] = json.loads(cli("snapshot", database, "replica", "--json").out)
    assert (made["level"], made["min_txid"], made["max_txid"]) == (9, f"{1:016x}", f"{4:016x}")
    assert cli("restore", "replica", "-o", "out.db").code == 0
    assert (place / "out.db").read_bytes() == database.read_bytes()


def test_snapshot_of_a_database_makes_up_for_what_is_damaged(
    cli: LTX, replica: Replicated, database: Path
) -> None:
    cli("replicate", "--once", database, "replica")
    key = replica.file(2)
    data = bytearray(key.read_bytes())
    data[len(data) // 2] ^= 1
    key.write_bytes(data)
    assert cli("snapshot", "replica").code == 1
    assert cli("restore", "replica", "-o", "out.db").code == 1
    found = cli("snapshot", database, "replica", "--json")
    assert found.code == 0
    assert "is damaged" in found.err
    assert "the snapshot is made of the database" in found.err
    [made] = json.loads(found.out)
    assert (made["level"], made["input_count"]) == (9, 0)
    assert cli("restore", "replica", "-o", "out.db").code == 0
    assert Path("out.db").read_bytes() == database.read_bytes()


def test_snapshot_of_a_database_without_its_replica_is_wrong_usage(
    cli: LTX, replica: Replicated, database: Path
) -> None:
    found = cli("snapshot", database)
    assert found.code == 2
    assert "name the replica" in found.err
    turned = cli("snapshot", f"file://{replica.url}", database)
    assert turned.code == 2
    assert "the database comes first" in turned.err


def test_snapshot_of_nothing_says_so(cli: LTX, place: Path) -> None:
    found = cli("snapshot", "nothing")
    assert found.code == 1
    assert "no LTX files lie at" in found.err
    assert not (place / "nothing").exists()
