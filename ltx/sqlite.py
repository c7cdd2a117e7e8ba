"""What several layers ask of SQLite itself."""

import ctypes
import os

import apsw

__all__ = ["leave_wal_on_close", "sync_folder"]


def leave_wal_on_close(connection: apsw.Connection) -> None:
    """Let a connection, when it is the last one to close, neither checkpoint nor remove the WAL."""
    on = ctypes.c_int(1)
    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(on))
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
