"""Any storage that fsspec knows and that has no backend of its own, chained URLs included.

This module is `backends.fsspec`; the library is plain `fsspec`. What a file system cannot promise is not promised
here: there is no exclusive create, no timestamp is kept, and a put is atomic only where the library renames. How long
a call may take is the library's to say (`timeout=` for many).
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Self, cast
from urllib.parse import unquote

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from backends.base import Backend, Capabilities, Data, ObjectInfo, check_put, check_range, cut
from backends.errors import (
    BackendError,
    ConfigError,
    MissingDependencyError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnknownSchemeError,
    UnsupportedError,
)
from backends.keys import ASIDE_PREFIX, check_key, check_keys, check_prefix, is_key

__all__ = ["FsspecBackend"]

_COPY_SIZE = 4 << 20
_FRESH = {"use_listings_cache": False, "skip_instance_cache": True}
_SECRET_NAME = re.compile(r"pass|secret|token|key|sas|credential|connection_string", re.IGNORECASE)
_USER = re.compile(r"//([^/@]*)@")
_TIMES = ("LastModified", "last_modified", "modified", "mtime", "updated", "modify")


class FsspecBackend(Backend):
    """A path on a file system of fsspec.

    `put` writes `.tmp-<random>` beside the object and renames it where the library can (`atomic_put`); elsewhere it
    writes in place, from a local copy if the source is a file, so that a source that breaks leaves nothing. A `get`
    asks for the size first: libraries differ in what a range at the end of a file means.

    File systems that are no asyncio ones are not made for threads: each thread has one of its own.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None) -> None:
        """Open a URL with fsspec's storage options; nothing is sent yet."""
        super().__init__()
        self._opened_by, self._options = url, dict(options or {})
        self._secrets = [*_secrets_in(self._options), *_secrets_in_url(url)]
        self.url = _without_secrets(url)
        self.scheme = get_protocol(url.split("::")[0]) if "://" in url.split("::")[0] else url.split("::")[0]
        kind = _filesystem_class(self.scheme, self.url)
        self._shares = bool(kind.async_impl)
        self._renames = kind.mv is not AbstractFileSystem.mv
        self.capabilities = Capabilities(put_if_absent=False, timestamps=False, atomic_put=self._renames)
        self._filesystems: dict[tuple[int, int], tuple[AbstractFileSystem, str]] = {}
        self._made: set[str] = set()

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open any URL of fsspec; options are those of its file system, by protocol in a chained URL."""
        return cls(url, options)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of a file."""
        check_range(end)
        size = self.head(key).size
        first = max(0, size + start) if start < 0 else start
        last = size if end is None else min(end, size)
        if first >= last:
            return b""
        whole = (start, end) == (0, None)
        with self._translated(key):
            filesystem, path = self._place(key)
            self.stats.count("get")
            span = {} if whole else {"start": first, "end": last}
            data: bytes = filesystem.cat_file(path, **span)
        if not whole and len(data) == size:
            data = data[first:last]  # the library knows no ranges
        if not whole and len(data) != last - first:
            raise UnavailableError(f"{len(data)} bytes came, not {last - first}: {self.url}/{key}", key=key)
        self.stats.count(received=len(data))
        return data

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write a file whole, as atomic and as durable as the library makes it."""
        check_key(key)
        check_put(timestamp_ms)
        if if_absent:
            raise UnsupportedError(f"{self.scheme}:// has no exclusive create: {self.url}", key=key)
        with self._translated(key):
            filesystem, path = self._place(key)
            self._clear_way(filesystem, path, key)
        if self._renames:
            aside = f"{path.rpartition('/')[0]}/{ASIDE_PREFIX}{os.urandom(8).hex()}"
            self._write(filesystem, aside, key, data)
            with self._translated(key), _removed_on_error(filesystem, aside):
                self.stats.count("move")
                filesystem.mv(aside, path)
        elif isinstance(data, bytes | bytearray | memoryview):
            self._write(filesystem, path, key, data)
        else:
            with TemporaryFile() as copy:
                for piece in cut(data, _COPY_SIZE):
                    copy.write(piece)
                self._write(filesystem, path, key, cast(BinaryIO, copy))

    def head(self, key: str) -> ObjectInfo:
        """Look a file up without reading it."""
        check_key(key)
        with self._translated(key):
            filesystem, path = self._place(key)
            self.stats.count("head")
            found = filesystem.info(path)
        if found.get("type") != "file":
            raise NotFoundError(f"{self.url}/{key} is not a file", key=key)
        return _info(key, found)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the files whose key begins with `prefix`, in key order; all of them are held in memory."""
        folder = check_prefix(prefix).rpartition("/")[0]
        with self._translated(None):
            filesystem, root = self._place("")
            self.stats.count("list")
            filesystem.invalidate_cache()
            try:
                names = filesystem.find(f"{root}/{folder}" if folder else root, detail=True)
            except FileNotFoundError:
                return iter(())
        infos = (_info(name.removeprefix(root).lstrip("/"), found) for name, found in names.items())
        wanted = [
            info
            for info in infos
            if info.key.startswith(prefix) and info.key > start_after and is_key(info.key)
        ]
        return iter(sorted(wanted, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, one by one; a missing one is fine."""
        failed: BackendError | None = None
        for key in check_keys(keys):
            try:
                with self._translated(key):
                    filesystem, path = self._place(key)
                    self.stats.count("delete")
                    filesystem.rm_file(path)
            except BackendError as error:
                if not isinstance(error, NotFoundError) and self._is_file(key):
                    failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Release connections and threads."""
        super().close()
        for owner in [owner for owner in self._filesystems if owner[0] == os.getpid()]:
            self._filesystems.pop(owner, None)  # the library closes what nobody holds

    def _place(self, key: str) -> tuple[AbstractFileSystem, str]:
        """Return the caller's file system and the path of a key on it; of the root for no key."""
        owner = (os.getpid(), 0 if self._shares else threading.get_ident())
        if owner not in self._filesystems:
            filesystem, path = url_to_fs(self._opened_by, **_chain_options(self._opened_by, self._options))
            self._filesystems.setdefault(owner, (filesystem, path.rstrip("/")))
        filesystem, root = self._filesystems[owner]
        return filesystem, f"{root}/{key}" if key else root

    def _write(self, filesystem: AbstractFileSystem, path: str, key: str, data: Data) -> None:
        """Write a file; on failure remove it. What reading the source raises is not taken for ours."""
        with _removed_on_error(filesystem, path):
            with self._translated(key):
                self.stats.count("put")
                file = filesystem.open(path, "wb")
            try:
                for piece in cut(data, _COPY_SIZE):
                    with self._translated(key):
                        file.write(piece)
                    self.stats.count(sent=len(piece))
            except BaseException:
                with suppress(Exception):
                    file.discard() if hasattr(file, "discard") else file.close()
                raise
            with self._translated(key):
                file.close()

    def _clear_way(self, filesystem: AbstractFileSystem, path: str, key: str) -> None:
        """Make the folders on the way to a file, and see that nothing of another kind is in its place."""
        folder = path.rpartition("/")[0]
        if folder and folder not in self._made:
            for number in range(1, key.count("/") + 1):
                above = path.rsplit("/", number)[0]
                if filesystem.isfile(above):
                    raise ConfigError(f"a file is in the way of a folder: {self.url}/{key}", key=key)
            _make_folders(filesystem, folder)
            self._made.add(folder)
        if filesystem.isdir(path):
            raise ConfigError(f"a folder is in the way of a file: {self.url}/{key}", key=key)

    def _is_file(self, key: str) -> bool:
        try:
            self.head(key)
        except NotFoundError:
            return False
        except BackendError:
            return True
        return True

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        """Turn what any library may raise into ours; where its words hold a secret they are dropped."""
        try:
            yield
        except BackendError:
            raise
        except Exception as error:  # noqa: BLE001 - libraries share no base class
            words = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            leaks = any(secret in words for secret in self._secrets)
            said = f"{type(error).__name__ if leaks else words}: {self.url}{'/' if key else ''}{key or ''}"
            raise _kind(error)(said, key=key) from (None if leaks else error)


def _kind(error: Exception) -> type[BackendError]:
    """Name our class for a library's error, by its class: there is no other common ground."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFoundError
    if isinstance(error, PermissionError):
        return PermissionDeniedError
    if isinstance(error, NotImplementedError):
        return UnsupportedError
    if isinstance(error, FileExistsError | IsADirectoryError | ValueError | TypeError):
        return ConfigError
    if isinstance(error, OSError | EOFError):
        return UnavailableError
    return BackendError


def _make_folders(filesystem: AbstractFileSystem, folder: str) -> None:
    """Make a folder and those above it, beside other writers who do the same: each error may be their success."""
    for _ in range(folder.count("/")):
        try:
            filesystem.makedirs(folder, exist_ok=True)
        except Exception:  # noqa: BLE001 - libraries share no base class
            if filesystem.isdir(folder):
                return
        else:
            return
    filesystem.makedirs(folder, exist_ok=True)


@contextmanager
def _removed_on_error(filesystem: AbstractFileSystem, path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(Exception):
            filesystem.rm_file(path)
        raise


def _filesystem_class(protocol: str, shown: str) -> type[AbstractFileSystem]:
    try:
        found: type[AbstractFileSystem] = get_filesystem_class(protocol)
    except ImportError as error:
        raise MissingDependencyError(f"{shown} needs a package: {error}") from error
    except ValueError as error:
        raise UnknownSchemeError(f"fsspec knows no protocol {protocol!r}: {shown}") from error
    return found


def _chain_options(url: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options with every file system of the chain told to cache no listing and no instance."""
    chained = dict(options)
    for link in url.split("::")[1:]:
        protocol = get_protocol(link) if "://" in link else link
        given = chained.get(protocol)
        chained[protocol] = _FRESH | (dict(given) if isinstance(given, Mapping) else {})
    return _FRESH | chained


def _info(key: str, found: Mapping[str, Any]) -> ObjectInfo:
    version = found.get("ETag") or found.get("etag") or ""
    times = (found[name] for name in _TIMES if found.get(name))
    return ObjectInfo(key, int(found.get("size") or 0), _moment(next(times, None)), None, str(version))


def _moment(value: object) -> datetime | None:
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def _without_secrets(url: str) -> str:
    """Return the URL without logins and queries: what they mean differs by protocol."""
    return "::".join(_USER.sub("//", link).partition("?")[0] for link in url.split("::"))


def _secrets_in_url(url: str) -> Iterator[str]:
    for login in _USER.findall(url):
        _, _, password = login.partition(":")
        yield from {password, unquote(password)} - {""}


def _secrets_in(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets_in(value)
        elif isinstance(value, str) and value and _SECRET_NAME.search(name):
            yield value
