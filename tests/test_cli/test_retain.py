"""`ltx retain`."""

import json
from pathlib import Path

import pytest

from tests.test_cli.conftest import LTX, Replicated

NOW = ("--retention=0s", "--l0-retention=0s")


@pytest.fixture
def kept(cli: LTX, replica: Replicated) -> Replicated:
    """A replica with a level 1 and a snapshot."""
    assert cli("compact", "replica").code == 0
    assert cli("snapshot", "replica").code == 0
    return replica


def files(replica: Replicated) -> list[Path]:
    return sorted(replica.url.glob("ltx/*/*.ltx"))


def test_what_is_younger_stays(cli: LTX, kept: Replicated) -> None:
    before = files(kept)
    found = cli("retain", "replica")
    assert (found.code, found.err) == (0, "")
    first, second, *ends = found.out.splitlines()
    assert first == "deleted:     no files, 0 bytes"
    assert second == "restorable:  3 of 3 states"
    assert [line.split()[1] for line in ends] == [f"{1:016x}", f"{3:016x}"]
    assert files(kept) == before


def test_a_dry_run_says_what_would_go_and_what_stays_restorable(cli: LTX, kept: Replicated) -> None:
    before = files(kept)
    would = cli("retain", "replica", "--dry-run", *NOW)
    assert files(kept) == before
    assert would.code == 0
    names = [line.split()[1] for line in would.out.splitlines()[1:] if line.startswith("    ")]
    assert "would go:" in would.out
    did = cli("retain", "replica", *NOW)
    assert did.code == 0
    assert did.out == would.out.replace("would go:    ", "deleted:     ").replace("would go", "deleted ")
    assert sorted(names) == sorted(path.name for path in set(before) - set(files(kept)))
    assert "oldest:      0000000000000003" in did.out


def test_json_has_it_all(cli: LTX, kept: Replicated) -> None:
    entry = json.loads(cli("retain", "replica", "--json", "--dry-run", *NOW).out)
    assert list(entry) == [
        "source", "dry_run", "deleted", "size", "kept_count", "faults", "states_before", "states", "oldest", "newest",
    ]  # fmt: skip
    assert entry["source"].startswith("file://")
    assert entry["dry_run"] is True
    assert entry["size"] == sum(each["size"] for each in entry["deleted"])
    assert {each["covered_by"]["level"] for each in entry["deleted"]} <= {1, 9}
    assert entry["kept_count"] + len(entry["deleted"]) == len(files(kept))
    assert entry["newest"]["txid"] == f"{3:016x}"
    assert (entry["states_before"], entry["states"], entry["faults"]) == (3, 1, [])


def test_the_newest_state_is_what_it_was(cli: LTX, kept: Replicated, place: Path) -> None:
    assert cli("retain", "replica", *NOW).code == 0
    assert cli("restore", "replica", "-o", "out.db").code == 0
    assert (place / "out.db").read_bytes() == kept.states[2]
    assert cli("verify", "replica").code == 0


def test_a_damaged_snapshot_replaces_nothing_and_is_named(cli: LTX, kept: Replicated) -> None:
    [snapshot] = kept.url.glob("ltx/9/*")
    snapshot.write_bytes(snapshot.read_bytes()[:-3])
    [*merged] = kept.url.glob("ltx/1/*")
    found = cli("retain", "replica", *NOW)
    assert found.code == 1
    assert f"{snapshot.name} is damaged, so what it should replace was kept" in found.err
    assert all(path.exists() for path in merged)


def test_an_empty_replica_has_nothing_to_delete(cli: LTX, place: Path) -> None:
    found = cli("retain", "nothing")
    assert (found.code, found.out) == (1, "")
    assert f"no LTX files lie at file://{place}/nothing; check the URL" in found.err
    assert json.loads(cli("retain", "nothing", "--json").out)["oldest"] is None


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "-5m", "h", "1d", "1e3s", "٣s", "inf"])
def test_times_that_are_none_are_wrong_usage(cli: LTX, kept: Replicated, text: str) -> None:
    before = files(kept)
    for option in ("--retention", "--l0-retention"):
        found = cli("retain", "replica", f"{option}={text}")
        assert found.code == 2
        assert found.err == f"ltx: {option} is a time such as 24h, 5m, 90s or 1h30m; not {text!r}\n"
    assert cli("retain", "replica", "--retention=99999999999999h").code == 2
    assert files(kept) == before


@pytest.mark.parametrize("text", ["24h", "1h30m", "90s", "1.5h", "250ms", "1m0.5s", "8760h"])
def test_times_are_written_as_litestream_has_them(cli: LTX, kept: Replicated, text: str) -> None:
    assert cli("retain", "replica", "--dry-run", f"--retention={text}").code == 0
