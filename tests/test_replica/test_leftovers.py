"""What killed restores left is removed by the next one, and nothing else is."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from backends.memory import MemoryBackend
from ltx import Replica
from ltx.replica import headers as headers_module
from tests.test_replica.histories import History

_LONG_AGO = 3600


def test_old_files_of_killed_restores_go_and_others_stay(
    tmp_path: Path, backend: MemoryBackend, replica: Replica
) -> None:
    History.random(4, seed=5).put_all(backend)
    names = {
        "left": ".app.db.0123456789ab.tmp",
        "held": ".app.db.0123456789ac.tmp",
        "young": ".app.db.0123456789ad.tmp",
        "of another": ".app.db2.0123456789ab.tmp",
        "a user's": ".app.db.notes.tmp",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"x")
        if name != names["young"]:
            os.utime(tmp_path / name, (time.time() - _LONG_AGO,) * 2)
    with open(tmp_path / names["held"], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        replica.restore(tmp_path / "app.db")
    left = {found.name for found in tmp_path.iterdir()}
    assert left == {"app.db", *names.values()} - {names["left"]}


def test_headers_are_kept_for_a_bounded_number_of_files(
    backend: MemoryBackend, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    History.random(8, seed=5).put_all(backend)
    files = replica.files()
    monkeypatch.setattr(headers_module, "_KEPT", 3)
    for _ in range(2):
        assert [header.max_txid for header in replica.headers(files)] == [file.max_txid for file in files]
    assert len(replica._headers._known) == 3
