"""Objects in this process's memory: for tests and for trying things out. Gone when the process ends."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from backends.base import Backend, Capabilities, Data, ObjectInfo, check_put, check_range, cut
from backends.errors import AlreadyExistsError, ConfigError, NotFoundError
from backends.keys import check_key, check_keys, check_prefix

__all__ = ["MemoryBackend"]

_COPY_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    info: ObjectInfo


@dataclass(slots=True)
class _Store:
    objects: dict[str, _Stored] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    writes: int = 0


_stores: dict[str, _Store] = {}


class MemoryBackend(Backend):
    """A dictionary; every `memory://name` of one process is the same store."""

    scheme = "memory"
    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True)

    def __init__(self, name: str = "") -> None:
        """Open the store of that name, and make it where there is none."""
        super().__init__()
        self.url = f"memory://{name}"
        self._store = _stores.setdefault(name, _Store())

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open `memory://name`; there are no options."""
        if options:
            raise ConfigError(f"memory:// takes no options: {', '.join(sorted(options))}")
        return cls(url.partition("://")[2].rstrip("/"))

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read bytes `[start, end)` of an object."""
        check_range(end)
        data = self._find("get", key).data[start:end]
        self.stats.count(received=len(data))
        return data

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole."""
        check_key(key)
        check_put(timestamp_ms)
        whole = b"".join(cut(data, _COPY_SIZE))
        self.stats.count("put", sent=len(whole))
        with self._store.lock:
            if if_absent and key in self._store.objects:
                raise AlreadyExistsError(f"{self.url}/{key} exists", key=key)
            self._store.writes += 1
            info = ObjectInfo(key, len(whole), datetime.now(UTC), timestamp_ms, str(self._store.writes))
            self._store.objects[key] = _Stored(whole, info)

    def head(self, key: str) -> ObjectInfo:
        """Look an object up without reading it."""
        return self._find("head", key).info

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order."""
        check_prefix(prefix)
        self.stats.count("list")
        with self._store.lock:
            infos = [stored.info for stored in self._store.objects.values()]
        found = [info for info in infos if info.key.startswith(prefix) and info.key > start_after]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing key is fine."""
        keys = check_keys(keys)
        self.stats.count("delete")
        with self._store.lock:
            for key in keys:
                self._store.objects.pop(key, None)

    def _find(self, kind: str, key: str) -> _Stored:
        check_key(key)
        self.stats.count(kind)
        try:
            return self._store.objects[key]
        except KeyError:
            raise NotFoundError(f"{self.url} has no object {key}", key=key) from None
