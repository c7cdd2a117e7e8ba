"""The real Litestream restores what we wrote while the database was in use, and takes turns with our daemon."""

import time
from pathlib import Path

import pytest

from tests.interop.peer import Database, Peer
from tests.interop.workload import Application, application
from tests.support.replicating import differing, replicating, restored


def use_for(app: Application, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        app.step()
        time.sleep(0.02)


def check(app: Application, peer: Peer, folder: Path, url: str) -> None:
    expected = app.committed()
    theirs = folder / "theirs.db"
    theirs.unlink(missing_ok=True)
    assert differing(peer.restore(url, theirs), expected, app.page_size) == []
    assert differing(restored(url, folder / "ours.db"), expected, app.page_size) == []


@pytest.mark.parametrize("page_size", [512, 4096])
def test_they_restore_what_we_wrote_under_load_and_we_take_turns(
    page_size: int, peer: Peer, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/replica"
    with application(tmp_path / "app.db", page_size, seed=page_size) as app:
        for _ in range(2):
            with replicating(app.path, url, "--sync-interval", "0.05"):
                use_for(app, 1.5)
            check(app, peer, tmp_path, url)
            use_for(app, 0.2)
            app.restart_wal()
            use_for(app, 0.2)
            database = Database(app.path, {"path": f"{tmp_path}/replica"})
            with peer.replicating(tmp_path, [database], levels=("1s", "2s")) as daemon:
                use_for(app, 1.5)
                assert daemon.poll() is None
            check(app, peer, tmp_path, url)
            use_for(app, 0.2)
        with replicating(app.path, url, "--sync-interval", "0.05"):
            use_for(app, 0.5)
        check(app, peer, tmp_path, url)
