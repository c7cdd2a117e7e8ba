"""`ltx replicate --once`."""

import sqlite3
from pathlib import Path

from tests.test_cli.conftest import LTX, Replicated, change


def test_each_run_publishes_what_changed(cli: LTX, database: Path) -> None:
    first = cli("replicate", "--once", "app.db", "replica")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("published TXID 0000000000000001 of ")
    assert f"Z to file://{database.parent}/replica: " in first.out
    again = cli("replicate", "--once", "app.db", "replica")
    assert again.code == 0
    assert again.out.startswith("nothing was published")
    change(database, "DELETE FROM sandwich_ratings WHERE stars = 3")
    assert "TXID 0000000000000002" in cli("replicate", "app.db", "replica", "--once").out
    assert cli("restore", "replica", "-o", "out.db").code == 0
    assert Path("out.db").read_bytes() == database.read_bytes()


def test_stats_count_what_was_sent(cli: LTX, database: Path) -> None:
    found = cli("replicate", "--once", "app.db", "replica", "--stats")
    size = sum(file.stat().st_size for file in Path("replica").rglob("*.*"))
    assert found.err.endswith(f", {size} sent\n")


def test_a_hole_is_closed_by_a_snapshot(cli: LTX, replica: Replicated) -> None:
    replica.file(2).unlink()
    found = cli("replicate", "--once", "app.db", "replica")
    assert found.code == 0
    assert found.err.startswith("ltx: files are missing on the replica")
    assert "ltx/9/0000000000000001-0000000000000004.ltx" in found.out
    assert cli("verify", "replica").code == 0
    assert cli("restore", "replica", "-o", "out.db").code == 0
    assert Path("out.db").read_bytes() == replica.states[2]


def test_a_url_where_the_database_belongs_is_wrong_usage(cli: LTX, database: Path) -> None:
    found = cli("replicate", "--once", "file:///replica", "app.db")
    assert found.code == 2
    assert "the database comes first" in found.err


def test_a_database_that_is_none(cli: LTX, place: Path) -> None:
    found = cli("replicate", "--once", "gone.db", "replica")
    assert (found.code, found.out) == (1, "")
    assert "there is no database" in found.err
    Path("text.db").write_text("not a database, but long enough to look at, and then some more of it" * 20)
    found = cli("replicate", "--once", "text.db", "replica")
    assert (found.code, found.out) == (1, "")
    assert "is not a SQLite database" in found.err
    sqlite3.connect("empty.db").close()
    found = cli("replicate", "--once", "empty.db", "replica")
    assert (found.code, found.out) == (1, "")
    assert "is empty" in found.err
    assert not list(Path("replica").rglob("*.ltx"))


def test_a_storage_that_cannot_be_written(cli: LTX, database: Path) -> None:
    Path("replica").write_text("in the way")
    found = cli("replicate", "--once", "app.db", "file://" + str(Path("replica").absolute()))
    assert found.code == 1
    assert found.err.count("\n") == 1
    assert found.err.startswith("ltx: ")
    assert Path("replica").read_text() == "in the way"


def test_several_databases_are_named(cli: LTX, database: Path, place: Path) -> None:
    (place / "b.db").write_bytes(database.read_bytes())
    entries = "".join(f"- path: {name}.db\n  replica: {{path: r{name}}}\n" for name in ("app", "b"))
    Path("litestream.yml").write_text(f"dbs:\n{entries}")
    for said in ("published TXID", "nothing was published: "):
        found = cli("replicate", "--once", "--config", "litestream.yml")
        assert [line.partition(": ")[0] for line in found.out.splitlines()] == [
            str(database),
            f"{place}/b.db",
        ]
        assert all(f".db: {said}" in line for line in found.out.splitlines())
