"""The real Litestream restores what we wrote while the database was in use, and takes turns with our daemon."""

import time
from contextlib import closing
from pathlib import Path

import pytest

from ltx import TXID, Replica
from ltx.format import file_name
from ltx.replication.database import Database as Live
from ltx.replication.database import Settings
from tests.interop.peer import Database, Peer
from tests.interop.workload import Application, application
from tests.support.databases import connected, fill, image, make
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


def test_we_go_on_with_a_database_of_theirs_of_which_no_page_is_as_it_was(peer: Peer, tmp_path: Path) -> None:
    """What they left beside it tells that their replica is its: it holds the same newest file."""
    path, url = make(tmp_path / "app.db", rows=60), tmp_path / "replica"
    peer.replicate_once(path, f"file://{url}")
    with connected(path) as db:
        fill(db, 3)
    peer.replicate_once(path, f"file://{url}")
    (
        tmp_path / ".app.db-litestream" / "ltx" / "0" / file_name(TXID(1), TXID(1))
    ).unlink()  # as after 5 minutes
    with connected(path) as db:
        db.execute("UPDATE t SET b = randomblob(length(b))")
    with (
        Replica.open(str(url)) as replica,
        closing(Live(path, [replica], Settings())) as database,
    ):
        database.sync()
        assert database.uploaders[0].push(), database.uploaders[0].error
    assert restored(str(url), tmp_path / "ours.db") == image(path)
