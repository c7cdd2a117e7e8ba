"""A replica as a SQLite database: queried where it lies, now or as it was, without restoring it.

>>> import vfs
>>> db = vfs.connect("s3://bucket/app", at="5 minutes ago")
>>> db.execute("SELECT * FROM sandwich_ratings LIMIT 3").fetchall()

Importing this package registers the VFS `litestream` with apsw's SQLite, so that
`apsw.Connection(vfs.uri("s3://bucket/app"), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)` and
`ATTACH` work too. Other connections are not affected.
"""

import sys as _sys

if _sys.argv[:1] == ["-m"] and "vfs" in _sys.orig_argv:  # `python -m vfs`, which loads this first
    from ltx.quiet import quiet as _quiet

    _quiet("vfs")

from vfs.connection import connect, uri
from vfs.errors import InterruptedQueryError, QueryError, ReadOnlyError
from vfs.sqlite import VFS_NAME, register

__all__ = ["VFS_NAME", "InterruptedQueryError", "QueryError", "ReadOnlyError", "connect", "uri"]

register()
