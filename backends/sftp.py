"""Objects as files on an SSH server, through sshfs: written aside and published by a link, whole or not at all.

Requests are counted as calls: each of them is a few messages on one connection.
"""

import asyncio
import builtins
import stat
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Self, TypeVar, cast

import asyncssh
from asyncssh import SFTPAttrs, SFTPClient, SFTPClientFile
from fsspec.asyn import sync
from sshfs import SSHFileSystem

from backends.base import Backend, Capabilities, Data, ObjectInfo, Piece, check_put, check_range
from backends.errors import (
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.keys import ASIDE_PREFIX, check_key, check_keys, check_prefix, is_key
from backends.per_process import PerProcess
from backends.sftp_connection import SFTPPlace, close, connect
from backends.sftp_writer import MISSING, PATIENCE_S, SFTPWriter, Source, bounded

__all__ = ["SFTPBackend"]

T = TypeVar("T")

_AT_ONCE = 32
_LATEST_S = (1 << 32) - 1
_REFUSED = (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)
_LOST = (
    asyncssh.SFTPNoConnection,
    asyncssh.SFTPConnectionLost,
    asyncssh.ChannelOpenError,
    asyncssh.DisconnectError,
    OSError,
    TimeoutError,
)


class SFTPBackend(Backend):
    """A folder on an SSH server. Folders on the way to a key are made when they are needed, and never removed.

    `put` writes `.tmp-<random>` in the same folder, has it synced where the server can, and sets its modification time
    to the timestamp, in whole seconds. `if_absent` links it to its name, which is exclusive. Where the server has no
    links (`hardlink@openssh.com`) it is renamed, if the server refuses to rename onto a name that is taken: that is
    tried out at the first such put, and `capabilities.put_if_absent` says what came out.
    """

    scheme = "sftp"
    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True, timestamp_step_ms=1000)

    def __init__(self, place: SFTPPlace) -> None:
        """Prepare; nothing is sent."""
        super().__init__()
        self.url, self._place = place.url, place
        self._filesystems = PerProcess(partial(connect, place))
        self._closing: set[asyncio.Task[None]] = set()
        self._writer = SFTPWriter(place.url)

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `sftp://user@host/absolute/folder`; `SFTPPlace.parse` has the forms and the options."""
        return cls(SFTPPlace.parse(url, options))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of a file."""
        check_range(end)
        return self.get_ranges([(key, start, end)])[0]  # type: ignore[list-item]  # an end of None is ours only

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges, 32 of them at once, each file opened once; the answers are in the order asked."""
        numbers: dict[str, builtins.list[int]] = defaultdict(builtins.list)
        for number, (key, _, end) in enumerate(pieces):
            check_range(end)
            numbers[check_key(key)].append(number)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def read(filesystem: SSHFileSystem, key: str) -> builtins.list[bytes]:
            async with limit, self._sftp(filesystem, key) as sftp, self._file(sftp, self._path(key)) as file:
                reads = [_read(file, *pieces[number][1:]) for number in numbers[key]]
                return await bounded(
                    asyncio.gather(*reads), sum(_length(pieces[number]) for number in numbers[key])
                )

        found: dict[int, bytes] = {}
        for key, answers in zip(numbers, self._gather(read, builtins.list(numbers)), strict=True):
            found.update(zip(numbers[key], answers, strict=True))
        for data in found.values():
            self.stats.count("get", received=len(data))
        return tuple(found[number] for number in range(len(pieces)))

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write a file whole."""
        check_put(timestamp_ms)
        path = self._path(key)
        if timestamp_ms is not None and timestamp_ms // 1000 > _LATEST_S:
            raise ConfigError(
                f"{self.url}: SFTP keeps times up to the year 2106, not {timestamp_ms} ms", key=key
            )
        self.stats.count("put")
        source = Source(data)

        async def write(filesystem: SSHFileSystem) -> None:
            async with self._sftp(filesystem, key) as sftp:
                await self._writer.write(sftp, path, source, if_absent=if_absent, timestamp_ms=timestamp_ms)

        try:
            self._run(write)
        except BaseException:
            if source.broken is not None:
                raise source.broken from None  # the file's own error
            raise
        finally:
            self.capabilities = self._writer.seen(self.capabilities)
        self.stats.count(sent=source.size)

    def head(self, key: str) -> ObjectInfo:
        """Look a file up without reading it."""
        path = self._path(key)
        self.stats.count("head")

        async def look(filesystem: SSHFileSystem) -> ObjectInfo:
            async with self._sftp(filesystem, key) as sftp:
                found = await bounded(sftp.stat(path))
                if not stat.S_ISREG(found.permissions or 0):
                    raise NotFoundError(f"{self.url}/{key} is not a file", key=key)
                return _info(key, found)

        return self._run(look)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the files whose key begins with `prefix`, in key order."""
        folder = check_prefix(prefix).rpartition("/")[0]
        self.stats.count("list")
        found: builtins.list[ObjectInfo] = []

        async def walk(filesystem: SSHFileSystem) -> None:
            async with self._sftp(filesystem, None) as sftp:
                await self._walk(sftp, folder, prefix, found)

        self._run(walk)
        wanted = [
            info
            for info in found
            if info.key.startswith(prefix) and info.key > start_after and is_key(info.key)
        ]
        return iter(sorted(wanted, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, 32 of them at once; a missing one is fine."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def delete(filesystem: SSHFileSystem, key: str) -> None:
            async with limit:
                with suppress(NotFoundError):
                    async with self._sftp(filesystem, key) as sftp:
                        self.stats.count("delete")
                        await bounded(self._remove(sftp, self._path(key)))

        self._gather(delete, builtins.list(dict.fromkeys(check_keys(keys))))

    def close(self) -> None:
        """Release the connection and threads."""
        super().close()
        filesystem = self._filesystems.pop()
        if filesystem is not None:
            close(filesystem)

    def _path(self, key: str) -> str:
        return f"{self._place.root.rstrip('/')}/{check_key(key)}" if self._place.root else check_key(key)

    async def _remove(self, sftp: SFTPClient, path: str) -> None:
        try:
            await sftp.remove(path)
        except (asyncssh.SFTPFailure, asyncssh.SFTPPermissionDenied, asyncssh.SFTPFileIsADirectory):
            if not await sftp.isdir(path):
                raise

    async def _walk(
        self, sftp: SFTPClient, folder: str, prefix: str, found: builtins.list[ObjectInfo]
    ) -> None:
        path = "/".join(filter(None, (self._place.root.rstrip("/"), folder))) or self._place.root or "."
        try:
            entries = await bounded(sftp.readdir(path))
        except (*MISSING, asyncssh.SFTPFailure):
            if await sftp.isdir(path):
                raise
            return
        for entry in entries:
            name = str(entry.filename)
            if name in (".", "..") or name.startswith(ASIDE_PREFIX):
                continue
            key, attributes = (f"{folder}/{name}" if folder else name), entry.attrs
            with suppress(*MISSING):
                if stat.S_ISLNK(attributes.permissions or 0):
                    attributes = await bounded(sftp.stat(f"{path}/{name}"))
                if stat.S_ISDIR(attributes.permissions or 0):
                    if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                        await self._walk(sftp, key, prefix, found)
                elif stat.S_ISREG(attributes.permissions or 0):
                    found.append(_info(key, attributes))

    @asynccontextmanager
    async def _file(self, sftp: SFTPClient, path: str) -> AsyncIterator[SFTPClientFile]:
        """Open a file to read; nobody waits until it is closed."""
        file = await bounded(sftp.open(path, "rb"))
        try:
            yield file
        except asyncssh.SFTPFailure as error:
            if stat.S_ISDIR((await bounded(file.stat())).permissions or 0):
                raise asyncssh.SFTPNoSuchFile(f"{path} is a folder") from error
            raise
        finally:
            task = asyncio.ensure_future(_end(file))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @asynccontextmanager
    async def _sftp(self, filesystem: SSHFileSystem, key: str | None) -> AsyncIterator[SFTPClient]:
        """Take one of the connection's channels; what goes wrong with it is told in our errors."""
        with self._translated(filesystem, key):
            async with filesystem._pool.get() as sftp:
                yield sftp

    def _run(self, work: Callable[[SSHFileSystem], Awaitable[T]]) -> T:
        """Run work on the event loop, over a connection that is not known to be lost."""
        filesystem = self._filesystems.get()
        if filesystem.client.is_closed():
            self._filesystems.discard(filesystem)
            filesystem = self._filesystems.get()
        return cast("T", sync(filesystem.loop, work, filesystem))

    def _gather(
        self, call: Callable[[SSHFileSystem, str], Awaitable[T]], keys: Sequence[str]
    ) -> builtins.list[T]:
        """Run the calls on the event loop, all of them to their end; raise the first error in their order."""

        async def gather(filesystem: SSHFileSystem) -> builtins.list[T | BaseException]:
            return await asyncio.gather(*(call(filesystem, key) for key in keys), return_exceptions=True)

        answers = self._run(gather) if keys else []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return cast("builtins.list[T]", answers)

    @contextmanager
    def _translated(self, filesystem: SSHFileSystem, key: str | None) -> Iterator[None]:
        """Turn asyncssh's errors into ours: none of it leaves this module."""
        try:
            yield
        except BackendError as error:
            error.key = error.key or key
            raise
        except MISSING as error:
            raise NotFoundError(f"{self.url} has no object {key}", key=key) from error
        except _REFUSED as error:
            raise PermissionDeniedError(
                f"{self.url}/{key or ''}: the server does not allow it: {error.reason}", key=key
            ) from error
        except asyncssh.SFTPOpUnsupported as error:
            raise UnsupportedError(
                f"{self.url}: the server cannot do this: {error.reason}", key=key
            ) from error
        except _LOST as error:
            self._filesystems.discard(filesystem)  # the next call connects anew
            filesystem.client.abort()
            reason = (
                f"silent for {PATIENCE_S} s"
                if isinstance(error, TimeoutError)
                else getattr(error, "strerror", None) or str(error) or type(error).__name__
            )
            raise UnavailableError(f"{self.url} does not answer: {reason}", key=key) from error
        except asyncssh.Error as error:
            raise BackendError(f"{self.url}/{key or ''}: {error.reason}", key=key) from error


async def _read(file: SFTPClientFile, start: int, end: int | None) -> bytes:
    if start < 0 or end is None or end <= start:
        found = await file.stat()
        if stat.S_ISDIR(found.permissions or 0):
            raise asyncssh.SFTPNoSuchFile("it is a folder")
        size = found.size or 0
        start = max(0, size + start) if start < 0 else start
        end = size if end is None else min(end, size)
        if end <= start:
            return b""
    return cast("bytes", await file.read(end - start, start))


async def _end(file: SFTPClientFile) -> None:
    with suppress(asyncssh.Error, OSError):
        await file.close()


def _length(piece: Piece) -> int:
    return max(0, piece[2] - piece[1]) if piece[2] is not None else 1 << 32


def _info(key: str, found: SFTPAttrs) -> ObjectInfo:
    seconds = found.mtime
    modified = datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
    return ObjectInfo(key, found.size or 0, modified, None if seconds is None else int(seconds) * 1000)
