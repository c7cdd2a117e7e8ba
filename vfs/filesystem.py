"""The file system `ltx` for fsspec: each state of a replica as the plain database file that a restore would write.

>>> with fsspec.open("ltx::s3://bucket/app", at="-1h") as file:
...     shutil.copyfileobj(file, open("app.db", "wb"))
>>> fsspec.filesystem("ltx", fo="s3://bucket/app").ls("")

Registered by an entry point of this package. Only the pages that are read are fetched.
"""

import io
import re
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NoReturn

from fsspec.spec import AbstractFileSystem

from backends import ConfigError, NotFoundError, UnavailableError
from ltx import TXID, NotReachableError
from ltx.format import format_txid, parse_txid
from ltx.replica.plan import reach_of
from vfs.errors import ReadOnlyError
from vfs.file import ReplicaFile
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, Source, open_source

__all__ = ["LATEST_NAME", "DatabaseFile", "LTXFileSystem"]

LATEST_NAME: Final = "latest.db"

_NAME = re.compile(r"([0-9a-f]{16})\.db")
_PIECE_SIZE = 1 << 20
_LOOKS = 4


class LTXFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A replica's states as files: `latest.db`, and one for each transaction that can be had, named by its TXID.

    The path `""` is the folder of these files, and when it is opened the state that `at` and `txid` name, or the newest.
    A file that is open stays what it was. Nothing can be written.

    Args:
        fo: The replica: its URL as for `vfs.connect`, or, with `target_protocol`, what fsspec makes of a chained URL.
        at: The time that `""` is opened at; words count from the moment of opening.
        txid: The TXID that `""` is opened at.
        target_protocol: The scheme of the storage, in a chained URL.
        target_options: For the storage.
        cache_size: Bytes of pages to keep in memory.
        timeout: Seconds that one wait for the storage may take.

    Raises:
        backends.ConfigError: The URL or an option is wrong.
    """

    protocol = "ltx"
    root_marker = ""
    cachable = False

    def __init__(
        self,
        fo: str = "",
        at: str | datetime | None = None,
        txid: int | str | None = None,
        *,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        cache_size: int = DEFAULT_CACHE_SIZE,
        timeout: float = DEFAULT_TIMEOUT_S,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        unknown = sorted(set(options) - {"use_listings_cache", "skip_instance_cache", "asynchronous", "loop"})
        if unknown:
            raise ConfigError(
                f"the file system ltx has no option {unknown[0]!r}; those of the storage go by its name, as in "
                "fsspec.open('ltx::s3://bucket/app', s3={...}), or into target_options"
            )
        if not fo:
            raise ConfigError("ltx:// names no replica: write ltx::s3://bucket/app")
        if at is not None and txid is not None:
            raise ConfigError("give a time or a TXID, not both")
        given = dict(target_options or {})
        url = fo if target_protocol is None else _url(target_protocol, fo, given)
        self._at = at
        self._txid = txid
        self._source: Source = open_source(url, cache_size, timeout, given)

    def ls(self, path: str, detail: bool = True, **_kwargs: Any) -> list[Any]:
        """List the states, from the oldest to the newest.

        It takes one listing, and with `detail` one request of 100 bytes for each file that was not looked at before.

        Args:
            path: `""`, or the name of a file.
            detail: Give for each its `size`, `txid`, and `created`: when it was committed.

        Raises:
            FileNotFoundError: There is no such file.
        """
        name = self._strip_protocol(path)
        if name:
            return [self.info(name)] if detail else [self.info(name)["name"]]
        if detail:
            states = self._states()
            return [*states, *({**state, "name": LATEST_NAME} for state in states[-1:])]
        txids = reach_of(self._source.replica.files()).txids
        return [*(f"{format_txid(txid)}.db" for txid in txids), *([LATEST_NAME] if txids else [])]

    def info(self, path: str, **_kwargs: Any) -> dict[str, Any]:
        """Return the name, type and size of a file, its `txid`, and `created`: when it was committed.

        Raises:
            FileNotFoundError: There is no such file.
        """
        name = self._strip_protocol(path)
        if not name:
            return {"name": "", "size": 0, "type": "directory"}
        states = self._states(newest=True) if name == LATEST_NAME else self._states([self._txid_of(name)])
        if not states:
            raise FileNotFoundError(
                f"{name}: {self._source.replica.url} has no such state; ls('') names them"
            )
        return {**states[-1], "name": name}

    def created(self, path: str) -> datetime:
        """Return when a state was committed."""
        created: datetime = self.info(path)["created"]
        return created

    def modified(self, path: str) -> datetime:
        """Return when a state was committed."""
        return self.created(path)

    def _open(self, path: str, mode: str = "rb", **_kwargs: Any) -> "DatabaseFile":
        if mode != "rb":
            self._refuse()
        name = self._strip_protocol(path)
        if name == LATEST_NAME:
            return DatabaseFile(self._source, name)
        if not name:
            return DatabaseFile(self._source, name, at=self._at, txid=self._txid)
        try:
            return DatabaseFile(self._source, name, txid=self._txid_of(name))
        except NotReachableError as error:
            raise FileNotFoundError(f"{name}: {error}") from error

    def _txid_of(self, name: str) -> TXID:
        found = _NAME.fullmatch(name)
        if not found:
            raise FileNotFoundError(
                f"{name!r} is no state of {self._source.replica.url}: files are {LATEST_NAME} and <16 lower-case hex digits>.db"
            )
        return parse_txid(found[1])

    def _states(self, txids: Collection[TXID] | None = None, *, newest: bool = False) -> list[dict[str, Any]]:
        """Describe states; those that cannot be had are left out."""
        replica = self._source.replica
        for _ in range(_LOOKS):
            files = replica.files()
            known = reach_of(files).txids
            wanted = {txid for txid in (known[-1:] if newest else known) if txids is None or txid in txids}
            ending = [file for file in files if file.max_txid in wanted and file.is_usable]
            try:
                headers = replica.headers(ending)
            except NotFoundError:  # merged and pruned since the listing
                continue
            created: dict[int, datetime] = {}
            sizes: dict[int, int] = {}
            for header in headers:
                sizes[header.max_txid] = header.commit * header.page_size
                created[header.max_txid] = min(
                    header.timestamp, created.get(header.max_txid, header.timestamp)
                )
            return [
                {
                    "name": f"{format_txid(txid)}.db",
                    "size": sizes[txid],
                    "type": "file",
                    "txid": format_txid(txid),
                    "created": created[txid],
                }
                for txid in sorted(wanted)
            ]
        raise UnavailableError(f"files of {replica.url} vanish faster than they can be looked at: try again")

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise ReadOnlyError(
            f"{self._source.replica.url} is a replica and read-only: write to the database itself"
        )

    mkdir = makedirs = rmdir = rm_file = cp_file = touch = _refuse


class DatabaseFile(io.RawIOBase):
    """One state of a database as a file: the bytes that a restore would write, fetched when they are read.

    Args:
        source: The replica.
        name: What to call it.
        at: The time to open; None with no `txid` for the newest state.
        txid: The TXID to open.

    Attributes:
        size: Bytes of the database.
        txid: The last transaction in it.
    """

    def __init__(
        self, source: Source, name: str, *, at: str | datetime | None = None, txid: int | str | None = None
    ) -> None:
        super().__init__()
        self._pages = _Unpatched(source, poll_interval_s=0, at=at, txid=txid)
        self._position = 0
        self.name = name
        self.size = self._pages.xFileSize()
        self.txid = self._pages.view.txid

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, and return it; beyond the end nothing is read."""
        self._check()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence is 0, 1 or 2, not {whence}")
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if place < 0:
            raise ValueError(f"a place in a file is not negative: {place}")
        self._position = place
        return place

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, whole unless the file ends before.

        Raises:
            CorruptError: A page is damaged, and no other files have it.
            UnavailableError: The storage does not answer.
        """
        self._check()
        view = memoryview(buffer).cast("B")
        end = min(self.size, self._position + len(view))
        done = 0
        while self._position < end:
            piece = self._pages.xRead(min(_PIECE_SIZE, end - self._position), self._position)
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return done

    def readall(self) -> bytes:
        """Read what is left."""
        return self.read(max(0, self.size - self._position)) or b""

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def __repr__(self) -> str:
        return f"<DatabaseFile {self._pages.source.replica.url} TXID {format_txid(self.txid)}>"


class _Unpatched(ReplicaFile):
    """A replica as SQLite reads it, but page 1 is the one that was written (docs/design/0002-page-one.md)."""

    def page(self, pgno: int) -> bytes:
        """Return a page as it was written."""
        page = super().page(pgno)
        return self._fetch(pgno) if pgno == 1 and page else page


def _url(protocol: str, path: str, options: dict[str, Any]) -> str:
    """Return the URL that fsspec took apart; what it made of the host is taken out of the options."""
    if protocol in ("file", "local") or path.startswith(f"{protocol}://"):
        return path
    if "host" not in options:
        return f"{protocol}://{path.lstrip('/')}"
    user = f"{options.pop('username')}@" if options.get("username") else ""
    port = f":{options.pop('port')}" if options.get("port") else ""
    return f"{protocol}://{user}{options.pop('host')}{port}/{path.lstrip('/')}"
