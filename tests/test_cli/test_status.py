"""`ltx status`: what it says, also where nothing runs, and how it ends."""

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from ltx import Replica
from ltx.replication.control import listening, socket_folder
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from tests.support.replicating import eventually
from tests.test_cli.conftest import LTX


@pytest.fixture(autouse=True)
def _own_sockets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))


def test_nothing_that_runs_is_a_failure_and_says_where_it_looked(cli: LTX, place: Path) -> None:
    for words in ((), ("app.db",)):
        found = cli("status", *words)
        assert (found.code, found.out) == (1, "")
        assert f"none answers in {place}/ltx; start one" in found.err
    found = cli("status", "--json")
    assert (found.code, found.out) == (1, "[]\n")
    assert "no 'ltx replicate' of yours is running" in found.err
    found = cli("status", "--socket", "none.sock")
    assert (found.code, found.out) == (1, "")
    assert found.err == (
        "ltx: no replicator answers at none.sock: No such file or directory; start one, or check the path\n"
    )


def test_txids_are_written_as_everywhere_else(cli: LTX, database: Path) -> None:
    with closing(Replica.open("replica")) as replica:
        daemon = Daemon()
        daemon.add(Database(database, [replica], Settings()))
        with listening(daemon, socket_folder() / "1.sock"):  # of a process that there always is
            [found] = json.loads(cli("status", "--json").out)
            assert (found["txid"], found["replicas"][0]["txid"]) == (None, None)
            daemon.start()
            try:
                eventually(
                    lambda: json.loads(cli("status", "--json").out)[0]["replicas"][0]["txid"] is not None
                )
                [found] = json.loads(cli("status", "./x/../app.db", "--json").out)
                table = cli("status").out
                assert cli("status", "other.db").code == 1
            finally:
                daemon.stop()
    listed = json.loads(cli("list", "replica", "--json").out)
    assert found["txid"] == found["replicas"][0]["txid"] == listed[-1]["max_txid"] == "0000000000000001"
    assert re.search(rf"{database} +replicating +0000000000000001 .* 0000000000000001 +0 bytes", table)
