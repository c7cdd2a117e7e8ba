"""The socket on which a replicator answers: it takes nobody's place, and no file's."""

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ltx import LTXError
from ltx.replication.control import ask, listening
from ltx.replication.daemon import Daemon
from tests.support.databases import make


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    before = path.read_bytes()
    with (
        pytest.raises(LTXError, match=r"a\.db is there already, and is no socket"),
        listening(Daemon(), path),
    ):
        pass
    assert path.read_bytes() == before


def test_another_one_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(Daemon(), path):
        with pytest.raises(LTXError, match="another replicator answers"), listening(Daemon(), path):
            pass
        assert ask(path, {"command": "status"})["ok"]
    assert not path.exists()


def test_the_socket_of_a_killed_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with closing(socket.socket(socket.AF_UNIX)) as killed:
        killed.bind(str(path))
    with listening(Daemon(), path):
        assert ask(path, {"command": "status"})["ok"]


def test_at_the_end_only_the_own_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listening(Daemon(), path):
        path.rename(tmp_path / "away")
        make(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
