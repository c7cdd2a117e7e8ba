"""Replicas written by the real Litestream, queried where they lie: the answers are those of the source."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import vfs
from ltx import Replica
from ltx.replica.plan import reach_of
from tests.interop.recording import RECORDINGS, Recording
from tests.test_vfs.origin import as_read, content, rows, seen

MOST = 12
"""States of a recording that are visited."""

QUESTIONS = (
    "SELECT * FROM sandwiches ORDER BY id",
    "SELECT rating, count(*), sum(length(note)) FROM sandwiches GROUP BY rating",
    "SELECT name FROM sandwiches INDEXED BY by_rating WHERE rating = 3 ORDER BY id",
    "PRAGMA page_count",
    "PRAGMA page_size",
    "PRAGMA freelist_count",
    "PRAGMA integrity_check",
)


@pytest.fixture(params=RECORDINGS)
def recording(request: pytest.FixtureRequest, recordings: Mapping[str, Recording]) -> Recording:
    return recordings[request.param]


def test_queries_answer_as_on_the_source(recording: Recording, tmp_path: Path) -> None:
    (tmp_path / "source.db").write_bytes(recording.source)
    with (
        closing(vfs.connect(recording.url)) as db,
        closing(apsw.Connection(str(tmp_path / "source.db"))) as source,
    ):
        for question in QUESTIONS:
            assert rows(db, question) == rows(source, question)
        assert content(db) == as_read(recording.source)


def test_every_state_by_txid_and_by_time_is_what_a_restore_gives(
    recording: Recording, tmp_path: Path
) -> None:
    replica = Replica.open(recording.url)
    txids = reach_of(replica.files()).txids
    kept = vfs.connect(recording.url)
    for txid in txids[:: max(1, len(txids) // MOST)]:
        restored = replica.restore(tmp_path / f"{txid}.db", txid=txid)
        wanted = as_read(restored.path.read_bytes())
        with closing(vfs.connect(recording.url, txid=txid)) as db:
            assert content(db) == wanted
        rows(kept, f"PRAGMA litestream_time = '{restored.time.isoformat()}'")
        assert seen(kept) == replica.plan(at=restored.time).txid
        if seen(kept) == txid:  # a busy millisecond has several
            assert content(kept) == wanted
        restored.path.unlink()


def test_the_first_and_the_last_state_are_joined_in_one_query(recording: Recording, tmp_path: Path) -> None:
    replica = Replica.open(recording.url)
    txids = reach_of(replica.files()).txids
    last, first = (
        str(replica.restore(tmp_path / f"{txid}.db", txid=txid).path) for txid in (txids[-1], txids[0])
    )
    joined = "SELECT * FROM main.sandwiches m FULL JOIN first.sandwiches f USING (id) ORDER BY id"
    with closing(vfs.connect(recording.url)) as db, closing(apsw.Connection(last)) as plain:
        db.execute("ATTACH ? AS first", (vfs.uri(recording.url, txid=txids[0]),))
        plain.execute("ATTACH ? AS first", (first,))
        assert rows(db, joined) == rows(plain, joined)
        assert (seen(db), seen(db, "first")) == (txids[-1], txids[0])
