"""A machine for faults: a wrapper around any backend that fails as storages do, by seed or by script.

`faulty+file:///backups/app?seed=7&rate=0.1` opens one by its URL. What it is made to do to a call is its **kind**:

    error        the request was lost: nothing happened
    unreachable  no connection could be made: nothing happened
    timeout      nothing happened, and the answer did not come for a while
    throttle     nothing happened; the service asks to wait
    lost         it happened, and the answer was lost; a listing breaks off in its middle
    partial      of several deletes half happened; of another call nothing
    slow         it happened, after a while
    short        a read gives fewer bytes than there are, and says nothing
    late         a write was given up, and happens some calls later
    duplicate    a write was sent twice: an exclusive create is refused for its own object; a delete happens again later
    forgotten    a delete is said to have happened, and did not
    stale        a listing is an older one, or lacks the newest objects
"""

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from time import sleep as time_sleep
from typing import BinaryIO, Self, TypeVar

from backends.base import Backend, Data, ObjectInfo, Page, Stats, cut
from backends.errors import AlreadyExistsError, BackendError, NotFoundError, UnavailableError
from backends.fault_plans import Call, Faults, RandomFaults, split_url
from backends.keys import check_key, check_keys

__all__ = ["FaultyBackend", "Injected"]

T = TypeVar("T")

_COPY_SIZE = 1 << 20
_NEWEST = 3
"""How many of the newest objects a stale listing may lack."""

_REMEMBERED = 8
_BEFORE = frozenset({"error", "unreachable", "timeout", "throttle"})
_ANY = _BEFORE | {"slow"}

_lock = threading.Lock()
"""Guards what instances remember; held for moments only."""

