"""WebDAV for fsspec, on webdavclient3: ranged and parallel reads, and files that appear whole or not at all.

Registered as `webdav` and `webdavs` by the entry points of this package, so that `fsspec.open("webdav://...")`
works in anyone's code; or name the class. Errors are this package's, most of which are also Python's own
(`FileNotFoundError`, `PermissionError`, `FileExistsError`).
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from backends.base import Data, Stats
from backends.errors import (
    AlreadyExistsError,
    NotFoundError,
    UnsupportedError,
)
from backends.keys import ASIDE_PREFIX
from backends.webdav_http import Auth, Login
from backends.webdav_session import DAVEntry, DAVSession
from backends.webdav_writer import DAVWriter

__all__ = ["WebDAVFileSystem", "WebDAVSFileSystem"]

_SPOOL_SIZE = 8 << 20


class WebDAVFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files on a WebDAV server. Nothing is cached but the connections.

    Writing makes missing collections, sends the file to `.tmp-<random>` beside its name and moves it there, so that
    a new file appears whole. Where the name was taken, nginx and lighttpd replace the old file in one step; Apache
    removes it first, and may answer who reads in that very moment with nothing or with a part.
    """

    protocol = "webdav"
    root_marker = "/"
    cachable = False
    tls = False

    def __init__(
        self,
        host: str,
        port: int | None = None,
        username: str = "",
        password: str = "",
        *,
        auth: Auth = "auto",
        tls: bool | None = None,
        verify: bool | str = True,
        home: str = "/",
        stats: Stats | None = None,
        **storage_options: object,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            host: The server's name.
            port: Its port; None for the usual one.
            username: Who asks; "" for nobody.
            password: The secret.
            auth: `basic`, `digest`, or `auto`: whichever the server asks for.
            tls: Whether to speak https; None for what the protocol says (`webdav`: no, `webdavs`: yes).
            verify: Whether to check the certificate, or the file with the CA certificates to check it by.
            home: A path below which the server speaks WebDAV.
            stats: Counts every request.
            storage_options: fsspec's own.
        """
        super().__init__(**storage_options)
        scheme = "https" if (self.tls if tls is None else tls) else "http"
        name = f"[{host}]" if ":" in host else host
        origin = f"{scheme}://{name}" + (f":{port}" if port else "")
        self._dav = DAVSession(origin, home, Login(username, password, auth), verify=verify, stats=stats)
        self.writer = DAVWriter(self._dav)

    @classmethod
    def _strip_protocol(cls, path: str | list[str]) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        if "://" in path:
            path = unquote(urlsplit(path).path)
        return "/" + path.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, object]:
        parts = urlsplit(path)
        found = {
            "host": parts.hostname,
            "port": parts.port,
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
        }
        return {name: value for name, value in found.items() if value}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path, without a login."""
        return f"{self.protocol}://{self._dav.origin.partition('://')[2]}{self._strip_protocol(name)}"

    # Looking

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        """Look a file or collection up."""
        path = self._strip_protocol(path)
        return _info(path, self._dav.entry(path))

    def ls(self, path: str, detail: bool = True, **kwargs: object) -> list[Any]:
        """List what a collection holds directly, by name; a file lists itself."""
        path = self._strip_protocol(path)
        found = [_info(f"{path.rstrip('/')}/{entry.name}", entry) for entry in self.entries(path)]
        if not found and (itself := self.info(path))["type"] == "file":
            found = [itself]
        found.sort(key=lambda info: cast("str", info["name"]))
        return found if detail else [info["name"] for info in found]

    def entries(self, path: str) -> Iterator[DAVEntry]:
        """List what a collection holds directly, in the server's order and without files on their way."""
        return (entry for entry in self._dav.children(path) if not entry.name.startswith(ASIDE_PREFIX))

    def exists(self, path: str, **kwargs: object) -> bool:
        """Return whether a file or collection is there; whatever else goes wrong is raised."""
        try:
            self.info(path)
        except NotFoundError:
            return False
        return True

    def entry(self, path: str) -> DAVEntry:
        """Look one path up, given as it is."""
        return self._dav.entry(path)

    def modified(self, path: str) -> datetime:
        """Return when a file was written, by the server's clock."""
        return cast("datetime", self.info(path)["mtime"])

    # Reading

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: object
    ) -> bytes:
        """Read bytes `[start, end)`; negative numbers count from the end. Past the end is cut short."""
        path = self._strip_protocol(path)
        if end is not None and end < 0:
            end = max(0, self._dav.entry(path).size + end)
        return self._dav.read(path, start or 0, end)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)`; a negative start counts from the end. The path is given as it is."""
        return self._dav.read(path, start, end)

    # Writing

    def pipe_file(self, path: str, value: Data, mode: str = "overwrite", **kwargs: object) -> None:
        """Write a file whole. `create` refuses a taken name, which many servers decide a moment too early."""
        self.write(path, value, replace=mode != "create")

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: object,
    ) -> None:
        """Copy a local file to a remote one; memory does not grow with its size."""
        if Path(lpath).is_dir():
            self.makedirs(rpath, exist_ok=True)
            return
        with open(lpath, "rb") as file:
            self.write(rpath, file, replace=mode != "create")
        callback.set_size(Path(lpath).stat().st_size)

    def write(self, path: str, data: Data, *, replace: bool = True) -> None:
        """Write a file whole, by way of a temporary name beside it.

        Raises:
            AlreadyExistsError: Not `replace`, and the name is taken; servers differ in how exclusive that is.
        """
        self.writer.write(self._strip_protocol(path), data, replace=replace)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str = "default",
        autocommit: bool = True,
        **kwargs: object,
    ) -> "_File":
        if mode not in ("rb", "wb", "xb"):
            raise UnsupportedError(
                f"a file on WebDAV can be opened to read (rb) or to write it whole (wb), not {mode}"
            )
        if mode == "xb" and self.exists(path):
            raise AlreadyExistsError(f"{self._dav.origin}{path} exists")
        return _File(self, path, mode, block_size, autocommit, **kwargs)

    # Changing

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a collection and those above it that are missing."""
        self.mkdir(path, create_parents=True, exist_ok=exist_ok)

    def mkdir(self, path: str, create_parents: bool = True, exist_ok: bool = False, **kwargs: object) -> None:
        """Make a collection. Of any number of callers one wins, on every server tried but rclone's.

        Raises:
            AlreadyExistsError: Not `exist_ok`, and the name is taken by a collection or a file.
        """
        self.writer.mkdir(self._strip_protocol(path), parents=create_parents, exist_ok=exist_ok)

    def rm_file(self, path: str) -> None:
        """Remove a file; a collection stays."""
        path = self._strip_protocol(path)
        if self._dav.entry(path).is_folder:
            raise IsADirectoryError(path)
        self._dav.request("clean", path)

    def delete_file(self, path: str) -> None:
        """Remove what is known to be a file, in one request; a missing one is fine."""
        self._dav.request("clean", path, accept=(404, 410))

    def rmdir(self, path: str) -> None:
        """Remove an empty collection."""
        path = self._strip_protocol(path)
        entry = self._dav.entry(path)
        if not entry.is_folder:
            raise NotADirectoryError(path)
        if any(True for _ in self._dav.children(path)):
            raise OSError(f"{self._dav.origin}{path} is not empty")
        self.writer.rmdir(path)

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and collections with all that they hold where `recursive`."""
        for one in [path] if isinstance(path, str) else path:
            plain = self._strip_protocol(one)
            if not self._dav.entry(plain).is_folder:
                self._dav.request("clean", plain)
            elif recursive:
                self.writer.rmdir(plain)
            else:
                raise IsADirectoryError(plain)

    def mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **kwargs: object
    ) -> None:
        """Move a file or a collection to a name that is not taken by a collection."""
        self._transfer("move", path1, path2)

    def cp_file(self, path1: str, path2: str, **kwargs: object) -> None:
        """Copy a file to a name that is not taken by a collection; the server does it. Of a collection only the name."""
        if self._dav.entry(self._strip_protocol(path1)).is_folder:
            self.makedirs(path2, exist_ok=True)
        else:
            self._transfer("copy", path1, path2)

    def _transfer(self, action: str, path1: str, path2: str) -> None:
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        with suppress(NotFoundError):
            if self._dav.entry(target).is_folder:  # it would be replaced, with everything in it
                raise AlreadyExistsError(f"{self._dav.origin}{target} is a collection")
        headers = (f"Destination: {self._dav.url(target)}", "Overwrite: T")
        if self._dav.request(action, source, headers=headers, accept=(409, 500)) in (409, 500):
            self.makedirs(self._parent(target), exist_ok=True)
            self._dav.request(action, source, headers=headers)

    def close(self) -> None:
        """Close the connections."""
        self._dav.close()


class WebDAVSFileSystem(WebDAVFileSystem):
    """The same over TLS."""

    protocol = "webdavs"
    tls = True


class _File(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """Reads ranges; writes into a temporary file that is sent when it is closed."""

    fs: WebDAVFileSystem

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)

    def _initiate_upload(self) -> None:
        self._spool = SpooledTemporaryFile(_SPOOL_SIZE)  # noqa: SIM115 - closed by commit or discard

    def _upload_chunk(self, final: bool = False) -> bool:
        self._spool.write(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Send the file."""
        with self._spool as spool:
            self.fs.write(self.path, cast("BinaryIO", spool), replace=self.mode != "xb")

    def discard(self) -> None:
        """Forget what was written."""
        self._spool.close()


def _info(path: str, entry: DAVEntry) -> dict[str, object]:
    kind = "directory" if entry.is_folder else "file"
    return {"name": path, "size": entry.size, "type": kind, "mtime": entry.modified, "etag": entry.etag}
