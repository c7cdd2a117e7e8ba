"""Ask again where that can help: a wrapper around any backend, and the policy it follows."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import BinaryIO, Self, TypeVar

from backends.base import Backend, Data, ObjectInfo, Page, Piece, Stats, cut
from backends.errors import AlreadyExistsError, ConfigError, NotFoundError, UnavailableError

__all__ = ["Retry", "RetryingBackend"]

T = TypeVar("T")

_COMPARE_SIZE = 4 << 20


def _any() -> float:
    from random import random  # what works at once does without

    return random()


@dataclass(frozen=True, slots=True)
class Retry:
    """When to ask again after an `UnavailableError`, and how long to wait before: no other error is worth a retry.

    A wait is random between 0 and a limit that doubles ("full jitter"), and at least what the service asked for.
    The last error is raised when the tries are used up, when the service asked for more time than there is, or
    when the next try could end too late.

    Attributes:
        tries: How often to ask in all.
        total_s: No further try begins later than this after the first failure.
        connect_s: A service to which no connection can be made, or that has never answered, is given up when the next
            try, if it takes as long as the last one, would end later than this after the first try began.
        first_s: Limit of the first wait.
        longest_s: Limit of any wait.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
        jitter: A number from 0 up to 1.
    """

    tries: int = 6
    total_s: float = 60
    connect_s: float = 15
    first_s: float = 0.2
    longest_s: float = 8
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = _any

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError(f"at least one try is needed, not {self.tries}")

    def run(self, call: Callable[[], T]) -> T:
        """Call until it succeeds or a further try is not worth it; then raise the last error."""
        first_began = self.clock()
        first_failed: float | None = None
        for number in range(1, self.tries):
            began = self.clock()
            try:
                return call()
            except UnavailableError as error:
                now = self.clock()
                first_failed = now if first_failed is None else first_failed
                wait_s = self.jitter() * min(self.longest_s, self.first_s * 2 ** (number - 1))
                wait_s = max(wait_s, error.retry_after_s or 0)
                absent = error.silent or not error.reached
                if absent and now + wait_s + (now - began) - first_began > self.connect_s:
                    raise
                if now + wait_s - first_failed > self.total_s:
                    raise
            self.sleep(wait_s)
        return call()


class RetryingBackend(Backend):
    """Another backend, asked again where that can help. It owns the other: closing it closes both.

    A put that is sent again sends the same name and the same bytes. Where an exclusive create is refused after an
    earlier try of the same call went unanswered, the object is read back: if it holds our bytes, that try had
    landed, and the call has succeeded. A second writer of equal bytes cannot be told from that.
    """

    def __init__(self, backend: Backend, retry: Retry | None = None) -> None:
        """Wrap a backend; without a policy the default one is followed."""
        self.backend = backend
        self.retry = retry or Retry()
        super().__init__()
        self.scheme, self.url, self.capabilities = backend.scheme, backend.url, backend.capabilities
        self.stats: Stats = backend.stats

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open the backend that a URL names, and wrap it; the option `retry` is a `Retry`."""
        from backends.registry import open_backend

        retry = options.pop("retry", None)
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError(f"retry is a Retry, not a {type(retry).__name__}")
        return cls(open_backend(url, **options), retry)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object."""
        return self.retry.run(lambda: self.backend.get(key, start, end))

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole; a file is read again for each try."""
        unanswered = False

        def attempt() -> None:
            nonlocal unanswered
            try:
                self.backend.put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)
            except UnavailableError as error:
                unanswered = unanswered or error.reached
                raise

        try:
            self.retry.run(attempt)
        except AlreadyExistsError:
            if not unanswered or not self._holds(key, data):
                raise
        finally:
            self.capabilities = self.backend.capabilities  # a server may show at its first write what it can

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        return self.retry.run(lambda: self.backend.head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order; all of them are held in memory."""
        return iter(self.retry.run(lambda: tuple(self.backend.list(prefix, start_after=start_after))))

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List what comes in one request."""
        return self.retry.run(lambda: self.backend.list_page(prefix, start_after=start_after))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing key is fine."""
        keys = keys if isinstance(keys, str) else tuple(keys)
        self.retry.run(lambda: self.backend.delete(keys))

    def mark(self, key: str) -> None:
        """Take a name: asked once, since a marker whose answer was lost cannot be told from another's."""
        try:
            self.backend.mark(key)
        finally:
            self.capabilities = self.backend.capabilities

    def unmark(self, key: str) -> None:
        """Give a marker's name free."""
        self.retry.run(lambda: self.backend.unmark(key))

    def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
        """Read many ranges the way that the wrapped backend does it best; where that fails, each piece by itself.

        Asking for all of them again would fail again where each request fails now and then.
        """
        ways = iter((self.backend.get_ranges, super().get_ranges))
        once_more = replace(self.retry, tries=min(2, self.retry.tries))
        return once_more.run(lambda: next(ways)(pieces))

    def get_at_once(self, pieces: Sequence[Piece]) -> Sequence[bytes] | None:
        """Read many ranges where that takes no waiting; a retry would."""
        try:
            return self.backend.get_at_once(pieces)
        except UnavailableError:
            return None

    def stage(self, folder: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
        """Open a file to write what a `put` shall take."""
        return self.backend.stage(folder)

    def close(self) -> None:
        """Release connections and threads, the wrapped backend's too."""
        super().close()
        self.backend.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.backend!r}>"

    def _holds(self, key: str, data: Data) -> bool:
        """Say whether the object is these bytes, without reading more of it than a file's next piece at once."""
        at = 0
        try:
            for piece in cut(data, _COMPARE_SIZE):
                if self.get(key, at, at + len(piece)) != piece:
                    return False
                at += len(piece)
            return self.head(key).size == at
        except NotFoundError:
            return False
