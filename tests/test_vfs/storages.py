"""A storage in memory whose every request a test can watch, delay, refuse or falsify: `hooked://name`.

It holds the same objects as `memory://name`, by which the writer's side goes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import pytest

from backends import ObjectInfo, Page, register
from backends.memory import MemoryBackend

__all__ = ["HookedBackend", "Hooks", "Request", "Waves", "delays", "hooked", "pages_of"]


@dataclass(frozen=True)
class Request:
    """One request as a storage sees it."""

    kind: str
    key: str
    start: int = 0
    end: int | None = None


@dataclass
class Hooks:
    """What a test does to one store; reset it by `clear`.

    Attributes:
        before: Called before each request; it may raise, wait, or change the store.
        listing: Changes what a listing says.
        answer: Changes the bytes that a get returns.
        log: Every request so far.
    """

    before: Callable[[Request], None] | None = None
    listing: Callable[[list[ObjectInfo]], list[ObjectInfo]] | None = None
    answer: Callable[[Request, bytes], bytes] | None = None
    log: list[Request] = field(default_factory=list)

    def clear(self) -> None:
        """Let requests through as they are."""
        self.before = self.listing = self.answer = None

    def count(self, kind: str) -> int:
        """Count the requests of a kind."""
        return sum(request.kind == kind for request in self.log)


_hooks: dict[str, Hooks] = {}


def hooked(url: str) -> tuple[str, Hooks]:
    """Return the URL by which readers of a `memory://` replica are watched, and what watches them."""
    name = url.removeprefix("memory://")
    assert name != url
    register("hooked", f"{__name__}:HookedBackend")
    return f"hooked://{name}", _hooks.setdefault(name, Hooks())


class HookedBackend(MemoryBackend):
    """The store of that name, with hooks."""

    scheme = "hooked"

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.url = f"hooked://{name}"
        self.hooks = _hooks.setdefault(name, Hooks())

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        assert not options
        return cls(url.partition("://")[2])

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        request = Request("get", key, start, end)
        self._before(request)
        data = super().get(key, start, end)
        return self.hooks.answer(request, data) if self.hooks.answer else data

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        self._before(Request("list", prefix))
        infos = list(super().list(prefix, start_after=start_after))
        return iter(self.hooks.listing(infos) if self.hooks.listing else infos)

    def _before(self, request: Request) -> None:
        self.hooks.log.append(request)
        if self.hooks.before:
            self.hooks.before(request)


@contextmanager
def delays(hooks: Hooks, seconds: float, kind: str = "get") -> Iterator[None]:
    """Let requests of a kind take a while."""

    def wait(request: Request) -> None:
        if request.kind == kind:
            time.sleep(seconds)

    hooks.before = wait
    try:
        yield
    finally:
        hooks.clear()


@contextmanager
def pages_of(count: int) -> Iterator[None]:
    """Let storages in memory answer a listing in pages, as S3 does with 1,000 keys each."""

    def list_page(self: MemoryBackend, prefix: str = "", *, start_after: str = "") -> Page:
        found = tuple(self.list(prefix, start_after=start_after))
        return Page(found[:count], is_last=len(found) <= count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBackend, "list_page", list_page)
        yield


class Waves:
    """Counts sequential round trips: requests that go out while none was answered yet are one wave.

    A wave is answered when no further request has joined it for a while, however slow the machine starts threads.

    Attributes:
        sizes: How many requests each wave had.
    """

    def __init__(self, hooks: Hooks, quiet_s: float = 0.05) -> None:
        self.sizes: list[int] = []
        self._quiet_s = quiet_s
        self._is_open = False
        self._joined = 0.0
        self._changed = threading.Condition()
        hooks.before = self._join

    def _join(self, _request: Request) -> None:
        with self._changed:
            if not self._is_open:
                self._is_open = True
                self.sizes.append(0)
            wave = len(self.sizes)
            self.sizes[-1] += 1
            self._joined = time.monotonic()
            while self._is_open and len(self.sizes) == wave:
                rest = self._joined + self._quiet_s - time.monotonic()
                if rest <= 0:
                    self._is_open = False
                    self._changed.notify_all()
                else:
                    self._changed.wait(rest)
