"""What every storage promises: bytes under keys, and nothing about what they mean.

`backends.keys` says which keys there are; `backends.testing` holds every backend to what is promised here.
"""

import os
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from types import MappingProxyType, TracebackType
from typing import BinaryIO, Self, TypeVar, cast

from backends.errors import ConfigError, UnsupportedError

__all__ = [
    "Backend",
    "Capabilities",
    "Data",
    "ObjectInfo",
    "Page",
    "Piece",
    "Stats",
    "check_put",
    "check_range",
    "cut",
]

Data = bytes | bytearray | memoryview | BinaryIO
"""What can be put: bytes, or a seekable binary file that is read from its start to its end."""

Piece = tuple[str, int, int]
"""A key and the half-open range `[start, end)` of its bytes."""

PARALLEL_READS = 32
"""Requests that one backend has under way at once for `get_ranges` and `read_ahead`."""

_END_OF_TIME_MS = 253_402_300_800_000
"""The year 10,000: no RFC 3339 time and no file time reaches it."""

_T = TypeVar("_T")

_lock = threading.Lock()
"""Guards what an instance changes after it was made, counters and pools; held for moments only."""

os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


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
        version: Changes when the object is replaced (an ETag, or inode and change time); "" where unknown.
    """

    key: str
    size: int
    modified: datetime | None = None
    timestamp_ms: int | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What a storage said at once of a listing.

    Attributes:
        objects: The first of the objects, in key order.
        is_last: Whether they are all; where not, others may follow, or lie between them if the storage's own order is
            another one.
    """

    objects: Sequence[ObjectInfo]
    is_last: bool


_charged: ContextVar["Stats | None"] = ContextVar("charged", default=None)


class Stats:
    """What one backend asked of its storage since it was opened: people pay for it. Safe to use from any thread.

    A **request** is one that really went out, retries and the parts of an upload included, under the backend's
    own word for it: `get`, `put`, `head`, `list`, `delete` and whatever else its protocol has. For a storage
    without requests it is one call. Bytes are those of objects, without headers and listings.
    """

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._received = self._sent = 0

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests of each kind there were, as of now."""
        with _lock:
            return MappingProxyType(Counter(self._requests))

    @property
    def received(self) -> int:
        """Bytes of objects read."""
        return self._received

    @property
    def sent(self) -> int:
        """Bytes of objects written."""
        return self._sent

    def count(self, kind: str = "", *, received: int = 0, sent: int = 0) -> None:
        """Count a request of this kind, and bytes; without a kind only bytes."""
        charged = _charged.get()
        with _lock:
            for each in (self, charged) if charged is not None else (self,):
                if kind:
                    each._requests[kind] += 1
                each._received += received
                each._sent += sent

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Count here too what is asked of any backend in this block, in threads that it starts for it too."""
        token = _charged.set(self)
        try:
            yield
        finally:
            _charged.reset(token)

    def __repr__(self) -> str:
        requests = ", ".join(f"{count} {kind}" for kind, count in sorted(self.requests.items()))
        return f"<Stats {requests or 'no requests'}, {self.received} bytes received, {self.sent} sent>"


def check_range(end: int | None) -> None:
    """Refuse a negative end, which `Backend.get` does not know."""
    if end is not None and end < 0:
        raise ConfigError(f"a range ends at a byte counted from the object's start, not at {end}")


def check_put(timestamp_ms: int | None) -> None:
    """Refuse a time that not every backend can keep."""
    if timestamp_ms is not None and not 0 <= timestamp_ms < _END_OF_TIME_MS:
        raise ConfigError(
            f"a timestamp is milliseconds since 1970, before the year 10,000, not {timestamp_ms}"
        )


