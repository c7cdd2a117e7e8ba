"""Backends that fail, or let something else happen first, in tests."""

from collections.abc import Callable, Iterable, Iterator
from typing import Self

from backends import Backend, Data, ObjectInfo, UnavailableError

__all__ = ["FaultyBackend", "failing"]


class FaultyBackend(Backend):
    """Another backend, whose puts are led through a function: it gets the call and decides what becomes of it."""

    def __init__(self, backend: Backend, put: Callable[[Callable[[], None]], None]) -> None:
        super().__init__()
        self.backend = backend
        self.scheme, self.url, self.capabilities = backend.scheme, backend.url, backend.capabilities
        self.stats = backend.stats
        self.put_through = put

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        raise NotImplementedError

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return self.backend.get(key, start, end)

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        self.put_through(lambda: self.backend.put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms))

    def head(self, key: str) -> ObjectInfo:
        return self.backend.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self.backend.list(prefix, start_after=start_after)

    def delete(self, keys: Iterable[str]) -> None:
        self.backend.delete(keys)


def failing(*, times: int, after_effect: bool, behind: int = 0) -> Callable[[Callable[[], None]], None]:
    """Return what lets the first puts behind some that succeed fail, before they did anything or after they did it all."""
    left, good = times, behind

    def put(call: Callable[[], None]) -> None:
        nonlocal left, good
        if good:
            good -= 1
            call()
            return
        left -= 1
        if left < 0 or after_effect:
            call()
        if left >= 0:
            raise UnavailableError("the answer got lost")

    return put