os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault that was injected.

    Attributes:
        call: What was called, and how often before.
        kind: What became of it.
    """

    call: Call
    kind: str


class FaultyBackend(Backend):
    """Another backend, some of whose calls fail. It owns the other: closing it closes both.

    It has the other's scheme, URL, capabilities and counts. What it does not fail passes through as it is.

    Args:
        backend: The backend to wrap.
        faults: Which calls fail, and how: `RandomFaults` or `ScriptedFaults`.
        slow_s: How long slow answers and time-outs take, and what a throttling service asks to wait.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        backend: Backend,
        faults: Faults,
        *,
        slow_s: float = 0.05,
        sleep: Callable[[float], None] = time_sleep,
    ) -> None:
        super().__init__()
        self.backend, self.faults = backend, faults
        self.slow_s, self.sleep = slow_s, sleep
        self.scheme, self.url, self.capabilities = backend.scheme, backend.url, backend.capabilities
        self.stats: Stats = backend.stats
        self._calls: Counter[Call] = Counter()
        self._injected: list[Injected] = []
        self._late: list[tuple[int, Callable[[], None]]] = []
        self._count = 0
        self._put: deque[str] = deque(maxlen=_NEWEST)
        self._listings: dict[tuple[str, ...], deque[Page]] = {}

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `faulty+<any URL>?seed=7&rate=0.1&kinds=lost,stale&slow=0.5`; each may also be an option.

        Everything else in the URL and every other option is the wrapped backend's.
        """
        from backends.registry import open_backend

        inner, seed, rate, kinds, slow_s = split_url(url, options)
        return cls(open_backend(inner, **options), RandomFaults(seed, rate, kinds), slow_s=slow_s)

    @property
    def injected(self) -> Sequence[Injected]:
        """Every fault so far, in order."""
        with _lock:
            return tuple(self._injected)

    def settle(self) -> None:
        """Let what is late happen now."""
        self._land(everything=True)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object, or fewer."""
        kind = self._begin(Call("get", key, start, end), {"lost", "short"})
        data = self._carry_out(kind, key, lambda: self.backend.get(key, start, end))
        return data[: len(data) // 2] if kind == "short" else data

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole: now, later, or not."""
        kind = self._begin(Call("put", key), {"lost", "late", "duplicate"})

        def send(what: Data) -> None:
            self.backend.put(key, what, if_absent=if_absent, timestamp_ms=timestamp_ms)
            with _lock:
                self._put.append(key)

        if kind == "late":
            check_key(key)
            copied = b"".join(cut(data, _COPY_SIZE))
            raise self._give_up(key, lambda: send(copied))
        if kind in _BEFORE:
            for _ in islice(cut(data, _COPY_SIZE), 1):  # a try that fails has read some of it
                pass
        self._carry_out(kind, key, lambda: send(data))
        if kind == "duplicate":
            send(data)

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        kind = self._begin(Call("head", key), {"lost"})
        return self._carry_out(kind, key, lambda: self.backend.head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`: now, as they were, or some of them."""
        kind = self._begin(Call("list", prefix), {"lost", "stale"})

        def ask() -> Page:
            return Page(tuple(self.backend.list(prefix, start_after=start_after)), is_last=True)

        page = self._shown(kind, prefix, (prefix, start_after), ask)
        return self._listed(page.objects, broken=kind == "lost", key=prefix)

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List what comes in one request: now, as it was, or some of it."""
        kind = self._begin(Call("list", prefix), {"lost", "stale"})

        def ask() -> Page:
            return self.backend.list_page(prefix, start_after=start_after)

        page = self._shown(kind, prefix, (prefix, start_after, "page"), ask)
        return replace(page, objects=tuple(self._listed(page.objects, broken=kind == "lost", key=prefix)))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects: all, some or none of them."""
        keys = check_keys(keys)
        kind = self._begin(
            Call("delete", keys[0] if keys else ""), {"lost", "late", "partial", "duplicate", "forgotten"}
        )
        if kind == "forgotten":
            return
        first = keys[0] if keys else None
        if kind == "late":
            raise self._give_up(first, lambda: self.backend.delete(keys))
        if kind == "partial":
            half = len(keys) // 2
            self.backend.delete(keys[:half])
            raise UnavailableError(f"{self.url}: some were not deleted", key=keys[half] if keys else None)
        self._carry_out(kind, first, lambda: self.backend.delete(keys))
        if kind == "duplicate":
            self._later(lambda: self.backend.delete(keys))

    def mark(self, key: str) -> None:
        """Take a name."""
        kind = self._begin(Call("mark", key), {"lost"})
        self._carry_out(kind, key, lambda: self.backend.mark(key))

    def unmark(self, key: str) -> None:
        """Give a marker's name free."""
        kind = self._begin(Call("unmark", key), {"lost"})
        self._carry_out(kind, key, lambda: self.backend.unmark(key))

    def stage(self, folder: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
        """Open a file to write what a `put` shall take."""
        return self.backend.stage(folder)

    def close(self) -> None:
        """Let what is late happen, and release connections and threads, the wrapped backend's too."""
        super().close()
        self.settle()
        self.backend.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.backend!r}, {self.faults!r}>"

    def _begin(self, call: Call, fitting: set[str]) -> str | None:
        """Count a call, let late ones happen, and say what becomes of this one."""
        self._land()
        with _lock:
            self._calls[call] += 1
            call = replace(call, number=self._calls[call])
            kind = self.faults.kind_of(call, fitting | _ANY)
            if kind is not None:
                self._injected.append(Injected(call, kind))
        return kind

    def _carry_out(self, kind: str | None, key: str | None, call: Callable[[], T]) -> T:
        if kind == "slow":
            self.sleep(self.slow_s)
        if kind in _BEFORE:
            raise self._before(kind, key or None)
        if kind == "lost":
            with suppress(NotFoundError, AlreadyExistsError):  # an answer, too
                call()
            raise UnavailableError(f"{self.url}: the answer was lost", key=key or None)
        try:
            return call()
        finally:
            self.capabilities = self.backend.capabilities  # a server may show at its first write what it can

    def _before(self, kind: str, key: str | None) -> UnavailableError:
        if kind == "timeout":
            self.sleep(self.slow_s)
            return UnavailableError(f"{self.url} did not answer within {self.slow_s:g} s", key=key)
        if kind == "throttle":
            return UnavailableError(f"{self.url} asks to slow down (503)", key=key, retry_after_s=self.slow_s)
        if kind == "unreachable":
            return UnavailableError(f"{self.url} cannot be reached", key=key, reached=False)
        return UnavailableError(f"{self.url}: the connection broke", key=key)

    def _give_up(self, key: str | None, effect: Callable[[], None]) -> UnavailableError:
        self._later(effect)
        return UnavailableError(f"{self.url} did not answer in time", key=key)

    def _later(self, effect: Callable[[], None]) -> None:
        with _lock:
            self._late.append((self._count + 2 + self._count % 3, effect))

    def _land(self, *, everything: bool = False) -> None:
        with _lock:
            self._count += 1
            due = [effect for at, effect in self._late if everything or at <= self._count]
            self._late = [] if everything else [each for each in self._late if each[0] > self._count]
        for effect in due:
            with suppress(BackendError):  # nobody waits for the answer
                effect()

    def _shown(self, kind: str | None, prefix: str, place: tuple[str, ...], ask: Callable[[], Page]) -> Page:
        """Return what a listing shows: as it is, as it was, or without the newest objects."""
        fresh = self._carry_out(None if kind == "lost" else kind, prefix, ask)
        with _lock:
            known = self._listings.setdefault(place, deque(maxlen=_REMEMBERED))
            older = known[0] if known else None
            known.append(fresh)
            newest = tuple(self._put)
        if kind != "stale":
            return fresh
        if older is not None and not len(known) % 2:
            return older
        return replace(fresh, objects=tuple(info for info in fresh.objects if info.key not in newest))

    def _listed(self, infos: Sequence[ObjectInfo], *, broken: bool, key: str) -> Iterator[ObjectInfo]:
        if not broken:
            yield from infos
            return
        yield from infos[: len(infos) // 2]
        raise UnavailableError(f"{self.url}: the listing broke off", key=key or None)
