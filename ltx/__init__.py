"""SQLite databases as LTX files: replicated to any storage, restored as they were at any moment.

>>> import ltx
>>> replica = ltx.Replica.open("s3://bucket/app")
>>> replica.restore("app.db", at="5 minutes ago")
"""

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
