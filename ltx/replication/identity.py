"""Who we are to a replica: the lineage of our database, and whether a replica was last written to by us."""

import os
import socket
from pathlib import Path

from ltx.errors import ConflictError
from ltx.format import format_txid
from ltx.replica.lineage import Lineage, Writer, read_lineage
from ltx.replication.source import PinnedDatabase
from ltx.replication.table import PageTable, page_hash

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
    def size(self) -> int:
        """Bytes of the database's file; 1 where there is none."""
        try:
            return max(1, os.stat(self.path).st_size)
        except OSError:
            return 1

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

    def may_have_written(self, theirs: Writer) -> bool:
        """Whether it may have been this database, on a machine that has another name now, as containers have."""
        return self.is_of(theirs) and theirs.path == str(self.path) and theirs.host != socket.gethostname()

    def is_stranger(self, theirs: Writer | None, url: str, newest: int, *, knows: bool) -> bool:
        """Whether only the pages can tell if the database may go on with a replica that is ahead of what is known here.

        Args:
            theirs: Who wrote to the replica last.
            url: The replica.
            newest: Its last transaction.
            knows: Whether anything was captured here before.

        Raises:
            ConflictError: Somebody else wrote there what this database never had.
        """
        if theirs is not None and self.wrote(theirs):
            return False
        if theirs is not None and self.is_of(theirs) and self.restored_txid == newest:
            return False  # it was restored to all that is there
        if theirs is not None and (knows or self.is_of(theirs) or self._lives(theirs)):
            raise ConflictError(
                f"{url} was written to by {theirs}, up to TXID {format_txid(newest)}, and {self.path} does not have all "
                "of it: restore it anew, or go on with it all the same (--adopt)"
            )
        return True

    def check_kinship(self, source: PinnedDatabase, table: PageTable | None, url: str) -> None:
        """Refuse to go on with a stranger's replica that has little in common with the database.

        Args:
            source: The database.
            table: What the replica has; None where nothing can be restored from it, so that nobody's history is in danger.
            url: The replica.

        Raises:
            ConflictError: Fewer than half of the pages are equal.
        """
        if table is None:
            return
        same = sum(table.hash_of(pgno) == page_hash(page) for pgno, page in source.pages())
        self._check_likeness(same, source.commit, table, url)

    def check_writer(self, theirs: Writer, url: str, txid: int) -> None:
        """Refuse to go on with a replica of whose transactions nothing is known here, unless we wrote them.

        Args:
            theirs: Who wrote to the replica last.
            url: The replica.
            txid: Its last transaction; here there are more.

        Raises:
            ConflictError: Somebody else wrote there.
        """
        if not (self.wrote(theirs) or (self.is_of(theirs) and txid <= self.restored_txid)):
            raise ConflictError(
                f"{url} was written to by {theirs}, up to TXID {format_txid(txid)}, and nothing tells that "
                f"{self.path} has it: check the URL, or go on with it all the same (--adopt)"
            )

    def check_table(self, ours: PageTable | None, theirs: PageTable | None, url: str) -> None:
        """Refuse to go on with a replica that names nobody, and has little in common with what is known of the database.

        Args:
            ours: What is known of the database; None for nothing.
            theirs: What the replica has; None where nothing can be restored from it.
            url: The replica.

        Raises:
            ConflictError: Fewer than half of the pages are equal.
        """
        if ours is None or theirs is None:
            return
        same = sum(ours.hash_of(pgno) == theirs.hash_of(pgno) for pgno in range(1, ours.commit + 1))
        self._check_likeness(same, ours.commit, theirs, url)

    def _check_likeness(self, same: int, commit: int, theirs: PageTable, url: str) -> None:
        if same * 2 < min(commit, theirs.commit):
            raise ConflictError(
                f"{url} holds another database than {self.path}: of {commit} pages {same} are the same; "
                "check the URL, or go on with it all the same (--adopt)"
            )

    def settle(self, theirs: Writer | None) -> None:
        """Be of the lineage that a replica names, or, where there is none, begin one; durably."""
        if self._lineage is None:
            lineage = Lineage(theirs.id if theirs else os.urandom(16).hex())
            lineage.save(self._folder)
            self._lineage = lineage

    def settle_again(self) -> None:
        """Write down again what we are: the folder of the state was deleted."""
        if self._lineage is not None:
            self._lineage.save(self._folder)

    def writer(self) -> Writer:
        """Return what a replica is to say of us; once settled."""
        found = self._lineage.id if self._lineage else ""
        return Writer(found, socket.gethostname(), str(self.path), self._inode(), os.getpid())

    def _lives(self, theirs: Writer) -> bool:
        """Whether the database that wrote to a replica last still is on this machine, beside ours."""
        if theirs.host != socket.gethostname():
            return False
        found = _inode(theirs.path)
        return found != 0 and found != self._inode()

    def _inode(self) -> int:
        return _inode(self.path)


def _inode(path: str | os.PathLike[str]) -> int:
    """Return which file a path leads to; 0 where there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
