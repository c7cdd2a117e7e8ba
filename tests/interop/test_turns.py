"""The real Litestream goes on with a replica of ours, and we with one of its, in turns: nothing is lost."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

import ltx
from ltx import Replica
from tests.interop.peer import Database, Peer
from tests.interop.workload import Application, application


@dataclass(frozen=True)
class Turns:
    """A database in use, its replica, and who can replicate it."""

    peer: Peer
    folder: Path
    app: Application

    @property
    def url(self) -> str:
        return f"file://{self.folder}/replica"

    def ours(self) -> None:
        with Replica.open(self.url) as replica:
            assert ltx.replicate_once(self.app.path, replica)

    def theirs_once(self) -> None:
        self.peer.replicate_once(self.app.path, self.url)

    def theirs_running(self) -> None:
        """Their daemon, while the application goes on, for long enough that it merges files."""
        with self.running() as daemon:
            self.use_for(1.3)
            assert daemon.poll() is None

    def check(self) -> None:
        """Restore with both programs: what is committed, page by page."""
        expected = self.app.committed()
        ours, theirs = self.folder / "ours.db", self.folder / "theirs.db"
        with Replica.open(self.url) as replica:
            replica.restore(ours, force=True)
        assert _differing_pages(ours.read_bytes(), expected, self.app.page_size) == []
        theirs.unlink(missing_ok=True)
        assert _differing_pages(self.peer.restore(self.url, theirs), expected, self.app.page_size) == []

    def running(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        database = Database(self.app.path, {"path": f"{self.folder}/replica"})
        return self.peer.replicating(self.folder, [database], levels=("1s", "2s"))

    def use_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.app.step()
            time.sleep(0.04)

    def use(self, steps: int) -> None:
        for _ in range(steps):
            self.app.step()


@pytest.fixture(params=[512, 4096, 65536])
def turns(request: pytest.FixtureRequest, peer: Peer, tmp_path: Path) -> Iterator[Turns]:
    with application(tmp_path / "app.db", request.param, seed=request.param + 1) as app:
        yield Turns(peer, tmp_path, app)


def test_they_take_over_from_us_and_we_from_them_again_and_again(turns: Turns) -> None:
    for steps in (3, 11, 5):
        turns.ours()
        turns.check()
        turns.use(steps)
        turns.ours()
        turns.use(steps)
        turns.theirs_once()
        turns.check()
        turns.use(steps)
        turns.ours()
        turns.check()
        turns.use(steps)
        turns.theirs_running()
        turns.check()
        turns.use(steps)
    with Replica.open(turns.url) as replica:
        assert {file.level for file in replica.files()} >= {0, 1, 9}
        assert replica.verify().is_sound


def test_what_was_committed_while_nobody_replicated_is_not_lost(turns: Turns) -> None:
    turns.theirs_once()
    turns.use(9)
    turns.app.restart_wal()
    turns.use(9)
    turns.ours()
    turns.check()
    turns.use(9)
    turns.app.restart_wal()
    turns.use(9)
    turns.theirs_once()
    turns.check()


def test_we_go_on_where_they_were_killed(turns: Turns) -> None:
    with turns.running() as daemon:
        turns.use_for(0.5)
        daemon.kill()
        daemon.wait()
    turns.use(6)
    turns.ours()
    turns.check()


def test_our_sidecar_lies_beside_theirs_and_disturbs_neither(turns: Turns) -> None:
    turns.ours()
    turns.use(1)
    turns.theirs_once()
    meta = turns.folder / ".app.db-litestream"
    ours = sorted(file.name.partition("-")[0] for file in meta.iterdir() if file.is_file())
    assert ours == ["lineage.json", "pages"]
    assert (meta / "ltx").is_dir()
    turns.use(1)
    turns.ours()
    turns.check()


def _differing_pages(one: bytes, other: bytes, page_size: int) -> list[int]:
    assert len(one) == len(other)
    return [
        start // page_size + 1
        for start in range(0, len(one), page_size)
        if one[start : start + page_size] != other[start : start + page_size]
    ]
