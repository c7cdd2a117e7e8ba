"""The whole way on every storage, by the commands that its users type, and with the real Litestream both ways.

Each replica has three states. The time that is asked for lies after the second and before the third of them, whatever
clock the storage goes by and however coarse: a whole second begins between the two.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import apsw
import pytest

import backends
from tests.interop.peer import Peer
from tests.interop.workload import Application, application
from tests.servers.storages import SCHEMES, STORAGES, Storage

ROOT = Path(__file__).parents[2]
QUERY = "select count(*), sum(rating), sum(length(note)), min(hex(note)), max(name) from sandwiches"

everywhere = pytest.mark.parametrize(
    "storage", [name for name in STORAGES if name != "memory"], indirect=True, scope="module"
)
"""But in memory, where nothing stays when a command has ended."""


@dataclass(frozen=True)
class User:
    """Somebody who has set what the guide says for one storage, and nothing else."""

    storage: Storage
    home: Path

    def ltx(self, *words: str | Path) -> str:
        """Run `ltx`."""
        return self._run("ltx", *map(str, words), *self.storage.options)

    def query(self, url: str, *words: str) -> str:
        """Run `python -m vfs` with `QUERY`."""
        return self._run("vfs", url, *words, *self.storage.options, QUERY)

    def litestream(self, command: str, database: Path, path: str, *words: str | Path) -> None:
        """Run the real Litestream on the replica of a database at a path of this storage."""
        assert self.storage.peer
        config = self.home / "litestream.json"
        config.write_text(json.dumps({"dbs": [{"path": str(database), "replica": self.storage.peer(path)}]}))
        peer = Peer(self.storage.peer_environment)
        peer.run(command, "-config", config, *words, *([database] if command == "restore" else []))

    def _run(self, module: str, *arguments: str) -> str:
        bare = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "AZURE_", "LITESTREAM_", "SSH_", "STORAGE_"))
        }
        environment = {**bare, "PYTHONPATH": str(ROOT), "HOME": str(self.home), **self.storage.environment}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout


@dataclass(frozen=True)
class Replicated:
    """A replica of three states.

    Attributes:
        path: Of the replica on the storage.
        database: The source.
        states: The source as it was after each run.
        at: A time after the second state and before the third.
    """

    path: str
    database: Path
    states: Sequence[bytes]
    at: str

    @property
    def expected(self) -> Mapping[tuple[str, ...], bytes]:
        """What each way to name a state must give."""
        return {
            (): self.states[2],
            ("--txid", f"{1:016x}"): self.states[0],
            ("--timestamp", self.at): self.states[1],
        }


@pytest.fixture(scope="module")
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    with STORAGES[request.param]() as storage:
        assert set(storage.urls) == SCHEMES[request.param]
        yield storage


@pytest.fixture(scope="module")
def user(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(storage, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def ours(user: User) -> Iterator[Replicated]:
    """What three runs of `ltx replicate --once` published."""
    url = next(iter(user.storage.urls.values()))("ours")
    with application(user.home / "ours.db", seed=21) as app:
        runs = _states(app, lambda: user.ltx("replicate", "--once", app.path, url))
        yield Replicated("ours", app.path, *runs)


@pytest.fixture(scope="module")
def theirs(user: User) -> Iterator[Replicated]:
    """What three runs of `litestream replicate -once` published."""
    with application(user.home / "theirs.db", seed=22) as app:
        runs = _states(app, lambda: user.litestream("replicate", app.path, "theirs", "-once"))
        yield Replicated("theirs", app.path, *runs)


@everywhere
def test_each_run_publishes_one_transaction(user: User, ours: Replicated) -> None:
    for url in _urls(user, "ours"):
        listed = json.loads(user.ltx("list", url, "--json"))
        assert [(file["level"], file["min_txid"], file["max_txid"]) for file in listed] == [
            (0, f"{txid:016x}", f"{txid:016x}") for txid in (1, 2, 3)
        ]
    again = user.ltx("replicate", "--once", ours.database, _urls(user, "ours")[0])
    assert again.startswith("nothing was published")


@everywhere
def test_verify_finds_it_sound(user: User, ours: Replicated) -> None:
    found = json.loads(user.ltx("verify", _urls(user, "ours")[-1], "--json"))
    assert found["sound"]
    assert [state["txid"] for state in found["states"]] == [f"{txid:016x}" for txid in (1, 2, 3)]
    assert found["states"][1]["timestamp"] < ours.at < found["states"][2]["timestamp"]


@everywhere
def test_every_state_comes_back_to_the_byte(user: User, ours: Replicated, tmp_path: Path) -> None:
    _restore_all(user, ours, tmp_path)


@everywhere
def test_sql_is_answered_where_it_lies(user: User, ours: Replicated, tmp_path: Path) -> None:
    url = _urls(user, "ours")[-1]
    assert user.query(url) == _answer(ours.states[2])
    assert user.query(url, "--at", ours.at) == _answer(ours.states[1])
    cost = json.loads(user.query(url, "PRAGMA litestream_stats").splitlines()[0])
    assert cost["requests"] >= 2
    assert cost["bytes"] > 100
    assert _answer(ours.states[1]) != _answer(ours.states[2])


@everywhere
def test_litestream_restores_ours(user: User, ours: Replicated, tmp_path: Path) -> None:
    for number, (words, expected) in enumerate(ours.expected.items()):
        output = tmp_path / f"{number}.db"
        single = [word.replace("--", "-") for word in words]
        user.litestream("restore", ours.database, ours.path, *single, "-o", output)
        assert output.read_bytes() == expected, words


@everywhere
def test_we_restore_litestreams(user: User, theirs: Replicated, tmp_path: Path) -> None:
    _restore_all(user, theirs, tmp_path)
    assert user.query(_urls(user, "theirs")[0], "--at", theirs.at) == _answer(theirs.states[1])


def test_every_scheme_has_its_slice() -> None:
    ours = {scheme for scheme, target in backends.schemes().items() if target.startswith("backends.")}
    assert set().union(*(SCHEMES[name] for name in STORAGES)) == ours | {"ftp"}  # one that only fsspec serves


def _urls(user: User, path: str) -> Sequence[str]:
    return [url(path) for url in user.storage.urls.values()]


def _states(app: Application, replicate: Callable[[], object]) -> tuple[Sequence[bytes], str]:
    """Replicate three states; return them, and a time between the last two."""
    states = []
    for turn in range(3):
        if turn == 2:
            boundary = int(time.time() + 1.1)
            time.sleep(boundary + 0.02 - time.time())
        app.step()
        replicate()
        states.append(app.committed())
    at = datetime.fromtimestamp(boundary - 0.05, UTC)
    return states, at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _restore_all(user: User, replicated: Replicated, folder: Path) -> None:
    """Restore each state, by each of the storage's URLs in turn."""
    urls = cycle(_urls(user, replicated.path))
    for number, (words, expected) in enumerate(replicated.expected.items()):
        output = folder / f"{number}.db"
        user.ltx("restore", next(urls), "-o", output, *words)
        assert output.read_bytes() == expected, words


def _answer(state: bytes) -> str:
    """What the shell prints for `QUERY` on a copy of the source."""
    with closing(apsw.Connection(":memory:")) as copy:
        copy.deserialize("main", state[:18] + b"\1\1" + state[20:])  # no WAL in memory
        (row,) = copy.execute(QUERY).fetchall()
    return "|".join(map(str, row)) + "\n"
