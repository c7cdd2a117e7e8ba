"""`ltx restore`."""

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from ltx.replica import format_time
from tests.test_cli.conftest import LTX, LTXProcess, Replicated


def test_the_newest_state(cli: LTX, replica: Replicated) -> None:
    found = cli("restore", "replica", "-o", "out.db")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("restored out.db: TXID 0000000000000003 of ")
    assert Path("out.db").read_bytes() == replica.states[2]


def test_as_it_was_after_a_transaction(cli: LTX, replica: Replicated) -> None:
    assert cli("restore", "replica", "-o", "out.db", "--txid", "0000000000000002").code == 0
    assert Path("out.db").read_bytes() == replica.states[1]


def test_as_it_was_at_a_time(cli: LTX, replica: Replicated) -> None:
    exact = format_time(replica.published[1].time)
    earlier = format_time(replica.published[1].time - timedelta(milliseconds=1))
    assert cli("restore", "replica", "-o", "at.db", "--timestamp", exact).code == 0
    assert cli("restore", "replica", "-o", "before.db", "--timestamp", earlier).code == 0
    assert cli("restore", "replica", "-o", "words.db", "--timestamp", "now").code == 0
    assert Path("at.db").read_bytes() == replica.states[1]
    assert Path("before.db").read_bytes() == replica.states[0]
    assert Path("words.db").read_bytes() == replica.states[2]


def test_json_has_the_fields_of_the_real_litestream(cli: LTX, replica: Replicated) -> None:
    found = cli("restore", "replica", "-o", "out.db", "--json", "--integrity-check", "full")
    entry = json.loads(found.out)
    assert list(entry)[:5] == ["db_path", "replica", "txid", "duration_ms", "integrity_check"]
    assert entry["db_path"] == "out.db"
    assert entry["replica"] == "file"
    assert entry["txid"] == "0000000000000003"
    assert isinstance(entry["duration_ms"], int)
    assert entry["integrity_check"] == "full"
    assert entry["timestamp"] == format_time(replica.published[2].time)
    assert entry["size"] == len(replica.states[2])
    assert entry["passed_over"] == []


def test_a_dry_run_shows_the_plan_and_writes_nothing(cli: LTX, replica: Replicated) -> None:
    found = cli("restore", "replica", "-o", "out.db", "--dry-run", "--txid", "0000000000000002", "--json")
    entry = json.loads(found.out)
    assert found.code == 0
    assert entry["source"] == f"file://{replica.url}"
    assert entry["target_path"] == "out.db"
    assert entry["replica"] == "file"
    assert (entry["min_txid"], entry["max_txid"]) == ("0000000000000001", "0000000000000002")
    assert entry["timestamp"] == format_time(replica.published[1].time)
    assert [list(file) for file in entry["files"]] == [
        ["level", "name", "min_txid", "max_txid", "size", "timestamp"]
    ] * 2
    assert [file["name"] for file in entry["files"]] == [replica.file(txid).name for txid in (1, 2)]
    text = cli("restore", "replica", "-o", "out.db", "--dry-run")
    assert text.code == 0
    assert all(replica.file(txid).name in text.out for txid in (1, 2, 3))
    assert not Path("out.db").exists()


def test_an_existing_output_needs_force(cli: LTX, replica: Replicated) -> None:
    Path("out.db").write_bytes(replica.states[0])
    found = cli("restore", "replica", "-o", "out.db")
    assert found.code == 1
    assert "exists: use --force to replace it" in found.err
    assert "force=True" not in found.err
    assert Path("out.db").read_bytes() == replica.states[0]
    assert cli("restore", "replica", "-o", "out.db", "--force").code == 0
    assert Path("out.db").read_bytes() == replica.states[2]


def test_a_database_in_use_is_not_replaced_even_with_force(
    cli_process: LTXProcess, replica: Replicated
) -> None:
    Path("out.db").write_bytes(replica.states[0])
    with closing(sqlite3.connect("out.db")) as user:
        user.execute("BEGIN")
        user.execute("SELECT count(*) FROM sandwich_ratings").fetchall()
        with cli_process("restore", "replica", "-o", "out.db", "--force") as process:
            _, said = process.communicate()  # in this process POSIX locks would not show
        assert process.returncode == 1
        assert "is in use: stop whatever has it open" in said
        assert user.execute("SELECT stars FROM sandwich_ratings WHERE sandwich = 'BLT 7'").fetchall() == [
            (0,)
        ]


