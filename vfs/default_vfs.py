"""Letting a connection on a replica open everything else the ordinary way.

SQLite gives a connection the VFS of its main database, for attached databases and temporary files too. A VFS
written in Python has no shared memory, so that a local database in WAL mode, attached through one, would be
read without its WAL: wrong answers. What the connection uses is the first field of its `sqlite3` object; we
put the default VFS there, after holding that field to what SQLite says of itself (docs/design/0003-default-vfs.md).
"""

import ctypes
from functools import lru_cache

import apsw

from vfs.errors import QueryError

__all__ = ["use_default_vfs"]

_NAME_OFFSET, _OPEN_OFFSET = 24, 40
"""Of `zName` and `xOpen` in struct sqlite3_vfs, whose layout SQLite keeps; on 64-bit systems."""


def use_default_vfs(connection: apsw.Connection) -> None:
    """Let a connection attach local databases, and keep temporary files, through the default VFS.

    Its main database goes on as it was opened, and `vfs=` in a URI is obeyed as ever.

    Raises:
        QueryError: This SQLite is laid out in a way that we do not know.
    """
    _field(connection).value = _default_vfs()


@lru_cache(maxsize=1)
def _default_vfs() -> int:
    """Return where the default VFS lies, if its name and method are found where they must be."""
    name = apsw.vfs_names()[0]
    known = next(details for details in apsw.vfs_details() if details["zName"] == name)
    plain = apsw.Connection(":memory:", vfs=name)
    try:
        address = _field(plain).value or 0
        found = ctypes.c_char_p.from_address(address + _NAME_OFFSET).value if address else None
        opens = ctypes.c_void_p.from_address(address + _OPEN_OFFSET).value if address else None
    finally:
        plain.close()
    if ctypes.sizeof(ctypes.c_void_p) != 8 or found != name.encode() or opens != known["xOpen"]:
        raise QueryError(f"SQLite {apsw.sqlite_lib_version()} is laid out in a way that is not known here")
    return address


def _field(connection: apsw.Connection) -> ctypes.c_void_p:
    return ctypes.c_void_p.from_address(connection.sqlite3_pointer())
