"""How a file gets to an SFTP server: aside, with its time, synced, then under its name by a link or a rename."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import asyncssh
from asyncssh import SFTPAttrs, SFTPClient, SFTPClientFile

from backends.base import Capabilities, Data, cut
from backends.errors import AlreadyExistsError, ConfigError, UnsupportedError
from backends.keys import ASIDE_PREFIX

__all__ = ["MISSING", "PATIENCE_S", "SFTPWriter", "Source", "bounded"]

T = TypeVar("T")

PATIENCE_S = 30
MISSING = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory)
_TAKEN = (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists, asyncssh.SFTPFileIsADirectory)
"""Version 3 of the protocol says only "Failure"."""

_SLOWEST = 64 << 10
"""Bytes a second below which a transfer is given up."""

_PIECE_SIZE = 4 << 20
_UNDER_WAY = 2
_LOOK_FIRST_SIZE = 1 << 20
"""From this size on, it is worth a question whether the name is taken before anything is sent."""


class Source:
    """What is put, with its size, and what went wrong in reading it."""

    def __init__(self, data: Data) -> None:
        self._data = data
        if isinstance(data, bytes | bytearray | memoryview):
            self.size = len(memoryview(data).cast("B"))
        else:
            self.size = data.seek(0, 2)
        self.broken: BaseException | None = None

    def pieces(self) -> Iterator[bytes]:
        """Give the bytes, 4 MiB at once."""
        try:
            for piece in cut(self._data, _PIECE_SIZE):
                yield bytes(piece)
        except Exception as error:
            self.broken = error
            raise


class SFTPWriter:
    """Writes files on one server, and remembers what it cannot do. Its errors are asyncssh's, and some of ours."""

    def __init__(self, url: str) -> None:
        """Prepare; the URL is for messages."""
        self._url = url
        self._rename_refuses: bool | None = None
        self._rename_replaces = True

    def seen(self, capabilities: Capabilities) -> Capabilities:
        """Return the capabilities without those that this server turned out not to have."""
        return replace(
            capabilities,
            put_if_absent=capabilities.put_if_absent and self._rename_refuses is not False,
            atomic_put=capabilities.atomic_put and self._rename_replaces,
        )

    async def write(
        self, sftp: SFTPClient, path: str, source: Source, *, if_absent: bool, timestamp_ms: int | None
    ) -> None:
        """Write a file whole.

        Raises:
            AlreadyExistsError: `if_absent`, and the name is taken.
            UnsupportedError: `if_absent`, and the server has no way to refuse a taken name.
            ConfigError: The name is a folder's, or a name on the way to it a file's.
        """
        if if_absent and source.size > _LOOK_FIRST_SIZE and await bounded(sftp.exists(path)):
            raise AlreadyExistsError(f"{self._url}: {path} exists")
        folder, slash, _ = path.rpartition("/")
        aside = f"{folder}{slash}{ASIDE_PREFIX}{os.urandom(8).hex()}"
        try:
            await self._upload(sftp, aside, source, timestamp_ms)
            if if_absent:
                await self._create(sftp, aside, path)
            else:
                await self._replace(sftp, aside, path)
        except BaseException as error:
            with suppress(asyncssh.Error, OSError, TimeoutError):
                await asyncio.wait_for(sftp.remove(aside), 5)
            if isinstance(error, _TAKEN) and await bounded(sftp.isdir(path)):
                raise ConfigError(f"{self._url}: {path} is a folder: no object can have its name") from error
            if isinstance(error, _TAKEN) and if_absent and await bounded(sftp.lexists(path)):
                raise AlreadyExistsError(f"{self._url}: {path} exists") from error
            raise

    async def _upload(self, sftp: SFTPClient, aside: str, source: Source, timestamp_ms: int | None) -> None:
        try:
            file = await bounded(sftp.open(aside, "xb"))
        except MISSING:
            await self._make_folders(sftp, aside.rpartition("/")[0])
            file = await bounded(sftp.open(aside, "xb"))
        async with file:
            await _send(file, source)
            if timestamp_ms is not None:
                seconds = timestamp_ms // 1000
                await bounded(file.setstat(SFTPAttrs(atime=seconds, mtime=seconds)))
            with suppress(asyncssh.SFTPOpUnsupported):
                await bounded(file.fsync())

    async def _create(self, sftp: SFTPClient, aside: str, path: str) -> None:
        try:
            await bounded(sftp.link(aside, path))
        except asyncssh.SFTPOpUnsupported:
            await self._check_rename(sftp, aside)
            await bounded(sftp.rename(aside, path))
        except asyncssh.SFTPFailure as error:
            if not await bounded(sftp.lexists(path)):
                raise UnsupportedError(
                    f"{self._url}: the server's file system refuses a hard link, so it cannot create exclusively"
                ) from error
            raise
        else:
            await bounded(sftp.remove(aside))

    async def _replace(self, sftp: SFTPClient, aside: str, path: str) -> None:
        with suppress(asyncssh.SFTPOpUnsupported):
            await bounded(sftp.posix_rename(aside, path))
            return
        self._rename_replaces = False
        try:
            await bounded(sftp.rename(aside, path))
        except _TAKEN:
            await bounded(sftp.remove(path))
            await bounded(sftp.rename(aside, path))

    async def _check_rename(self, sftp: SFTPClient, aside: str) -> None:
        """Rename a file onto another one, once: a server that lets that happen has no exclusive create."""
        if self._rename_refuses is None:
            first, second = f"{aside}-1", f"{aside}-2"
            for probe in (first, second):
                async with await bounded(sftp.open(probe, "xb")):
                    pass
            try:
                await bounded(sftp.rename(first, second))
                self._rename_refuses = False
            except _TAKEN:
                self._rename_refuses = True
            for probe in (first, second):
                with suppress(*MISSING):
                    await bounded(sftp.remove(probe))
        if not self._rename_refuses:
            raise UnsupportedError(
                f"{self._url}: the server has no links, and renames onto a name that is taken"
            )

    async def _make_folders(self, sftp: SFTPClient, folder: str) -> None:
        try:
            try:
                await bounded(sftp.mkdir(folder))
            except MISSING:
                if not folder.strip("/"):
                    raise
                await self._make_folders(sftp, folder.rpartition("/")[0] or "/")
                await bounded(sftp.mkdir(folder))
        except asyncssh.SFTPError:
            if await bounded(sftp.isdir(folder)):
                return  # it is there, maybe since a moment ago
            if await bounded(sftp.exists(folder)):
                raise ConfigError(f"{self._url}: a file is in the way of the folder {folder}") from None
            raise


async def _send(file: SFTPClientFile, source: Source) -> None:
    """Write the source, two pieces under way at once: the line is not idle while one ends and the next is read."""
    offset = 0
    under_way: deque[asyncio.Future[object]] = deque()
    try:
        for piece in source.pieces():
            size = len(piece)
            under_way.append(asyncio.ensure_future(bounded(file.write(piece, offset), size)))
            offset += size
            if len(under_way) == _UNDER_WAY:
                await under_way.popleft()
            else:
                await asyncio.sleep(0)  # lets the first one begin before the next is read
        while under_way:
            await under_way.popleft()
    finally:
        await asyncio.gather(
            *under_way, return_exceptions=True
        )  # nothing is written to a file that is closed


async def bounded(call: Awaitable[T], size: int = 0) -> T:
    """Give a call a limit of time that grows with its size."""
    return await asyncio.wait_for(call, PATIENCE_S + size / _SLOWEST)
