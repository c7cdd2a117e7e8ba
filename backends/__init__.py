"""Bytes under keys, on any storage: one interface, one contract, one class a scheme.

`open_backend(url)` opens one. Importing this package loads no storage library.
"""

from backends.base import Backend, Capabilities, Data, ObjectInfo, Page, Piece, Stats
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    MissingDependencyError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnknownSchemeError,
    UnsupportedError,
)
from backends.keys import check_key
from backends.registry import open_backend, register, schemes

__all__ = [
    "AlreadyExistsError",
    "Backend",
    "BackendError",
    "Capabilities",
    "ConfigError",
    "Data",
    "MissingDependencyError",
    "NotFoundError",
    "ObjectInfo",
    "Page",
    "PermissionDeniedError",
    "Piece",
    "Stats",
    "UnavailableError",
    "UnknownSchemeError",
    "UnsupportedError",
    "check_key",
    "open_backend",
    "register",
    "schemes",
]
