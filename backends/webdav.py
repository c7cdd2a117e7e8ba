"""Objects on a WebDAV server: Apache, nginx, Nextcloud, ownCloud and their like."""

import builtins
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from backends.base import Backend, Capabilities, Data, ObjectInfo, check_put, check_range
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from backends.keys import check_key, check_keys, check_prefix, is_key
from backends.webdav_filesystem import WebDAVFileSystem
from backends.webdav_http import Auth
from backends.webdav_session import DAVEntry

__all__ = ["WebDAVBackend"]

_OPTIONS = ("username", "password", "auth", "verify")


class WebDAVBackend(Backend):
    """A collection on a WebDAV server, and those below it.

    `put` sends the object to `.tmp-<random>` beside its name and moves it there: a new object appears whole or not
    at all, and a broken upload leaves nothing under its name. `capabilities.atomic_put` is False for the sake of
    replacing: Apache removes the old object first, and its GET looks at the size of one version and sends the bytes
    of the next, so that who reads in that moment gets nothing, or a part. nginx and lighttpd replace in one step.

    No condition that WebDAV has is exclusive on Apache (`If-None-Match`, `Overwrite: F` and LOCK each let several
    writers win), so there is no `put_if_absent`; making a collection is exclusive, and `mark` does that.

    Timestamps: WebDAV has no way to set them. `capabilities.timestamps` is False until a write with a timestamp
    has shown that this server keeps it, by Nextcloud's `X-OC-Mtime` or by PROPPATCH, in whole seconds; Apache,
    nginx and lighttpd do not. Without it an object's `modified` is the time of its upload.
    """

    capabilities = Capabilities(
        put_if_absent=False, timestamps=False, atomic_put=False, exclusive_marker=True, timestamp_step_ms=1000
    )

    def __init__(
        self,
        host: str,
        root: str = "",
        *,
        scheme: str = "webdav",
        port: int | None = None,
        username: str = "",
        password: str = "",
        auth: Auth = "auto",
        verify: bool | str = True,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            host: The server's name.
            root: Path of the collection; it is made when it is first written to.
            scheme: `webdav`, or `webdavs` for TLS.
            port: None for the usual one.
            username: "" for nobody.
            password: The secret.
            auth: `basic`, `digest`, or `auto`: whichever the server asks for.
            verify: Whether to check the certificate, or the file with the CA certificates to check it by.
        """
        super().__init__()
        self.scheme = scheme
        self._root = f"/{root.strip('/')}".rstrip("/")
        self.url = (
            f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{self._root}"
        )
        self._fs = WebDAVFileSystem(
            host,
            port,
            username,
            password,
            auth=auth,
            tls=scheme == "webdavs",
            verify=verify,
            home=f"{self._root}/",
            stats=self.stats,
            skip_instance_cache=True,
        )
        self._marks_exclude: bool | None = None

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `webdav://[user:password@]host[:port]/path`, or `webdavs://` for TLS.

        Options, also in the query: `username`, `password`, `auth` (`basic`, `digest`), `verify` (`false`, or the file
        of a CA). Environment: LITESTREAM_WEBDAV_USERNAME, LITESTREAM_WEBDAV_PASSWORD.
        """
        parts = urlsplit(url)
        given: dict[str, object] = {
            "username": unquote(parts.username or "") or os.environ.get("LITESTREAM_WEBDAV_USERNAME", ""),
            "password": unquote(parts.password or "") or os.environ.get("LITESTREAM_WEBDAV_PASSWORD", ""),
            **dict(parse_qsl(parts.query, keep_blank_values=True)),
            **options,
        }
        if unknown := sorted(set(given) - set(_OPTIONS)):
            raise ConfigError(f"{parts.scheme}:// takes {', '.join(_OPTIONS)}, not {', '.join(unknown)}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"the port in a {parts.scheme}:// URL is wrong: {error}") from error
        if not host:
            raise ConfigError(f"the URL names no server: write {parts.scheme}://host/path")
        if given.get("auth", "auto") not in ("auto", "basic", "digest"):
            raise ConfigError(f"auth is auto, basic or digest, not {given['auth']!r}")
        if given.get("verify") in ("true", "false"):
            given["verify"] = given["verify"] == "true"
        if given["password"] and not given["username"]:
            raise ConfigError("a password was given, but no username")
        return cls(host, unquote(parts.path), scheme=parts.scheme, port=port, **given)  # type: ignore[arg-type]

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object."""
        check_range(end)
        with self._about(key):
            return self._fs.read(self._path(key), start, end)

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole: PUT aside, then MOVE."""
        check_put(timestamp_ms)
        path = self._path(key)
        if if_absent:
            raise UnsupportedError(
                f"{self.url}: no condition on a WebDAV write is exclusive on all servers", key=key
            )
        with self._about(key, writing=True):
            self._fs.writer.write(path, data, modified_ms=timestamp_ms)
        if self._fs.writer.keeps_modified and not self.capabilities.timestamps:
            self.capabilities = replace(self.capabilities, timestamps=True)

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        with self._about(key):
            entry = self._fs.entry(self._path(key))
            if entry.is_folder:
                raise NotFoundError(f"{self.url}/{key} is a collection, not an object", key=key)
            return self._info(key, entry)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order: one request a collection."""
        folder = check_prefix(prefix).rpartition("/")[0]
        found: builtins.list[ObjectInfo] = []
        try:
            with self._about(folder or None):
                self._walk(folder, prefix, start_after, found)
        except NotFoundError:
            return iter(())
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing key is fine. What the keys' collections hold is listed first.

        A DELETE of a collection would take all that it holds, so none is sent for a key that is one.
        """
        folders: dict[str, builtins.list[str]] = defaultdict(builtins.list)
        for key in check_keys(keys):
            folders[self._path(key).rpartition("/")[0]].append(key)
        failed: BackendError | None = None
        for folder, inside in folders.items():
            try:
                with self._about(inside[0]):
                    present = self._files(folder, inside)
            except NotFoundError:
                continue
            except BackendError as error:
                failed = failed or error
                continue
            for key in present:
                try:
                    with self._about(key):
                        self._fs.delete_file(self._path(key))
                except BackendError as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def mark(self, key: str) -> None:
        """Take a name by making a collection, which is exclusive on every server tried but rclone's.

        The first time, the collection is made once more: a server that allows that is found out.
        """
        path = self._path(key)
        with self._about(key, writing=True):
            self._fs.writer.mkdir(path)
            if self._marks_exclude is None:
                try:
                    self._fs.writer.mkdir(path)
                except AlreadyExistsError:
                    self._marks_exclude = True
                else:
                    self._marks_exclude = False
        if not self._marks_exclude:
            self.capabilities = replace(self.capabilities, exclusive_marker=False)
            raise UnsupportedError(
                f"{self.url}: this server makes a collection twice, so it cannot mark", key=key
            )

    def unmark(self, key: str) -> None:
        """Give a marker's name free; an object of that name stays, and so does a collection with something in it."""
        path = self._path(key)
        try:
            with self._about(key):
                if not self._fs.entry(path).is_folder:
                    return
                if any(True for _ in self._fs.entries(path)):
                    raise ConfigError(f"{self.url}/{key} is no marker: it holds objects", key=key)
                self._fs.writer.rmdir(path)
        except NotFoundError:
            return

    def close(self) -> None:
        """Release connections and threads. Idempotent."""
        super().close()
        self._fs.close()

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _info(self, key: str, entry: DAVEntry) -> ObjectInfo:
        kept = entry.modified is not None and self.capabilities.timestamps
        timestamp_ms = int(entry.modified.timestamp()) * 1000 if kept and entry.modified else None
        return ObjectInfo(key, entry.size, entry.modified, timestamp_ms, entry.etag)

    def _walk(self, folder: str, prefix: str, start_after: str, found: builtins.list[ObjectInfo]) -> None:
        """Collect the files below a collection, leaving out collections that can hold no key that is wanted."""
        for entry in self._fs.entries(f"{self._root}/{folder}"):
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_folder:
                inside = key + "/"
                begins = inside.startswith(prefix) or prefix.startswith(inside)
                if begins and (inside > start_after or start_after.startswith(inside)):
                    with suppress(NotFoundError):  # it went away meanwhile
                        self._walk(key, prefix, start_after, found)
            elif key.startswith(prefix) and key > start_after and is_key(key):
                found.append(self._info(key, entry))

    def _files(self, folder: str, keys: builtins.list[str]) -> builtins.list[str]:
        """Return which of the keys, all of one collection, are files."""
        if len(keys) == 1:
            return [key for key in keys if not self._fs.entry(self._path(key)).is_folder]
        names = {entry.name for entry in self._fs.entries(folder) if not entry.is_folder}
        return [key for key in keys if key.rpartition("/")[2] in names]

    @contextmanager
    def _about(self, key: str | None, *, writing: bool = False) -> Iterator[None]:
        """Say in an error which key it is about. Servers have any answer to a path below a file; ours is one."""
        try:
            yield
        except BackendError as error:
            error.key = error.key or key
            if key is None or isinstance(error, NotFoundError | UnavailableError | ConfigError):
                raise
            if self._is_below_file(key):
                kind = ConfigError if writing else NotFoundError
                raise kind(f"{self.url}/{key} cannot be: a part of it is an object", key=key) from error
            raise

    def _is_below_file(self, key: str) -> bool:
        folder = key.rpartition("/")[0]
        while folder:
            with suppress(BackendError):
                return not self._fs.entry(f"{self._root}/{folder}").is_folder
            folder = folder.rpartition("/")[0]
        return False
