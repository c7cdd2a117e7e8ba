"""`ltx doctor`: what it prints, and how it ends."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ltx.cli.doctor import _clock
from tests.servers.seaweedfs import S3Server
from tests.test_cli.conftest import LTX, LTXProcess, Replicated


def test_a_folder(cli: LTX, replica: Replicated) -> None:
    before = sorted(replica.url.rglob("*"))
    found = cli("doctor", replica.url)
    assert (found.code, found.err) == (0, "")
    lines = found.out.splitlines()
    assert lines[0].split() == ["check", "result", "ms", "what", "was", "seen"]
    assert [line.split("  ")[0] for line in lines[1:12]] == [
        "list", "write", "read after write", "read a range", "list after write", "replace", "replace at once",
        "create exclusively", "mark exclusively", "keep a timestamp", "delete",
    ]  # fmt: skip
    assert lines[-2:] == [
        "clock:    agrees with ours", "verdict:  everything that replication needs works here",
    ]  # fmt: skip
    assert sorted(replica.url.rglob("*")) == before


def test_json(cli: LTX, place: Path) -> None:
    found = cli("doctor", "replica", "--json", "--stats")
    entry = json.loads(found.out)
    assert (found.code, entry["usable"], entry["left"]) == (0, True, [])
    assert entry["url"] == f"file://{place}/replica"
    assert {check["result"] for check in entry["checks"]} == {"ok", "no"}
    assert entry["capabilities"]["put_if_absent"] is True
    assert found.err.startswith("requests: ")


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["table", "json"])
def test_who_may_only_read(cli: LTX, s3_server: S3Server, s3_url: str, as_json: tuple[str, ...]) -> None:
    words = [f"--storage-option={name}={value}" for name, value in s3_server.reader_options.items()]
    found = cli("doctor", s3_url, *words, *as_json)
    assert found.code == 1
    assert found.err == (
        f"ltx: {s3_url}: it can be listed but not written with these rights: restore and query work, replication "
        "does not; allow writing\n"
    )
    assert all(str(secret) not in found.out for secret in s3_server.reader_options.values())


def test_a_storage_that_fails(cli: LTX, place: Path) -> None:
    found = cli("doctor", f"faulty+file://{place}/replica?rate=1&kinds=lost")
    assert found.code == 1
    assert found.err.count("\n") == 1
    assert "; it said: " in found.err


def test_what_cannot_be_deleted_is_named(cli: LTX, place: Path) -> None:
    found = cli("doctor", f"faulty+file://{place}/replica?rate=1&kinds=forgotten")
    assert found.code == 1
    left, verdict = found.err.splitlines()
    assert "objects of this check are left; delete .ltx-doctor/" in left
    assert "the replica only grows" in verdict


@pytest.mark.parametrize("url", ["nope://x", "file:///x?y", "app.db"])
def test_wrong_usage(cli: LTX, database: Path, url: str) -> None:
    assert cli("doctor", url).code == 2


def test_an_interrupt_leaves_nothing(cli_process: LTXProcess, place: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from backends.local import LocalBackend\n"
        "from ltx.cli import main\n"
        "put = LocalBackend.put\n"
        "def slow(self, key, data, **options):\n"
        "    put(self, key, data, **options)\n"
        "    os.write(1, b'ready\\n')\n"
        "    time.sleep(30)\n"
        "LocalBackend.put = slow\n"
        "sys.exit(main())\n"
    )
    with cli_process("doctor", "replica", code=code, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert os.listdir("replica") == []


@pytest.mark.parametrize(
    ("difference_s", "text"),
    [(None, "not known"), (0, "agrees"), (7200.04, "7200.0 s ahead of ours"), (-3, "3.0 s behind ours")],
)
def test_clocks(difference_s: float | None, text: str) -> None:
    assert _clock(difference_s).startswith(text)
