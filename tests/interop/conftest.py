"""Replicas that the real Litestream wrote in this run, once for all tests."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.interop.peer import Database, Peer
from tests.interop.recording import PRUNED, Recording
from tests.interop.workload import Application, application

_STEP_S = 0.04
_DEADLINE_S = 40


@pytest.fixture(scope="session")
def peer() -> Peer:
    """The real Litestream."""
    return Peer()


@pytest.fixture(scope="session")
def recordings(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Recording]:
    """Databases in use while the real Litestream replicated them, by the names in `RECORDINGS`.

    All run at the same time: three page sizes with every file kept, and one replica whose level 0 and old
    snapshots are pruned as it goes.
    """
    kept, pruned = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("pruned")
    with contextlib.ExitStack() as stack:
        opened = {
            "512": stack.enter_context(application(kept / "512.db", 512, seed=1)),
            "4096": stack.enter_context(application(kept / "4096.db", 4096, seed=2)),
            "65536": stack.enter_context(application(kept / "65536.db", 65536, seed=3)),
            PRUNED: stack.enter_context(application(pruned / "pruned.db", 4096, seed=4)),
        }
        with (
            peer.replicating(kept, [_database(name, opened[name].path) for name in ("512", "4096", "65536")]),
            peer.replicating(
                pruned,
                [_database(PRUNED, opened[PRUNED].path)],
                snapshot_interval="1s",
                snapshot_retention="1s",
                l0_retention="200ms",
            ),
        ):
            _use(opened)
        return {name: _recorded(name, each) for name, each in opened.items()}


def _database(name: str, path: Path) -> Database:
    return Database(path, {"path": str(path.parent / f"replica-{name}")})


def _use(opened: Mapping[str, Application]) -> None:
    """Use the databases until each replica has seen all that can happen to it."""
    deadline = time.monotonic() + _DEADLINE_S
    while not all(_is_complete(name, each) for name, each in opened.items()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the real Litestream did not fill its levels within {_DEADLINE_S} s")
        for each in opened.values():
            each.step()
        time.sleep(_STEP_S)


def _is_complete(name: str, application: Application) -> bool:
    """Whether every step was done twice and the levels 0, 1, 2 and 9 have what the tests look for."""
    if application.steps < 48:
        return False
    folder = application.path.parent / f"replica-{name}" / "ltx"
    counts = {level: len(list(folder.glob(f"{level}/*.ltx"))) for level in (0, 1, 2, 9)}
    if name != PRUNED:
        return counts[1] >= 3 and counts[2] >= 2 and counts[9] >= 2
    oldest = min((int(file.name[:16], 16) for file in folder.glob("1/*.ltx")), default=1)
    return counts[2] >= 1 and counts[9] >= 1 and oldest > 1


def _recorded(name: str, application: Application) -> Recording:
    folder = application.path.parent / f"replica-{name}"
    return Recording(name, application.page_size, folder, application.committed())
