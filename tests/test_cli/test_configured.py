"""Commands on the replica of a database that a configuration names: `ltx list --config litestream.yml app.db`."""

import json
from pathlib import Path

import pytest

from tests.test_cli.conftest import LTX, Replicated

COMMANDS = ("list", "verify", "compact", "snapshot", "retain", "doctor")


@pytest.fixture
def config(replica: Replicated, place: Path) -> Path:
    path = place / "litestream.yml"
    path.write_text(
        "levels:\n- interval: 1h\nsnapshot:\n  retention: 168h\n"
        f"dbs:\n- path: {place}/app.db\n  replica:\n    path: {replica.url}\n"
    )
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_stands_for_its_replica(cli: LTX, replica: Replicated, config: Path, command: str) -> None:
    assert cli(command, "--config", config, "app.db").code == 0
    assert cli(command, "--config", config, "./app.db", "--json").code == 0
    assert cli("restore", "--config", config, "app.db", "-o", "out.db").code == 0
    assert Path("out.db").read_bytes() == replica.states[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_one_that_it_does_not_name_is_wrong_usage(cli: LTX, config: Path, command: str) -> None:
    found = cli(command, "--config", config, "other.db")
    assert found.code == 2
    assert "litestream.yml does not name the database other.db: check its path" in found.err
    found = cli(command, "--config", config, "app.db", "--storage-option", "a=b")
    assert found.code == 2
    assert "a configuration has settings of its own" in found.err
    found = cli(command, "app.db")
    assert found.code == 2
    assert "app.db is a file; name the replica, its folder or URL, or give --config" in found.err


def test_levels_and_retention_are_as_it_has_them(cli: LTX, replica: Replicated, config: Path) -> None:
    found = cli("compact", "--config", config, "app.db", "--json")
    assert {each["level"] for each in json.loads(found.out)} == {1}  # there is one level
    assert cli("snapshot", "--config", config, "app.db").code == 0
    kept = json.loads(cli("retain", "--config", config, "app.db", "--json").out)
    assert (len(kept["deleted"]), kept["states"]) == (0, 3)
    config.write_text("retention:\n  enabled: false\n" + config.read_text())
    before = sorted(replica.url.rglob("*.ltx"))
    found = cli("retain", "--config", config, "app.db", "--retention=0s", "--l0-retention=0s")
    assert found.code == 1
    assert "'retention: enabled: false'" in found.err
    assert sorted(replica.url.rglob("*.ltx")) == before
    found = cli("retain", "--config", config, "app.db", "--retention=0s", "--l0-retention=0s", "--dry-run")
    assert (found.code, "would go" in found.out) == (0, True)  # what is typed wins


def test_a_database_and_its_url_need_none(cli: LTX, config: Path) -> None:
    found = cli("snapshot", "--config", config, "app.db", "replica")
    assert found.code == 2
    assert "give one or the other" in found.err
