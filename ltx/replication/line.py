"""The line of transactions of one database, as this machine knows it: files that wait for upload, and a table.

Files of level 0 lie where the real Litestream has them, in `.<name>-litestream/ltx/0/`; a snapshot in `ltx/9/`. The
table (`ltx.replication.table`) says what the database looked like after some transaction of the line; the files after
that one bring it up to date. So a file goes only when the table has gone past it and every replica has it.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

from ltx.errors import LTXError
from ltx.format import NO_CHECKSUM, TXID, Decoder, Encoder, Header, file_name, parse_file_name
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.replica import Replica
from ltx.replica.retention import Verified
from ltx.replication.baseline import says_the_same
from ltx.replication.capture import Captured
from ltx.replication.difference import WAL_OFFSET, stage_difference
from ltx.replication.hashes import PageHashes, fold, hashed
from ltx.replication.pins import Doubt
from ltx.replication.source import PinnedDatabase
from ltx.replication.staged import LostError, StagedFile, opened, pieces
from ltx.replication.table import open_table, sweep
from ltx.sqlite import sync_folder

__all__ = ["Line"]

_PIECE = 1 << 20
_ROLL_AT = 32 << 20
_ROLL_COUNT = 256
_ROLL_PAGES = 1 << 16
"""Bytes of files, their number, and pages in them, after which the table is brought up to date."""


class Line:
    """What was captured of one database. One thread captures; any may read.

    Args:
        folder: The folder of the state, `.<name>-litestream`.
        table_path: Where the table lies.
    """

    def __init__(self, folder: Path, table_path: Path) -> None:
        self.folder, self.table_path = folder, table_path
        self.txid = TXID(0)
        self.checksum: int | None = None
        self._table_txid = 0
        self._is_broken = False
        self._waiting = 0
        self._files: list[StagedFile] = []
        self._hashes: dict[TXID, PageHashes] = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Find what was left here: a table, and files that follow it without a gap, each verified whole.

        Whatever else lies there is removed: nothing can be made of it.
        """
        for level in (0, SNAPSHOT_LEVEL):
            (self.folder / "ltx" / str(level)).mkdir(parents=True, exist_ok=True)
        sweep(self.table_path)
        self._hashes, self._is_broken = {}, False
        with open_table(self.table_path) as table:
            self._table_txid = table.txid if table else 0
            self.txid, self.checksum = TXID(self._table_txid), table.file_checksum if table else None
        good: list[StagedFile] = []
        broken = False
        for path in sorted(self._folder(0).iterdir()):
            file = None if broken else self._follows(path, good)
            if file:
                good.append(file)
                continue
            path.unlink()
            txids = parse_file_name(path.name)
            if txids and txids[1] >= self._table_txid:
                broken = True  # nothing leads from the table to what comes after it
        for path in self._folder(SNAPSHOT_LEVEL).iterdir():
            path.unlink()  # made anew where a replica needs it
        self._files = good
        if good and good[-1].max_txid > self.txid:
            self.txid, self.checksum = good[-1].max_txid, good[-1].checksum

    def _follows(self, path: Path, before: Sequence[StagedFile]) -> StagedFile | None:
        """Return a file that continues what is there, or that the table already contains; None where it is neither."""
        txids = parse_file_name(path.name)
        if txids is None or txids[0] != txids[1]:
            return None
        txid = txids[1]
        if before and txid != before[-1].max_txid + 1:
            return None
        if not before and txid > self._table_txid + 1:
            return None
        try:
            decoder = Decoder(pieces(path))
            for _ in decoder:
                pass
        except (LTXError, OSError):
            return None
        header = decoder.header
        if (header.min_txid, header.max_txid) != txids:
            return None
        checksum = decoder.file_checksum
        if txid == self._table_txid and checksum != self.checksum:
            return None
        return StagedFile.at(path, 0, header, decoder.page_count, checksum)

    def reset(self, txid: int, *, known: bool) -> None:
        """Begin after a transaction of the replica.

        Args:
            txid: The transaction.
            known: Whether the table was made for it; else there is nothing to compare with.
        """
        self._hashes, self._is_broken = {}, False
        with self._lock:
            dropped, self._files = self._files, []
            for file in dropped:
                file.path.unlink(missing_ok=True)
            with open_table(self.table_path) as table:
                fits = known and table is not None and table.txid == txid
                self.checksum = table.file_checksum if table and fits else None
            if not fits:
                self.table_path.unlink(missing_ok=True)
            self._table_txid = txid if fits else 0
            self.txid = TXID(txid)

    def stage(self, captured: Captured) -> StagedFile:
        """Make what was captured the next transaction, durably.

        Raises:
            Doubt: It is, but something before it is gone: only `stage_difference` leads on.
        """
        txid = TXID(self.txid + 1)
        header = Header(
            page_size=captured.page_size,
            commit=captured.commit,
            min_txid=txid,
            max_txid=txid,
            timestamp_ms=captured.timestamp_ms,
            flags=NO_CHECKSUM,
            wal_offset=WAL_OFFSET,
        )
        hashes = PageHashes(header)
        is_big = captured.page_count > _ROLL_PAGES  # then it is read again for them, in bounded memory
        pages = captured.pages() if is_big else hashes.passing(captured.pages())
        file = self._write(0, Encoder(header, pages))
        self._add(file)
        if not is_big:
            self._hashes[txid] = hashes
        self._waiting += file.size
        is_due = (
            is_big
            or txid - self._table_txid >= _ROLL_COUNT
            or self._waiting > _ROLL_AT
            or sum(each.count for each in self._hashes.values()) > _ROLL_PAGES
        )
        if is_due and not self.roll():
            raise Doubt("something that was captured is not here any more, and no table has it")
        return file

    def stage_difference(self, source: PinnedDatabase) -> StagedFile | None:
        """Make what a whole database differs by the next transaction; None where it does not differ.

        Where there is nothing to compare with, or the size of a page changed, it is a snapshot of all pages.
        """
        self.roll()
        txid = TXID(self.txid + 1)
        with open_table(self.table_path) as table:
            if table and (table.txid != self.txid or self._is_broken):
                table = None
            aside = self._aside(0)
            try:
                with ExitStack() as opened:
                    staged = opened.enter_context(open(aside, "xb"))
                    found = stage_difference(source, txid, table, self.table_path, staged)
                    if found is None:
                        return None
                    encoder, writer = found
                    opened.enter_context(closing(writer))
                    staged.flush()
                    os.fsync(staged.fileno())
                    file = self._publish(
                        aside, 0 if encoder.header.min_txid == txid else SNAPSHOT_LEVEL, encoder
                    )
                    writer.install(txid, encoder.file_checksum)
            finally:
                aside.unlink(missing_ok=True)
        self._table_txid, self._is_broken = txid, False
        self._add(file)
        return file

    def stage_snapshot(self, source: PinnedDatabase) -> StagedFile:
        """Make a snapshot of level 9; the database must be what the line's last transaction left."""
        header = Header(
            page_size=source.page_size,
            commit=source.commit,
            min_txid=TXID(1),
            max_txid=self.txid,
            timestamp_ms=source.timestamp_ms,
            flags=NO_CHECKSUM,
        )
        file = self._write(SNAPSHOT_LEVEL, Encoder(header, source.pages()))
        with self._lock:
            self._files.append(file)
        return file

    @property
    def snapshot(self) -> StagedFile | None:
        """The newest snapshot of level 9 that lies here."""
        with self._lock:
            return max(
                (file for file in self._files if file.level == SNAPSHOT_LEVEL),
                key=lambda file: file.max_txid,
                default=None,
            )

    def roll(self) -> bool:
        """Bring the table up to date with the files.

        Returns:
            Whether it is; where not, something that it takes is gone or damaged, and nothing can be compared with it.
        """
        self._waiting = 0
        hashes, self._hashes = self._hashes, {}
        files = self.kept(self._table_txid)
        if not files and not hashes:
            return True
        with open_table(self.table_path) as table:
            known = table if table and table.txid == self._table_txid else None
            if not known and (self._table_txid or (files and files[0].min_txid != 1)):
                self._is_broken = True
                return False
            try:
                with closing(fold(self.table_path, known, self._transactions(hashes, files))) as writer:
                    assert self.checksum is not None
                    writer.install(self.txid, self.checksum)
                    self._table_txid = self.txid
            except LostError:
                self._is_broken = True
        return not self._is_broken

    def _transactions(
        self, hashes: Mapping[TXID, PageHashes], files: Sequence[StagedFile]
    ) -> Iterator[tuple[Header, Iterable[tuple[int, bytes]]]]:
        """Yield the header and the hashes of the pages of every transaction that the table lacks."""
        lying = {file.max_txid: file for file in files}
        for number in range(self._table_txid + 1, self.txid + 1):
            txid = TXID(number)
            if kept := hashes.get(txid):
                yield kept.header, kept
                continue
            if txid not in lying:
                raise LostError(f"nothing here has transaction {txid}")
            try:
                with opened(lying[txid]) as file:
                    decoder = Decoder(iter(partial(file.read, _PIECE), b""))
                    yield decoder.header, hashed(decoder)
            except LostError:
                self.lose(lying[txid])
                raise

    def lose(self, file: StagedFile) -> bool:
        """Let go of a file that is gone or damaged; a replica that lacks it needs a snapshot then.

        Returns:
            False where it was let go of before, as one that nobody needs.
        """
        with self._lock:
            if file not in self._files:
                return False
            self._files.remove(file)
        with suppress(OSError):
            file.path.unlink()
        return True

    def checksum_of(self, txid: int) -> int | None:
        """Return the checksum of the file of a transaction; None where it is not known any more."""
        if txid == self.txid:
            return self.checksum
        with self._lock:
            return next((file.checksum for file in self._files if file.max_txid == txid), None)

    def matches(self, replica: Replica, file: LTXFile, checksum: int) -> bool | None:
        """Whether a replica's newest file ends a transaction of this line; None where nothing here tells.

        Args:
            replica: The replica.
            file: The file of the lowest level that ends with its newest transaction.
            checksum: What it ends with.
        """
        ours = self.checksum_of(file.max_txid)
        if ours == checksum:
            return True
        if file.level == 0:
            return None if ours is None else False
        if file.max_txid != self.txid:
            return None
        with open_table(self.table_path) as table:
            if table is None or table.txid != self.txid:
                return None
            return says_the_same(replica, file, table)

    def is_behind(self, replica: Replica, newest: LTXFile | None, checksum: int) -> bool:
        """Whether a replica has more than this line, or something else than what the line has of the same transaction.

        Args:
            replica: The replica.
            newest: The file of the lowest level that ends with its newest transaction; None where it has no files.
            checksum: What it ends with.
        """
        if newest is None:
            return False
        if newest.max_txid > self.txid:
            return True
        # One that is damaged says nothing; it is made up for.
        return self.matches(replica, newest, checksum) is False and not Verified().fault_of(
            replica.backend, newest
        )

    def pending(self, after: int) -> Sequence[StagedFile] | None:
        """Return the files that a replica lacks, in the order in which they are to go; None where some are gone.

        Args:
            after: The last transaction that it has.
        """
        with self._lock:
            files = sorted(self._files, key=lambda file: (file.max_txid, file.level))
            txid = self.txid
        chosen: list[StagedFile] = []
        for file in files:
            if file.max_txid > after and (file.min_txid == after + 1 or file.level == SNAPSHOT_LEVEL):
                chosen.append(file)
                after = file.max_txid
        return chosen if after >= txid else None

    def kept(self, after: int) -> Sequence[StagedFile]:
        """Return the files of level 0 that end after a transaction, whether or not something before them is gone."""
        with self._lock:
            return [file for file in self._files if file.level == 0 and file.max_txid > after]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        with self._lock:
            return sum(file.size for file in self._files)

    def prune(self, txid: int, *, snapshots: bool = False) -> None:
        """Remove what comes before a transaction that every replica and the table have; its own file proves which it is.

        Args:
            txid: The transaction.
            snapshots: Whether snapshots go that end no later, beside a file of level 0: no replica waits for one.
        """
        with self._lock:
            limit = min(txid, self._table_txid)
            known = {file.max_txid for file in self._files if file.level == 0 and file.max_txid <= txid}
            gone = {
                file
                for file in self._files
                if file.max_txid < limit or (snapshots and file.level and file.max_txid in known)
            }
            self._files = [file for file in self._files if file not in gone]
        for file in gone:
            file.path.unlink(missing_ok=True)

    def _add(self, file: StagedFile) -> None:
        with self._lock:
            self._files.append(file)
            self.txid, self.checksum = file.max_txid, file.checksum

    def _folder(self, level: int) -> Path:
        return self.folder / "ltx" / str(level)

    def _aside(self, level: int) -> Path:
        folder = self._folder(level)
        folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        return folder / f"{os.urandom(6).hex()}.tmp"

    def _write(self, level: int, encoder: Encoder) -> StagedFile:
        aside = self._aside(level)
        try:
            with open(aside, "xb") as file:
                file.writelines(encoder)
                file.flush()
                os.fsync(file.fileno())
            return self._publish(aside, level, encoder)
        finally:
            with suppress(FileNotFoundError):
                aside.unlink()

    def _publish(self, aside: Path, level: int, encoder: Encoder) -> StagedFile:
        header, folder = encoder.header, aside.parent
        final = folder / file_name(header.min_txid, header.max_txid)
        os.replace(
            aside, final
        )  # what may lie there was never counted: we are alone, and a step after this failed
        sync_folder(folder)
        return StagedFile.at(final, level, header, encoder.page_count, encoder.file_checksum)
