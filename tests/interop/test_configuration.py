"""One `litestream.yml` for both programs: they see the same databases and put them in the same places."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import pytest

from ltx.replication.config.reader import read_config
from tests.interop.peer import Peer, PeerError
from tests.servers.storages import STORAGES, Storage
from tests.support.databases import connected as opened
from tests.support.databases import fill, image, make

ROOT = Path(__file__).parents[2]
SHARED = [name for name in STORAGES if name in ("folder", "s3", "webdav", "gcs", "azure", "sftp")]


def ltx(folder: Path, *words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run `ltx` in a folder, with nothing in the environment that says where or who."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "AZURE_", "LITESTREAM_", "SSH_", "STORAGE_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "ltx", *map(str, words)],
        env={**kept, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder), **(environment or {})},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NAMES = ("a.db", "b.db", "my notes.db", "c.sqlite", "x-1.db", "ünï.db", "sub/d.db", "sub/deep/e.db", "ab.db")
PATTERNS = (
    "*.db",
    "[ab].db",
    "[^a]*.db",
    "?.db",
    "*",
    "[a-c]?.*",
    "\\a.db",
    "*.sqlite",
    "[x]-1.db",
    "nothing*",
)


def tree(folder: Path) -> None:
    """Make a folder of databases, and of files that are none."""
    for name in NAMES:
        path = folder / "dbs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    (folder / "dbs" / "text.db").write_text("no database, whatever its name says")
    (folder / "dbs" / "empty.db").touch()


def configuration(folder: Path, choice: Random) -> dict[str, object]:
    """Make up a configuration over that folder; every replica lies below `out`."""
    entries: list[dict[str, object]] = []
    free = [*NAMES]
    for number in range(choice.randint(1, 3)):
        places: list[dict[str, object]] = [
            {"path": f"{folder}/out/{number}"},
            {"type": "file", "path": f"{folder}/out/{number}/with space/"},
            {"url": f"file://{folder}/out/{number}"},
            {"url": f"file://{folder}/out/{number}/a b%20c+d"},
            {"url": f"file://{folder}/out/{number}/../{number}x?ignored=1"},
            {"url": f"file:/{folder}/out/{number}//ü"},
        ]
        place = choice.choice(places)
        replica = {"replica": place} if choice.random() < 0.7 else {"replicas": [place]}
        if number == 0 and choice.random() < 0.6:
            entry: dict[str, object] = {
                "dir": f"{folder}/dbs",
                "pattern": choice.choice(PATTERNS),
                "recursive": choice.random() < 0.5,
                "watch": True,  # else the real one refuses a folder without a database
            }
            if choice.random() < 0.3:
                entry[choice.choice(["meta-path", "meta-dir"])] = f"{folder}/meta"
        else:
            name = free.pop(choice.randrange(len(free)))
            entry = {"path": choice.choice([f"{folder}/dbs/{name}", f"sqlite://{folder}/dbs/{name}"])}
        entries.append(entry | replica)
    return {"dbs": entries}


def places(folder: Path) -> list[str]:
    """Return where replicas lie below a folder."""
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("ltx") if path.is_dir())


@pytest.mark.parametrize("seed", range(12))
def test_both_see_the_same_databases_and_places(peer: Peer, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "work"
    tree(folder)
    shutil.copytree(folder, tmp_path / "as it was")
    config = folder / "litestream.yml"
    config.write_text(json.dumps(configuration(folder, Random(seed))))
    peer.run("replicate", "-once", "-config", config)
    theirs = places(folder / "out") if (folder / "out").exists() else []
    found = read_config(config, environment={})
    if not found.folders:  # of which it says the current folder, or nothing at all
        named = [each["path"] for each in json.loads(peer.run("databases", "-config", config, "-json"))]
        assert [str(each.path) for each in found.databases] == named

    text = config.read_text()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "as it was", folder)
    config.write_text(text)
    ltx(folder, "replicate", "--once", "--config", config)
    assert (places(folder / "out") if (folder / "out").exists() else []) == theirs
    for each in found.databases:
        out = tmp_path / "out.db"
        peer.run("restore", "-config", config, "-o", out, each.path)
        assert out.read_bytes() == image(each.path)
        out.unlink()


@pytest.mark.parametrize(
    "text",
    [
        "dbs:\n- path: a.db\n  replica: {path: out, sync-interval: 1 s}\n",
        "dbs:\n- path: a.db\n  replica: file:///out\n",
        "dbs:\n- path: a.db\n  replica: {url: 's3://b/p', bucket: c}\n",
        "dbs:\n- path: a.db\n  replica: {path: 's3://b/p'}\n",
        "dbs:\n- path: a.db\n  replica: {type: s4}\n",
        "dbs:\n- path: a.db\n",
        "dbs:\n- path: a.db\n  dir: b\n  replica: {path: out}\n",
        "dbs:\n- dir: .\n  replica: {path: out}\n",
        "dbs:\n- dir: .\n  pattern: '[a'\n  replica: {path: out}\n",
        "dbs:\n- path: a.db\n  watch: true\n  replica: {path: out}\n",
        "dbs:\n- path: a.db\n  replica: {path: out}\n- path: a.db\n  replica: {path: o}\n",
        "snapshot: {interval: 0s}\n",
        "heartbeat-url: ftp://x\n",
        "heartbeat-interval: 10s\n",
        "dbs:\n- path: a.db\n  replica: {path: out, age: {identities: [x]}}\n",
        "dbs: [\n",
    ],
)
def test_what_they_refuse_is_refused_here(peer: Peer, tmp_path: Path, text: str) -> None:
    make(tmp_path / "a.db")
    config = tmp_path / "litestream.yml"
    config.write_text(text.replace("a.db", str(tmp_path / "a.db")).replace("dir: .", f"dir: {tmp_path}"))
    with pytest.raises(PeerError):
        peer.run("replicate", "-once", "-config", config)
    with pytest.raises(ValueError, match=r"litestream\.yml"):
        read_config(config, environment={})


@pytest.fixture(scope="module")
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    with STORAGES[request.param]() as found:
        yield found


@pytest.mark.parametrize("storage", SHARED, indirect=True, scope="module")
def test_one_file_is_enough_for_both_on_every_storage(storage: Storage, tmp_path: Path) -> None:
    assert storage.peer
    peer = Peer(storage.peer_environment)
    path, out = make(tmp_path / "app.db"), tmp_path / "out.db"
    config = tmp_path / "litestream.yml"
    config.write_text(json.dumps({"dbs": [{"path": str(path), "replica": storage.peer("config/app")}]}))

    def ours(*words: str | Path) -> str:
        return ltx(tmp_path, *words, "--config", config, environment=storage.peer_environment)

    ours("replicate", "--once")
    peer.run("restore", "-config", config, "-o", out, path)  # theirs, of ours
    assert out.read_bytes() == image(path)
    with opened(path) as app:
        fill(app, 10)
    peer.run("replicate", "-once", "-config", config)  # they go on
    ours("restore", path, "-o", out, "--force")  # ours, of both
    assert out.read_bytes() == image(path)
    with opened(path) as app:
        fill(app, 10)
    ours("replicate", "--once")  # and so do we
    assert {line.split()[0] for line in ours("list", path).splitlines()[1:]} >= {"0"}
    out.unlink()
    peer.run("restore", "-config", config, "-o", out, path)
    assert out.read_bytes() == image(path)
