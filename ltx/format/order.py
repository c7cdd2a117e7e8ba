"""Which page may come next in a file: the same rule for whoever writes and whoever reads."""

from ltx.errors import CorruptError
from ltx.format.header import Header

__all__ = ["PageOrder"]


class PageOrder:
    """The rule of a file's page numbers, checked one by one.

    A snapshot holds pages 1 to commit without a gap; any other file holds some, ascending, up to commit.
    The lock page is in neither.
    """

    def __init__(self, header: Header) -> None:
        self.last = 0
        self._commit = header.commit
        self._dense = header.is_snapshot
        self._lock_page = header.lock_page

    def check(self, pgno: int) -> None:
        """Take the next page number.

        Raises:
            CorruptError: It may not stand here.
        """
        expected = self.last + 1
        if expected == self._lock_page:
            expected += 1
        if pgno == self._lock_page:
            raise CorruptError(f"page {pgno} is the lock page, which is never stored")
        if pgno > self._commit:
            raise CorruptError(f"page {pgno} lies beyond the database's {self._commit} pages")
        if pgno != expected if self._dense else pgno <= self.last:
            raise CorruptError(f"page {pgno} follows page {self.last}")
        self.last = pgno

    def finish(self) -> None:
        """Say that no page follows.

        Raises:
            CorruptError: It is a snapshot, and pages are missing.
        """
        if not self._dense:
            return
        end = self._commit - 1 if self._commit == self._lock_page else self._commit
        if self.last != end:
            raise CorruptError(f"a snapshot of {self._commit} pages ends at page {self.last}")
