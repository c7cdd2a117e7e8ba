"""Opening a replica: as a connection, or as a URI for whoever opens databases by name."""

import os
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit

import apsw

from vfs.disk_cache import DEFAULT_DISK_SIZE
from vfs.hydration_place import is_on
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, open_source
from vfs.sqlite import DEFAULT_POLL_INTERVAL_S, VFS_NAME, hand_over

__all__ = ["connect", "uri"]

_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
"""Of every connection: what is attached may be written."""


def connect(
    url: str,
    at: str | datetime | None = None,
    txid: int | str | None = None,
    *,
    poll_interval: float = DEFAULT_POLL_INTERVAL_S,
    cache_size: int = DEFAULT_CACHE_SIZE,
    timeout: float = DEFAULT_TIMEOUT_S,
    pin: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_dir_size: int = DEFAULT_DISK_SIZE,
    hydrate: bool | None = None,
    hydration_path: str | os.PathLike[str] | None = None,
    **storage_options: object,
) -> apsw.Connection:
    """Open a replica for queries.

    A transaction sees one state from its first page to its last. Without `at` and `txid` a new transaction
    looks for a newer state when the last look is older than `poll_interval`; nothing happens in between.
    Connections of one process to the same replica share their pages.

    Args:
        url: The replica, such as `s3://bucket/app`.
        at: A time to stay at, such as `5 minutes ago`; None and `latest` follow. `PRAGMA litestream_time` changes it
            later.
        txid: A TXID to stay at, as a number or 16 hex digits.
        poll_interval: Seconds; 0 looks at every transaction.
        cache_size: Bytes of pages to keep in memory.
        timeout: Seconds that one wait for the storage may take.
        pin: See to it that a long transaction, or a time that was set, can be read to its end: what it still needs of
            files that merges and retention are about to delete is fetched to a temporary file.
        cache_dir: A folder to keep pages in between runs, for all processes that name it; None for the one that
            LITESTREAM_CACHE_DIR names, if it does.
        cache_dir_size: Bytes that all replicas together may take there.
        hydrate: Fetch the whole database in the background, in big pieces, to the disk, while queries go on; `PRAGMA
            litestream_hydration_status` tells how far that is. None for what LITESTREAM_HYDRATION_ENABLED says.
        hydration_path: A file to keep that in, as long as it takes; None for the one that LITESTREAM_HYDRATION_PATH
            names. With none it goes into `cache_dir`, and without that into a temporary folder, which is removed.
        storage_options: Handed to the backend.

    Returns:
        A connection whose main database is read-only. `ATTACH` opens local databases as usual.

    Raises:
        NoSnapshotError: The replica is empty.
        NotReachableError: The time or the TXID cannot be had; the error says which can.
        backends.BackendError: The storage cannot be reached, or refuses.
        ValueError: An argument means nothing.
    """
    hydrates = is_on(hydrate)
    source = open_source(
        url,
        cache_size,
        timeout,
        storage_options,
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        cache_dir_size=cache_dir_size,
        hydrates=hydrates,
        hydration_path=None if hydration_path is None else os.fspath(hydration_path),
    )
    parameters = {
        "source": hand_over(source),
        "poll_interval": str(poll_interval),
        "hydrate": str(int(hydrates)),
        "pin": str(int(pin)),
        **_moment(at, txid),
    }
    return apsw.Connection(_name(url, parameters), flags=_FLAGS)


def uri(
    url: str,
    at: str | datetime | None = None,
    txid: int | str | None = None,
    *,
    poll_interval: float | None = None,
) -> str:
    """Return the SQLite URI of a replica, for `ATTACH` and for whatever opens a database by URI.

    Args:
        url: The replica. A secret in it stands in the result too.
        at: A time to stay at.
        txid: A TXID to stay at.
        poll_interval: Seconds between looks at the storage; None for the usual one.
    """
    polling = {} if poll_interval is None else {"poll_interval": str(poll_interval)}
    return _name(url, {"replica_url": url, **polling, **_moment(at, txid)})


def _moment(at: str | datetime | None, txid: int | str | None) -> dict[str, str]:
    if isinstance(txid, int):
        txid = f"{txid:016x}"
    if isinstance(at, datetime):
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
    return {name: value for name, value in (("at", at), ("txid", txid)) if value is not None}


def _name(url: str, parameters: dict[str, str]) -> str:
    label = urlsplit(url).path.rstrip("/").rpartition("/")[2] or "replica"
    query = urlencode({"vfs": VFS_NAME, **parameters}, quote_via=quote, safe="")
    return f"file:{quote(label, safe='')}?{query}"
