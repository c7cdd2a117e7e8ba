"""SQLite databases as LTX files: replicated to any storage, restored as they were at any moment.

>>> import ltx
>>> replica = ltx.Replica.open("s3://bucket/app")
>>> replica.restore("app.db", at="5 minutes ago")
"""

import typing as _typing

from ltx.errors import (
    ChecksumError,
    ConfigFileError,
    ConflictError,
    CorruptError,
    DatabaseError,
    GapError,
    LTXError,
    NonContiguousError,
    NoSnapshotError,
    NotReachableError,
    OutputExistsError,
    ReplicaError,
    TruncatedError,
    UnsupportedVersionError,
)
from ltx.format import TXID
from ltx.replica import LTXFile, Plan, Replica, Restored

if _typing.TYPE_CHECKING:
    from ltx.replication import Published, Replication, replicate, replicate_once

__all__ = [
    "TXID",
    "ChecksumError",
    "ConfigFileError",
    "ConflictError",
    "CorruptError",
    "DatabaseError",
    "GapError",
    "LTXError",
    "LTXFile",
    "NoSnapshotError",
    "NonContiguousError",
    "NotReachableError",
    "OutputExistsError",
    "Plan",
    "Published",
    "Replica",
    "ReplicaError",
    "Replication",
    "Restored",
    "TruncatedError",
    "UnsupportedVersionError",
    "replicate",
    "replicate_once",
]
__version__ = "0.1.0"


_LATER = frozenset({"Published", "Replication", "replicate", "replicate_once"})


def __getattr__(name: str) -> object:
    """Load what writes to replicas when it is asked for: a query does without."""
    if name not in _LATER:
        raise AttributeError(f"module 'ltx' has no attribute {name!r}")
    import ltx.replication

    found: object = getattr(ltx.replication, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(_LATER.union(globals()))