def cut(data: Data, size: int) -> Iterator[bytes | memoryview]:
    """Cut what is put into pieces of `size` bytes, the last one shorter; nothing at all for no bytes.

    A file is read from its start, one piece at a time; its errors pass through as they are.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        view = memoryview(data).cast("B")
        yield from (view[start : start + size] for start in range(0, len(view), size))
        return
    data.seek(0)
    while piece := data.read(size):
        while len(piece) < size and (
            more := data.read(size - len(piece))
        ):  # a raw file may read less than asked
            piece += more
        yield piece


class _Executor(ThreadPoolExecutor):
    """Threads that work on behalf of whoever hands the work over."""

    def submit(self, work: Callable[..., _T], /, *args: object, **options: object) -> Future[_T]:
        return super().submit(copy_context().run, work, *args, **options)  # type: ignore[arg-type]


class Backend(ABC):
    """Objects under keys on one storage, below one root. Safe to use from several threads.

    A forked child may go on using a backend made by its parent: what cannot cross a fork is made anew.
    Every method raises `BackendError`s only (and, from `put`, what reading the given file raised), and waits no
    longer than the backend's time limits. After `close` it may be used again: it connects anew.
    """

    scheme: str
    """The URL scheme it was opened by, such as `s3`."""

    url: str
    """Where its root is, without any secret."""

    capabilities: Capabilities

    stats: Stats
    """Requests and bytes so far."""

    def __init__(self, stats: Stats | None = None) -> None:
        """Prepare.

        Args:
            stats: Where to count; a new one where none is given.
        """
        self.stats = stats or Stats()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_owner = 0

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
            The bytes, fewer than asked for only where the object ends; none where `end` is not after `start`.

        Raises:
            NotFoundError: No object has this key, be the range empty or not.
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
            start_after: Leave out keys up to and including this one; it need not exist.

        Returns:
            The objects by code point of their keys, which is also the order of their UTF-8 bytes.
        """

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List as `list` does, but only what comes in one request, where a storage answers in pages; else all.

        Args:
            prefix: Beginning of the key.
            start_after: Leave out keys up to and including this one.
        """
        return Page(tuple(self.list(prefix, start_after=start_after)), is_last=True)

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing key is fine. Nothing is deleted where one of the keys is not a key.

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

    def get_at_once(self, pieces: Sequence[Piece]) -> Sequence[bytes] | None:  # noqa: ARG002 - nothing can be had so
        """Read many ranges, as `get_ranges`, where that takes no waiting: from a disk of this machine.

        Whoever must not wait long in a call can so spare another thread.

        Returns:
            The bytes; None where it could take a while, and where only another try can tell.

        Raises:
            NotFoundError: An object is not there.
        """
        return None

    def list_pages(self, places: Sequence[tuple[str, str]]) -> Sequence[Page]:
        """Ask for pages of several listings in parallel, each of a prefix, after a key; in the order asked."""
        if len(places) == 1:
            return (self.list_page(places[0][0], start_after=places[0][1]),)
        return tuple(
            self._executor().map(lambda place: self.list_page(place[0], start_after=place[1]), places)
        )

    def read_ahead(self, pieces: Iterable[Piece], *, ahead: int = 4) -> Iterator[bytes]:
        """Read ranges in order while up to `ahead` further ones are under way.

        Memory is bounded by `ahead + 1` pieces. An error is raised when its piece's turn comes. The threads end with
        the iteration: whoever has hundreds of backends, and reads from each now and then, keeps none.
        """
        pieces = iter(pieces)
        first = list(islice(pieces, 2)) if ahead else []
        if len(first) < 2:
            yield from (self.get(*piece) for piece in chain(first, pieces))
            return
        pool = _Executor(ahead + 1, thread_name_prefix=f"{self.scheme}-ahead")
        under_way: deque[Future[bytes]] = deque()
        try:
            for piece in chain(first, pieces):
                under_way.append(pool.submit(self.get, *piece))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def stage(self, folder: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
        """Open a file to write what a `put` shall take, as often as it takes it; at the end it is gone.

        A storage that is itself a folder has it there, and its `put` publishes the file as it is: nothing may be
        written to it afterwards.

        Args:
            folder: Where every other storage's file is to lie.
        """
        from tempfile import TemporaryFile  # readers do without

        return cast("AbstractContextManager[BinaryIO]", TemporaryFile(dir=folder))

    def close(self) -> None:
        """Release connections and threads. Idempotent."""
        with _lock:
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
        with _lock:
            if self._pool is None or self._pool_owner != os.getpid():  # threads do not survive a fork
                self._pool = _Executor(PARALLEL_READS, thread_name_prefix=f"{self.scheme}-read")
                self._pool_owner = os.getpid()
            return self._pool
