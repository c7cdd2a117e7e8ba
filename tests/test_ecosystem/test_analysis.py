"""polars, Arrow and DuckDB through PEP 249, beside what they make of the same rows from `sqlite3`."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from tests.test_vfs.origin import Origin, origin
from vfs import dbapi

TYPES = "CREATE TABLE t (i INTEGER, f REAL, s VARCHAR(9), b BLOB, day DATE, moment DATETIME, n NUMERIC, flag BOOLEAN)"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path) as made:
        made.commit(
            TYPES,
            "INSERT INTO t VALUES (1, 1.5, 'ä', x'00ff', '2026-11-22', '2026-11-22 14:52:10', 7, 1)",
            "INSERT INTO t VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
            "INSERT INTO t VALUES (1 << 40, -2, '', x'', '2026-11-23', '2026-11-23 14:52:10', 7, 0)",
        )
        made.commit("DELETE FROM t WHERE i = 1")
        yield made


@pytest.mark.parametrize("txid", [1, 2])
@pytest.mark.parametrize(
    "sql",
    ["SELECT * FROM t", "SELECT * FROM t WHERE 0", "SELECT sum(i) AS i, count(*) AS n, max(s) AS s FROM t"],
)
def test_polars_makes_the_frame_that_it_makes_of_a_restored_database(
    source: Origin, tmp_path: Path, txid: int, sql: str
) -> None:
    source.replica.restore(tmp_path / "copy.db", txid=txid)
    with (
        closing(dbapi.connect(source.url, txid=txid)) as ours,
        closing(sqlite3.connect(tmp_path / "copy.db")) as theirs,
    ):
        found = pl.read_database(sql, ours)
        assert found.equals(pl.read_database(sql, theirs))
        assert found.schema == pl.read_database(sql, theirs).schema
        pieces = pl.read_database(sql, ours, iter_batches=True, batch_size=2)
        assert sum(piece.height for piece in pieces) == found.height


def test_arrow_and_duckdb_take_what_a_cursor_gives(source: Origin) -> None:
    tables = []
    for txid in (1, 2):
        with closing(dbapi.connect(source.url, txid=txid)) as connection:
            cursor = connection.execute("SELECT i, f, s, b FROM t WHERE i IS NOT NULL")
            names = [column[0] for column in cursor.description or ()]
            columns = zip(*cursor.fetchall(), strict=True)
            tables.append(pa.table(dict(zip(names, map(list, columns), strict=True))))
    before, now = tables
    assert before.num_rows == 2
    assert [str(kind) for kind in before.schema.types] == ["int64", "double", "string", "binary"]
    gone = duckdb.execute("SELECT i, s, octet_length(b) FROM before ANTI JOIN now USING (i)").fetchall()
    assert gone == [(1, "ä", 2)]
    assert now.num_rows == 1
