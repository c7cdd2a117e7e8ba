"""The real Litestream and our backends on the same storage: the same keys, the same bytes, the same times."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends import Backend, open_backend
from tests.servers.azure import azurite
from tests.servers.daemon import PASSWORD, USER
from tests.servers.gcs import fake_gcs
from tests.servers.sftp import sshd
from tests.servers.webdav import apache


@dataclass
class Storage:
    """One path on a storage: as Litestream's configuration has it, and opened by us."""

    open: Callable[[str], Backend]
    replica: Callable[[str], Mapping[str, object]]
    environment: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(params=["webdav", "gs", "abs", "sftp"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    if request.param == "webdav":
        with apache("digest") as dav:
            login = {"webdav-username": USER, "webdav-password": PASSWORD}
            place = {"type": "webdav", "webdav-url": f"http://127.0.0.1:{dav.port}", **login}
            yield Storage(
                lambda path: open_backend(f"{dav.url}/in/{path}"),
                lambda path: place | {"path": f"/in/{path}"},
            )
    elif request.param == "gs":
        with fake_gcs("bkt") as endpoint:
            yield Storage(
                lambda path: open_backend(f"gs://bkt/in/{path}?endpoint={endpoint}"),
                lambda path: {"type": "gs", "bucket": "bkt", "path": f"in/{path}"},
                {"STORAGE_EMULATOR_HOST": endpoint},
            )
    elif request.param == "abs":
        with azurite("box") as azure:
            account = {"account-name": azure.account, "account-key": azure.key, "endpoint": azure.endpoint}
            where = f"abs://{azure.account}@box/in"
            yield Storage(
                lambda path: open_backend(f"{where}/{path}?endpoint={azure.endpoint}", account_key=azure.key),
                lambda path: {"type": "abs", "bucket": "box", "path": f"in/{path}", **account},
            )
    else:
        with sshd() as ssh:
            login = {"user": ssh.user, "key-path": ssh.key_path, "host-key": ssh.host_key}
            url = f"sftp://{ssh.user}@127.0.0.1:{ssh.port}{ssh.folder}"
            yield Storage(
                lambda path: open_backend(f"{url}/{path}", key_path=ssh.key_path, host_key=ssh.host_key),
                lambda path: {
                    "type": "sftp",
                    "host": f"127.0.0.1:{ssh.port}",
                    "path": f"{ssh.folder}/{path}",
                    **login,
                },
            )


def _litestream(folder: Path, storage: Storage, path: str, *arguments: str) -> None:
    """Run Litestream on the database `db` of a folder, replicated to a path of the storage."""
    config = {"dbs": [{"path": str(folder / "db"), "replica": storage.replica(path)}]}
    (folder / "config.yml").write_text(json.dumps(config))  # every JSON text is YAML
    command = [
        str(Path(sys.executable).parent / "litestream"),
        arguments[0],
        "-config",
        str(folder / "config.yml"),
    ]
    environment = {**os.environ, **storage.environment}
    environment.pop("AWS_CA_BUNDLE", None)
    done = subprocess.run(
        [*command, *arguments[1:]], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_both_directions(storage: Storage, tmp_path: Path) -> None:
    """We read what Litestream wrote, with its times, and Litestream restores what we wrote."""
    began_ms = int(time.time() * 1000)
    with closing(sqlite3.connect(tmp_path / "db")) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE t (x)")
        for number in range(3):
            database.execute("INSERT INTO t VALUES (?)", (number,))
            database.commit()
            _litestream(tmp_path, storage, "theirs", "replicate", "-once")
    with storage.open("theirs") as theirs, storage.open("ours") as ours:
        found = list(theirs.list())
        assert [info.key for info in found if info.key.startswith("ltx/0/")] == [
            f"ltx/0/{number:016x}-{number:016x}.ltx" for number in range(1, 4)
        ]
        for info in found:
            data = theirs.get(info.key)
            assert len(data) == info.size
            assert data.startswith(b"LTX1")
            assert theirs.get(info.key, -16) == data[-16:]
            time_ms = int.from_bytes(data[32:40], "big")  # docs/formats/ltx.md, header: timestamp
            assert began_ms - 1000 <= time_ms <= time.time() * 1000
            step = theirs.capabilities.timestamp_step_ms
            if theirs.capabilities.timestamps:
                assert theirs.head(info.key).timestamp_ms == time_ms // step * step
            exclusive = ours.capabilities.put_if_absent
            ours.put(info.key, data, if_absent=exclusive, timestamp_ms=time_ms)
        assert [info.key for info in ours.list()] == [info.key for info in found]
    _litestream(tmp_path, storage, "ours", "restore", "-o", str(tmp_path / "restored"), str(tmp_path / "db"))
    with closing(sqlite3.connect(tmp_path / "restored")) as database:
        assert database.execute("SELECT x FROM t").fetchall() == [(0,), (1,), (2,)]
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
