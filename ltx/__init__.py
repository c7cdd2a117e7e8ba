"""SQLite databases as LTX files: replicated to any storage, restored as they were at any moment.

>>> import ltx
>>> replica = ltx.Replica.open("s3://bucket/app")
>>> replica.restore("app.db", at="5 minutes ago")
"""

import typing as _typing
from importlib import import_module as _import_module

if _typing.TYPE_CHECKING:
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

_HOMES = {
    "TXID": "ltx.format",
    **dict.fromkeys(("LTXFile", "Plan", "Replica", "Restored"), "ltx.replica"),
    **dict.fromkeys(("Published", "Replication", "replicate", "replicate_once"), "ltx.replication"),
}
"""Where what is public is; errors are in `ltx.errors`."""

_PARTS = frozenset({"errors", "format", "replica"})


def __getattr__(name: str) -> object:
    """Load what is asked for: a query does without what writes, and the command line is there before the rest."""
    if name in _PARTS:
        return _import_module(f"ltx.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'ltx' has no attribute {name!r}")
    found: object = getattr(_import_module(_HOMES.get(name, "ltx.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
