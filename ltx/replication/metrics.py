"""What a running replicator counts, for Prometheus: read when it is asked for, so that it costs nothing between.

Names are those of the real Litestream where they mean the same. It has `litestream_sync_count` and the like without the
`_total` that clients put behind a counter's name today; here they are untyped, and rates work on them all the same.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UntypedMetricFamily
from prometheus_client.registry import Collector

from ltx.replication.daemon import Daemon
from ltx.replication.database import Database

__all__ = ["Metrics", "serving"]


class Metrics(Collector):
    """All metrics of a replicator.

    Args:
        daemon: The replicator.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        databases = self._daemon.databases
        yield from self._of_databases(databases)
        yield from _of_replicas(databases)
        yield _count("litestream_databases", "Databases that are replicated.", len(databases))

    def _of_databases(self, databases: list[Database]) -> Iterator[Metric]:
        db_size = GaugeMetricFamily("litestream_db_size", "Bytes of the database file.", labels=["db"])
        wal_size = GaugeMetricFamily("litestream_wal_size", "Bytes of the WAL.", labels=["db"])
        txid = GaugeMetricFamily("litestream_txid", "The last transaction captured.", labels=["db"])
        syncs = UntypedMetricFamily("litestream_sync_count", "Looks at the database.", labels=["db"])
        errors = UntypedMetricFamily("litestream_sync_error_count", "Looks that failed.", labels=["db"])
        seconds = UntypedMetricFamily("litestream_sync_seconds", "Seconds that looks took.", labels=["db"])
        points = UntypedMetricFamily("litestream_checkpoint_count", "Checkpoints that got through.", labels=["db", "mode"])  # fmt: skip
        barrier = GaugeMetricFamily("litestream_checkpoint_longest_barrier_seconds", "For how long writers were kept out at most.", labels=["db"])  # fmt: skip
        failing = GaugeMetricFamily("litestream_db_error", "1 while the database cannot be read.", labels=["db"])  # fmt: skip
        for database in databases:
            name, status = [str(database.path)], database.status
            for family, path in ((db_size, str(database.path)), (wal_size, f"{database.path}-wal")):
                with suppress(OSError):
                    family.add_metric(name, os.stat(path).st_size)
            txid.add_metric(name, status.txid)
            sync_count, error_count, sync_s = self._daemon.counts(database)
            syncs.add_metric(name, sync_count)
            errors.add_metric(name, error_count)
            seconds.add_metric(name, sync_s)
            points.add_metric([*name, "PASSIVE"], status.checkpoints)
            barrier.add_metric(name, status.longest_barrier_s)
            failing.add_metric(name, status.error is not None)
        yield from (db_size, wal_size, txid, syncs, errors, seconds, points, barrier, failing)


def _of_replicas(databases: list[Database]) -> Iterator[Metric]:
    of = ["db", "replica"]
    txid = GaugeMetricFamily(
        "litestream_replica_txid", "The last transaction that the replica has.", labels=of
    )
    size = GaugeMetricFamily(
        "litestream_replica_lag_bytes", "Bytes captured that the replica lacks.", labels=of
    )
    age = GaugeMetricFamily("litestream_replica_lag_seconds", "Age of the oldest transaction that the replica lacks.", labels=of)  # fmt: skip
    failing = GaugeMetricFamily("litestream_replica_error", "1 while nothing can be uploaded.", labels=of)
    upkeep = GaugeMetricFamily("litestream_replica_upkeep_error", "1 while it cannot be kept small, or has damaged files.", labels=of)  # fmt: skip
    requests: Counter[tuple[str, str]] = Counter()
    moved: Counter[tuple[str, str]] = Counter()
    for database in databases:
        for uploader in database.uploaders:
            name, status = [str(database.path), uploader.replica.url], uploader.status
            if uploader.txid is not None:
                txid.add_metric(name, uploader.txid)
            size.add_metric(name, cast("float", status["lag_size"]))
            age.add_metric(name, cast("float", status["lag_s"]))
            failing.add_metric(name, uploader.error is not None)
            upkeep.add_metric(name, uploader.upkeep_error is not None)
            backend = uploader.replica.backend
            for kind, count in backend.stats.requests.items():
                requests[backend.scheme, kind.upper()] += count
            moved[backend.scheme, "GET"] += backend.stats.received
            moved[backend.scheme, "PUT"] += backend.stats.sent
    yield from (txid, size, age, failing, upkeep)
    by = ["replica_type", "operation"]
    operations = CounterMetricFamily("litestream_replica_operation_total", "Requests to storages.", labels=by)
    sizes = UntypedMetricFamily("litestream_replica_operation_bytes", "Bytes of objects read and written.", labels=by)  # fmt: skip
    for labels, count in sorted(requests.items()):
        operations.add_metric(labels, count)
    for labels, count in sorted(moved.items()):
        sizes.add_metric(labels, count)
    yield from (operations, sizes)


def _count(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family


@contextmanager
def serving(daemon: Daemon, address: str) -> Iterator[int]:
    """Serve the metrics of a replicator at `/metrics` meanwhile.

    Args:
        daemon: The replicator.
        address: `host:port`; without a host all addresses of this machine, with port 0 any free one.

    Yields:
        The port.

    Raises:
        OSError: The address is not ours, or taken.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(daemon))
    server, thread = start_http_server(int(port), addr=host.strip("[]") or "0.0.0.0", registry=registry)  # noqa: S104 - as ":9090" says
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
