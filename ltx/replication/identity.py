"""Who we are to a replica: the lineage of our database, and whether a replica was last written to by us."""

import os
import secrets
import socket
from pathlib import Path

from ltx.replica.lineage import Lineage, Writer, read_lineage

__all__ = ["Identity"]


class Identity:
    """One database on this machine, as a writer of replicas.

    Attributes:
        path: The database.

    Args:
        path: The database.
        folder: Where its state lies.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self._folder = folder
        self._lineage: Lineage | None = None

    def read(self) -> None:
        """Look at what was left here."""
        self._lineage = read_lineage(self._folder)

    @property
    def restored_txid(self) -> int:
        """The last transaction when the database was restored; 0 for one that never was."""
        return self._lineage.restored_txid if self._lineage else 0

    def is_of(self, theirs: Writer) -> bool:
        """Whether the database is of the lineage that a replica names."""
        return self._lineage is not None and self._lineage.id == theirs.id

    def wrote(self, theirs: Writer) -> bool:
        """Whether it was this database that wrote to a replica last: the same path, or the same file, on the same machine.

        Two machines may well have it at the same path, with the same inode: that says nothing.
        """
        if theirs.host != socket.gethostname():
            return False
        return theirs.path == str(self.path) or (self.is_of(theirs) and theirs.inode == self._inode())

    def settle(self, theirs: Writer | None) -> None:
        """Be of the lineage that a replica names, or, where there is none, begin one; durably."""
        if self._lineage is None:
            lineage = Lineage(theirs.id if theirs else secrets.token_hex(16))
            lineage.save(self._folder)
            self._lineage = lineage

    def writer(self) -> Writer:
        """Return what a replica is to say of us; once settled."""
        found = self._lineage.id if self._lineage else ""
        return Writer(found, socket.gethostname(), str(self.path), self._inode(), os.getpid())

    def _inode(self) -> int:
        try:
            return os.stat(self.path).st_ino
        except FileNotFoundError:
            return 0
