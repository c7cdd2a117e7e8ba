"""Objects as files below a folder, written aside and published by a link: whole, durable, or not there."""

import errno
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast
from urllib.parse import quote, unquote_to_bytes, urlsplit

from backends.base import (
    PARALLEL_READS,
    Backend,
    Capabilities,
    Data,
    ObjectInfo,
    Piece,
    check_put,
    check_range,
    cut,
)
from backends.disks import is_on_disk
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.keys import ASIDE_PREFIX, check_key, check_keys, check_prefix, is_key
from backends.leftovers import LEFT_S, hold, sweep

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LocalBackend"]

_COPY_SIZE = 1 << 20
_WRITE_BACK_SIZE = 8 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_RETRY_MAY_HELP = {
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ETIMEDOUT,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
}


class LocalBackend(Backend):
    """A folder. Folders on the way to a key are made when they are needed, and never removed.

    `put` writes `.tmp-<random>` in the same folder, syncs it, sets its modification time to the timestamp, and
    links it to its name (`if_absent`) or renames it over; then it syncs the folder. A crash leaves at most a
    `.tmp-` file, which is never listed; `delete` removes those that nobody has written to for an hour. An exclusive open of the final name would leave a torn file that
    nobody may replace, and a check before a rename lets two writers win.
    """

    scheme = "file"
    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True)

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Open a folder, which need not exist yet."""
        super().__init__()
        self.root = Path(os.path.abspath(os.path.expanduser(os.fspath(root))))
        self.url = f"file://{quote(os.fsencode(self.root))}"
        self._is_near: bool | None = None
        self._next_sweep = 0.0

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `file:///folder`, `file://folder` (relative) or a plain path; there are no options."""
        if options:
            raise ConfigError(f"a folder takes no options: {', '.join(sorted(options))}")
        if "://" not in url:
            path = url
        else:
            parts = urlsplit(url)
            if parts.query or parts.fragment:
                raise ConfigError(f"a file:// URL takes no query: write '?' as %3F and '#' as %23 in {url!r}")
            host = "" if parts.netloc == "localhost" else parts.netloc
            path = os.fsdecode(unquote_to_bytes(host + parts.path))
        if not path:
            raise ConfigError("the URL names no folder: write file:///path/to/folder")
        return cls(path)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of a file."""
        check_range(end)
        return self._read_group([(key, start, end)])[0]

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges; from a disk of this machine without threads, which would cost more than they spare."""
        return super().get_ranges(pieces) if (read := self.get_at_once(pieces)) is None else read

    def get_at_once(self, pieces: Sequence[Piece]) -> Sequence[bytes] | None:
        """Read many ranges where the folder lies on a disk of this machine; the disk learns of all of them at first."""
        if self._is_near is None and self.root.is_dir():
            self._is_near = is_on_disk(self.root)
        if not self._is_near:
            return None
        for _, _, end in pieces:
            check_range(end)
        groups = (pieces[first : first + PARALLEL_READS] for first in range(0, len(pieces), PARALLEL_READS))
        return [read for group in groups for read in self._read_group(group)]

    def _read_group(self, pieces: Sequence[tuple[str, int, int | None]]) -> Sequence[bytes]:
        """Read ranges of as many files as may well be open at once."""
        opened: dict[str, tuple[int, int]] = {}
        read: list[bytes] = []
        asked = ""
        try:
            for asked, start, end in pieces:
                path = f"{self.root}/{check_key(asked)}"
                self.stats.count("get")
                if asked not in opened:
                    opened[asked] = _open(path, asked)
                if len(pieces) > 1:
                    _announce(opened[asked][0], start, end)
            for asked, start, end in pieces:
                read.append(_part(*opened[asked], start, end))
        except BackendError:
            raise
        except OSError as error:
            raise self._translation(error, asked) from error
        finally:
            for descriptor, _ in opened.values():
                os.close(descriptor)
        self.stats.count(received=sum(map(len, read)))
        return read

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write a file whole: durable when this returns."""
        check_put(timestamp_ms)
        final = self._path(key)
        self.stats.count("put")
        with self._translated(key):
            if if_absent and os.path.lexists(final):  # spares the writing; the link below is what decides
                raise AlreadyExistsError(f"{final} exists", key=key)
            self._make_folders(final.parent, key)
        if isinstance(data, _StagedFile) and data.backend is self and not data.published:
            with self._translated(key):
                data.flush()
                self.stats.count(sent=os.fstat(data.fileno()).st_size)
                _publish(data.fileno(), data.path, final, key, if_absent, timestamp_ms)
                data.published = True  # a second object is a copy: it may have another time
            return
        aside = final.parent / f"{ASIDE_PREFIX}{os.urandom(8).hex()}"
        with self._translated(key):
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        hold(descriptor)
        try:
            for piece in cut(data, _COPY_SIZE):  # what reading the source raises is not taken for ours
                with self._translated(key):
                    _write_all(descriptor, memoryview(piece))
                self.stats.count(sent=len(piece))
            with self._translated(key):
                _publish(descriptor, aside, final, key, if_absent, timestamp_ms)
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(aside)

    @contextmanager
    def stage(self, folder: str | os.PathLike[str]) -> Iterator[BinaryIO]:  # noqa: ARG002 - here it is our own
        """Open a file below the root, which a `put` publishes without copying it."""
        made_root = not self.root.is_dir()
        with self._translated(None):
            self._make_folders(self.root, "")
            staged = _StagedFile(self, self.root / f"{ASIDE_PREFIX}{os.urandom(8).hex()}")
        try:
            with staged:
                yield cast("BinaryIO", staged)
        finally:
            with suppress(OSError):
                os.unlink(staged.path)
            if made_root:
                with suppress(OSError):  # it is not empty: something was put
                    self.root.rmdir()

    def head(self, key: str) -> ObjectInfo:
        """Look a file up without reading it."""
        path = self._path(key)
        self.stats.count("head")
        with self._translated(key):
            found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise NotFoundError(f"{path} is not a file", key=key)
        return _info(key, found)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the files whose key begins with `prefix`, in key order."""
        folder = check_prefix(prefix).rpartition("/")[0]
        self.stats.count("list")
        found: list[ObjectInfo] = []
        with self._translated(prefix or None):
            _walk(self.root / folder, folder, found)
            if not found and self.root.is_file():
                raise ConfigError(f"{self.root} is a file, not a folder: name the folder of a replica")
        wanted = [info for info in found if info.key.startswith(prefix) and info.key > start_after]
        return iter(sorted(wanted, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; a missing one is fine. The folders are synced once each."""
        keys = check_keys(keys)
        self.stats.count("delete")
        folders: set[Path] = set()
        failed: BackendError | None = None
        for key in keys:
            try:
                with self._translated(key), suppress(IsADirectoryError):  # a folder is no object
                    os.unlink(self._path(key))
                folders.add(self._path(key).parent)
            except NotFoundError:
                continue
            except BackendError as error:
                failed = failed or error
        for folder in folders:
            with suppress(NotFoundError), self._translated(None):
                _sync_folder(folder)
        if time.monotonic() >= self._next_sweep:  # who deletes cleans up
            self._next_sweep = time.monotonic() + LEFT_S
            sweep(self.root)
        if failed is not None:
            raise failed

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _make_folders(self, folder: Path, key: str) -> None:
        """Make a folder and those above it, each durable in the one that holds it."""
        if folder.is_dir():
            return
        self._make_folders(folder.parent, key)
        try:
            folder.mkdir()
        except FileExistsError as error:  # another writer made it just now, or
            if not folder.is_dir():
                raise ConfigError(f"a file is in the way of a folder: {folder}", key=key) from error
        _sync_folder(folder.parent)

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        """Turn the system's errors into ours."""
        try:
            yield
        except BackendError:
            raise
        except OSError as error:
            raise self._translation(error, key) from error

    def _translation(self, error: OSError, key: str | None) -> BackendError:
        if isinstance(error, IsADirectoryError):
            return ConfigError(f"a folder is in the way of a file: {self.root}/{key}", key=key)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            text = f"{self.url} is no folder, or gone" if key is None else f"{self.url} has no object {key}"
            return NotFoundError(text, key=key)
        if isinstance(error, PermissionError):
            where = str(error.filename or self.root).partition(f"/{ASIDE_PREFIX}")[0]
            return PermissionDeniedError(
                f"not allowed by the system: {where}; check who may read and write there",
                key=key,
            )
        kind = UnavailableError if error.errno in _RETRY_MAY_HELP else BackendError
        return kind(f"{error.strerror}: {self.root}/{key or ''}", key=key)


class _StagedFile(io.BufferedRandom):
    """A file that may become an object of the backend that staged it.

    It goes to the disk while it is written, so that the sync at its end has little left to wait for.
    """

    def __init__(self, backend: LocalBackend, path: Path) -> None:
        super().__init__(io.FileIO(path, "x+b"))
        hold(self.fileno())
        self.backend = backend
        self.path = path
        self.published = False
        self._unsent = 0

    def write(self, data: "Buffer", /) -> int:
        """Write, and let the system begin to put what was written on the disk."""
        written = super().write(data)
        self._unsent += written
        if self._unsent >= _WRITE_BACK_SIZE and hasattr(os, "posix_fadvise"):
            self._unsent = 0
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # starts it, and waits for nothing
        return written


def _publish(
    descriptor: int, aside: Path, final: Path, key: str, if_absent: bool, timestamp_ms: int | None
) -> None:
    """Date and sync a file, and give it its name, durably."""
    if timestamp_ms is not None:
        os.utime(descriptor, ns=(timestamp_ms * 1_000_000, timestamp_ms * 1_000_000))
    os.fsync(descriptor)
    if if_absent:
        _link(aside, final, key)
        os.unlink(aside)
    else:
        os.replace(aside, final)
    _sync_folder(final.parent)


def _link(aside: Path, final: Path, key: str) -> None:
    try:
        os.link(aside, final, follow_symlinks=False)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{final} exists", key=key) from error
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UnsupportedError(
                f"the file system of {final.parent} has no hard links, so it cannot create exclusively",
                key=key,
            ) from error
        raise


def _pread(descriptor: int, start: int, end: int) -> bytes:
    data = os.pread(descriptor, max(0, end - start), start)
    while start + len(data) < end:  # a signal, or the 2 GiB limit of one read
        more = os.pread(descriptor, end - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


def _open(path: str, key: str) -> tuple[int, int]:
    """Open a file to read it, and return its descriptor and its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotFoundError(f"{path} is not a file", key=key)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found.st_size


def _part(descriptor: int, size: int, start: int, end: int | None) -> bytes:
    """Read bytes of an open file."""
    first = max(0, size + start) if start < 0 else start
    return _pread(descriptor, first, size if end is None else min(end, size))


def _announce(descriptor: int, start: int, end: int | None) -> None:
    """Let the system begin to read what will be asked for."""
    if hasattr(os, "posix_fadvise") and end is not None and end > start >= 0:
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(folder: Path, key: str, found: list[ObjectInfo]) -> None:
    """Collect the regular files below a folder; one that vanishes meanwhile is left out."""
    try:
        with os.scandir(folder) as found_here:
            entries = list(found_here)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = f"{key}/{entry.name}" if key else entry.name
        with suppress(FileNotFoundError):
            if entry.is_dir():
                _walk(folder / entry.name, name, found)
            elif entry.is_file() and is_key(name):  # others put names there that are no keys
                found.append(_info(name, entry.stat()))


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        key,
        found.st_size,
        datetime.fromtimestamp(found.st_mtime_ns / 1e9, UTC),
        found.st_mtime_ns // 1_000_000,
        f"{found.st_ino:x}-{found.st_ctime_ns:x}",  # an inode number is used again, and mtime is ours to set
    )