def test_if_db_not_exists_leaves_a_database_alone(cli: LTX, replica: Replicated) -> None:
    Path("out.db").write_text("mine")
    found = cli("restore", "replica", "-o", "out.db", "--if-db-not-exists", "--json")
    assert found.code == 0
    assert found.err == "ltx: out.db exists; there is nothing to do\n"
    assert json.loads(found.out) == {"db_path": "out.db", "txid": None, "skipped": "out.db exists"}
    assert Path("out.db").read_text() == "mine"
    assert cli("restore", "replica", "-o", "new.db", "--if-db-not-exists").code == 0
    assert Path("new.db").read_bytes() == replica.states[2]


def test_if_replica_exists_forgives_an_empty_replica_and_nothing_else(cli: LTX, replica: Replicated) -> None:
    empty = cli("restore", "nothing", "-o", "out.db", "--if-replica-exists")
    assert empty.code == 0
    assert "is empty; there is nothing to do" in empty.err
    assert cli("restore", "nothing", "-o", "out.db").code == 1
    assert cli("restore", "nothing", "-o", "out.db", "--if-replica-exists", "--dry-run").code == 0
    replica.file(1).unlink()
    broken = cli("restore", "replica", "-o", "out.db", "--if-replica-exists")
    assert broken.code == 1
    assert "nothing can be restored" in broken.err
    assert not Path("out.db").exists()


def test_a_gap_is_named_and_what_lies_before_it_can_be_had(cli: LTX, replica: Replicated) -> None:
    replica.file(2).unlink()
    found = cli("restore", "replica", "-o", "out.db")
    assert found.code == 1
    assert "TXID 0000000000000002 is missing" in found.err
    assert found.err.endswith("; --txid 0000000000000001 restores that\n")
    assert not Path("out.db").exists()
    assert cli("restore", "replica", "-o", "out.db", "--txid", "0000000000000001").code == 0
    assert Path("out.db").read_bytes() == replica.states[0]


def test_a_damaged_file_is_named_and_the_output_untouched(cli: LTX, replica: Replicated) -> None:
    data = bytearray(replica.file(2).read_bytes())
    data[len(data) // 2] ^= 1
    replica.file(2).write_bytes(data)
    Path("out.db").write_bytes(replica.states[0])
    found = cli("restore", "replica", "-o", "out.db", "--force")
    assert found.code == 1
    assert f"ltx/0/{replica.file(2).name} is damaged" in found.err
    assert "run 'ltx verify'" in found.err
    assert Path("out.db").read_bytes() == replica.states[0]
    assert sorted(path.name for path in Path().iterdir() if path.name.endswith(".tmp")) == []


def test_a_damaged_file_whose_content_others_have_is_planned_around(cli: LTX, replica: Replicated) -> None:
    snapshot = replica.url / f"ltx/9/{1:016x}-{1:016x}.ltx"
    snapshot.parent.mkdir()
    snapshot.write_bytes(replica.file(1).read_bytes()[:-1] + b"\0")
    found = cli("restore", "replica", "-o", "out.db", "--json")
    assert found.code == 0
    assert json.loads(found.out)["passed_over"] == [f"ltx/9/{snapshot.name}"]
    assert "is damaged or gone" in found.err
    assert Path("out.db").read_bytes() == replica.states[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--txid", "2"], "16 lower-case hex digits"),
        (["--txid", "0000000000000000"], "16 lower-case hex digits"),
        (["--timestamp", "next Tuesdayish"], "not a time: 'next Tuesdayish'"),
        (["--timestamp", ""], "not a time"),
        (["--timestamp", "now", "--txid", "0000000000000001"], "give one of them"),
        (["--integrity-check", "thorough"], "'none', 'quick', 'full'"),
    ],
)
def test_wrong_words_are_wrong_usage_and_write_nothing(
    cli: LTX, replica: Replicated, words: list[str], said: str
) -> None:
    found = cli("restore", "replica", "-o", "out.db", *words)
    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not Path("out.db").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--txid", "0000000000000009"], "the newest is 0000000000000003"),
        (["--timestamp", "2001-01-01"], "is before all that is kept"),
        (["--timestamp", "2201-01-01"], "is in the future"),
    ],
)
def test_a_state_that_is_not_there_names_what_is(
    cli: LTX, replica: Replicated, words: list[str], said: str
) -> None:
    found = cli("restore", "replica", "-o", "out.db", *words)
    assert found.code == 1
    assert said in found.err
    assert not Path("out.db").exists()


def test_an_output_that_cannot_be_made(cli: LTX, replica: Replicated, place: Path) -> None:
    assert "the folder" in cli("restore", "replica", "-o", "no/such/out.db").err
    found = cli("restore", "replica", "-o", str(place))
    assert found.code == 1
    assert "is a folder: name a file in it" in found.err
    assert cli("restore", "replica").code == 2
