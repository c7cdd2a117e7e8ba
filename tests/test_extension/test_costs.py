"""What queries through the extension cost: requests and bytes, as the pragma tells them, and pages asked for."""

import json
from pathlib import Path

import pytest

from tests.support.hosts import Host, host, uri
from tests.test_vfs.origin import Origin, rows

SCAN = "SELECT count(*), sum(length(body)) FROM t"


def stats(program: Host) -> dict[str, int]:
    """Return what the connection spent so far."""
    found: dict[str, int] = json.loads(str(program.sql("PRAGMA litestream_stats")[0][0]))
    return found


@pytest.fixture
def larger(source: Origin) -> Origin:
    source.commit("INSERT INTO t SELECT value, hex(randomblob(200)) FROM generate_series(3001, 20000)")
    return source


def test_a_warm_query_costs_nothing_within_the_poll_interval_and_one_request_beyond(
    larger: Origin, runtime: Path
) -> None:
    with host("python3", runtime) as program:
        program.open(uri(larger.url, poll_interval="600"))
        wanted = [list(row) for row in rows(larger.connection, SCAN)]
        assert program.sql(SCAN) == wanted
        before = stats(program)
        for _ in range(5):
            assert program.sql(SCAN) == wanted
        after = stats(program)
        assert after["requests"] == before["requests"]
        asked = after["cache_hits"] + after["cache_misses"] - before["cache_hits"] - before["cache_misses"]
        assert asked == 0, "the helper is not asked for pages that lie in shared memory"
        program.open(uri(larger.url, poll_interval="0"), "eager")
        assert program.sql(SCAN, "eager") == wanted
        [[told]] = program.sql("PRAGMA litestream_stats", "eager")
        before = json.loads(str(told))
        for _ in range(5):
            assert program.sql(SCAN, "eager") == wanted
        [[told]] = program.sql("PRAGMA litestream_stats", "eager")
        assert json.loads(str(told))["requests"] == before["requests"] + 5


def test_a_scan_reads_what_it_needs_once_in_few_requests(larger: Origin, runtime: Path) -> None:
    size = sum(path.stat().st_size for path in Path(larger.url.removeprefix("file://")).rglob("*.ltx"))
    with host("python3", runtime) as program:
        program.open(uri(larger.url, poll_interval="600"))
        program.sql("PRAGMA cache_size = 10")  # of SQLite itself
        opened = stats(program)
        assert program.sql(SCAN) == [list(row) for row in rows(larger.connection, SCAN)]
        scanned = stats(program)
        assert scanned["bytes"] <= size * 1.02
        assert scanned["requests"] - opened["requests"] <= 16
        asked = scanned["cache_hits"] + scanned["cache_misses"]
        assert asked <= 100, "pages come many at once"
