"""What every storage promises: bytes under keys, and nothing about what they mean.

A **key** is relative to the root that the URL named: components joined by `/`, such as
`ltx/0/0000000000000001-0000000000000001.ltx`. `check_key` holds the rules.
"""

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Self

from backends.errors import ConfigError, UnsupportedError

__all__ = ["Backend", "Capabilities", "Data", "ObjectInfo", "Piece", "check_key"]

Data = bytes | bytearray | memoryview | BinaryIO
"""What can be put: bytes, or a seekable binary file that is read from its start to its end."""

Piece = tuple[str, int, int]
"""A key and the half-open range `[start, end)` of its bytes."""

MAX_KEY_SIZE = 900
"""Bytes of UTF-8; S3 and Azure allow 1,024 with the root in front."""

PARALLEL_READS = 8
"""Requests that one backend has under way at once for `get_ranges` and `read_ahead`."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do natively. What it cannot is never emulated.

    Attributes:
        put_if_absent: `put(if_absent=True)` lets exactly one of any number of writers win.
        timestamps: `put(timestamp_ms=...)` is kept, and `head` gives it back.
        atomic_put: A reader sees the old object or the new one, never a part.
        exclusive_marker: `mark` lets exactly one of any number of callers win, where `put_if_absent` cannot.
        timestamp_step_ms: Timestamps are kept in steps of this many milliseconds, rounded down: 1,000 on SFTP.
    """

    put_if_absent: bool
    timestamps: bool
    atomic_put: bool
    exclusive_marker: bool = False
    timestamp_step_ms: int = 1


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object, as a listing or `head` shows it.

    Attributes:
        key: Relative to the backend's root.
        size: Bytes.
        modified: When the storage says that it was written: a hint, clocks differ. None where unknown.
        timestamp_ms: What `put` was given, in milliseconds since 1970. `head` always has it where the
            backend keeps timestamps; a listing only where it costs no further request.
        version: Changes when the object is replaced (an ETag, or inode and modification time); "" where unknown.
    """

    key: str
    size: int
    modified: datetime | None = None
    timestamp_ms: int | None = None
    version: str = ""


def check_key(key: str) -> str:
    """Return the key if every backend can hold it.

    Raises:
        ConfigError: It is empty or over 900 bytes (S3), has an empty, `.` or `..` component (a folder would
            fold it), a backslash or control character (Azure, WebDAV), a component that ends in a dot
            (Azure), or one that begins with `.tmp-` (where the file backend writes aside).
    """
    parts = key.split("/")
    if (
        not key
        or len(key.encode()) > MAX_KEY_SIZE
        or any(part in ("", ".", "..") or part.endswith(".") or part.startswith(".tmp-") for part in parts)
        or any(character < " " or character in "\\\x7f" for character in key)
    ):
        raise ConfigError(f"not a key that every storage can hold: {key!r}", key=key)
    return key


class Backend(ABC):
    """Objects under keys on one storage, below one root. Safe to use from several threads.

    A forked child may go on using a backend made by its parent: what cannot cross a fork is made anew.
    Every method raises `BackendError`s only, and waits no longer than the backend's time limits.
    """

    scheme: str
    """The URL scheme it was opened by, such as `s3`."""

    url: str
    """Where its root is, without any secret."""

    capabilities: Capabilities

    _pool: ThreadPoolExecutor | None = None
    _pool_owner: int = 0
    _pool_lock = threading.Lock()

    @classmethod
    @abstractmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open the backend that a URL names. Nothing is sent yet.

        Args:
            url: Scheme, place and query. Secrets in it are taken out and kept out of `url` and repr.
            options: Whatever a URL cannot hold; an option wins over the query, the query over the environment.

        Raises:
            ConfigError: The URL or an option is wrong.
        """

    @abstractmethod
    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object.

        Args:
            key: Key relative to the root.
            start: First byte. Negative counts from the end, so `start=-16` is the last 16.
            end: Byte after the last one, not negative; None means to the end. Past the end is cut short.

        Returns:
            The bytes, fewer than asked for only where the object ends.

        Raises:
            NotFoundError: No object has this key.
            UnavailableError: The service did not answer; a retry may help.
        """

    @abstractmethod
    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole: durable when this returns, and not there at all when it raises before.

        Memory does not grow with the size of a file. No reference to `data` is kept.

        Args:
            key: Key relative to the root.
            data: Bytes, or a seekable file, which is read from its start to its end.
            if_absent: Create only: of any number of writers one wins.
            timestamp_ms: A time to keep with the object, where the backend can; else ignored.

        Raises:
            AlreadyExistsError: `if_absent`, and the key is taken; the object there is unchanged.
            UnsupportedError: `if_absent`, and the backend has no exclusive create.
            UnavailableError: The service did not answer: the object may or may not be there.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it.

        Raises:
            NotFoundError: No object has this key.
        """

    @abstractmethod
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order, never from a cache.

        Args:
            prefix: Beginning of the key as plain text: `a/0` matches `a/0`, `a/01` and `a/0/b`.
            start_after: Leave out keys up to and including this one.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing key is fine.

        Raises:
            BackendError: Some could not be deleted; `key` names the first of them. The others are gone.
        """

    def mark(self, key: str) -> None:
        """Take a name: of any number of callers one wins. A marker holds nothing and is never listed.

        Raises:
            AlreadyExistsError: It is taken, by a marker or an object.
            UnsupportedError: The backend has no exclusive markers.
        """
        raise UnsupportedError(f"{self.url} has no exclusive markers", key=key)

    def unmark(self, key: str) -> None:
        """Give a marker's name free; a missing one is fine, and an object of that name stays.

        Raises:
            UnsupportedError: The backend has no exclusive markers.
        """
        raise UnsupportedError(f"{self.url} has no exclusive markers", key=key)

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges, of one object or several, in parallel; the answers are in the order asked."""
        if len(pieces) == 1:
            return (self.get(*pieces[0]),)
        return tuple(self._executor().map(lambda piece: self.get(*piece), pieces))

    def read_ahead(self, pieces: Iterable[Piece], *, ahead: int = 4) -> Iterator[bytes]:
        """Read ranges in order while up to `ahead` further ones are under way.

        Memory is bounded by `ahead + 1` pieces. An error is raised when its piece's turn comes.
        """
        pool = self._executor()
        under_way: deque[Future[bytes]] = deque()
        try:
            for piece in pieces:
                under_way.append(pool.submit(self.get, *piece))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """Release connections and threads. Idempotent."""
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pool_owner == os.getpid():
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    def _executor(self) -> ThreadPoolExecutor:
        with self._pool_lock:
            if self._pool is None or self._pool_owner != os.getpid():  # threads do not survive a fork
                self._pool = ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix=f"{self.scheme}-read")
                self._pool_owner = os.getpid()
            return self._pool
