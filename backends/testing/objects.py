"""The contract of single objects: bytes in, the same bytes out, whole or in ranges, under any legal key."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from backends.base import Backend, Piece
from backends.errors import ConfigError, NotFoundError
from backends.testing.support import (
    BAD_KEYS,
    MIB,
    UNUSUAL_KEYS,
    Needs,
    WatchedFile,
    at_once,
    content,
    list_keys,
)

__all__ = ["ObjectContract"]

RANGES: list[tuple[int, int | None]] = [
    (0, None), (0, 0), (0, 1), (0, 10), (0, 11), (3, 3), (5, 3), (9, 10), (9, None), (8, 20), (10, None), (10, 20),
    (11, None), (100, 200), (-3, None), (-10, None), (-20, None), (-3, 9), (-20, 5), (-5, 2), (-5, 0),
]  # fmt: skip


class ObjectContract(Needs):
    """One object at a time."""

    @pytest.mark.parametrize("extra", [0, 1, 4096, "part", "part + 1"])
    def test_sizes(self, backend: Backend, extra: int | str) -> None:
        """An object comes back as it went in, whatever its size."""
        sizes = {"part": self.part_size, "part + 1": self.part_size + 1}
        data = content(extra if isinstance(extra, int) else sizes[extra])
        backend.put("a/size", data)
        assert self.raw_get(backend, "a/size") == data
        assert backend.get("a/size") == data
        assert backend.head("a/size").size == len(data)

    def test_large_file(self, backend: Backend, tmp_path: Path) -> None:
        """64 MiB are streamed from a file, and read in ranges."""
        data = content(64 * MIB)
        path = tmp_path / "source"
        path.write_bytes(data)
        with path.open("rb") as source:
            watched = WatchedFile(source)
            backend.put("large", cast(BinaryIO, watched))
            assert watched.largest <= 16 * MIB, "memory would grow with the file"
        assert self.raw_get(backend, "large") == data
        edge = self.part_size
        pieces: list[Piece] = [
            ("large", at, at + 70_000) for at in (0, edge - 1, 2 * edge - 35_000, len(data) - 9)
        ]
        assert list(backend.get_ranges(pieces)) == [data[start:end] for _, start, end in pieces]
        assert b"".join(
            backend.read_ahead(("large", at, at + 5 * MIB) for at in range(0, len(data), 5 * MIB))
        ) == data  # fmt: skip

    def test_kinds_of_data(self, backend: Backend) -> None:
        """Bytes, a bytearray, a slice of memory and a file are the same; a file is read from its start."""
        data = content(3000)
        file = io.BytesIO(data)
        file.seek(1000)
        whole: list[bytes | bytearray | memoryview | BinaryIO] = [
            data,
            bytearray(data),
            memoryview(data),
            file,
        ]
        for number, source in enumerate(whole):
            backend.put(f"kind/{number}", source)
            assert self.raw_get(backend, f"kind/{number}") == data
        backend.put("kind/slice", memoryview(data)[100:200])
        backend.put("kind/nothing", io.BytesIO())
        assert self.raw_get(backend, "kind/slice") == data[100:200]
        assert self.raw_get(backend, "kind/nothing") == b""

    def test_buffer_can_be_used_again(self, backend: Backend) -> None:
        """No reference to what was put is kept, and what was got belongs to the caller."""
        buffer = bytearray(b"first")
        backend.put("k", buffer)
        got = backend.get("k")
        buffer[:] = b"wrong"
        assert got == backend.get("k") == self.raw_get(backend, "k") == b"first"

    def test_replace(self, backend: Backend) -> None:
        """A put replaces, and the version tells, even at the same size and time."""
        backend.put("k", b"old", timestamp_ms=1_000_000)
        old = backend.head("k")
        backend.put("k", b"new", timestamp_ms=1_000_000)
        new = backend.head("k")
        assert self.raw_get(backend, "k") == backend.get("k") == b"new"
        assert new.version != old.version or new.version == ""
        backend.put("k", b"")
        assert backend.get("k") == b""

    def test_range(self, backend: Backend) -> None:
        """A range is what Python slices; of an empty object it is empty."""
        backend.put("ten", b"0123456789")
        backend.put("empty", b"")
        for start, end in RANGES:
            assert backend.get("ten", start, end) == b"0123456789"[start:end], (start, end)
            assert backend.get("empty", start, end) == b"", (start, end)

    def test_missing(self, backend: Backend) -> None:
        """A missing key is a `NotFoundError` that names it, be the range empty or not."""
        backend.put("there/too", b"x")
        for key in ("missing", "there", "there/to", "there/too/deep"):
            for start, end in RANGES[::3]:
                with pytest.raises(NotFoundError) as caught:
                    backend.get(key, start, end)
                assert caught.value.key == key
            with pytest.raises(NotFoundError) as caught:
                backend.head(key)
            assert caught.value.key == key

    def test_negative_end(self, backend: Backend) -> None:
        """An end counted from the end is refused, not guessed at."""
        backend.put("k", b"0123456789")
        with pytest.raises(ConfigError):
            backend.get("k", 0, -1)

    def test_unusual_keys(self, backend: Backend) -> None:
        """Whatever a key looks like, it is that key and no other."""
        for key in UNUSUAL_KEYS:
            backend.put(key, key.encode())
        assert list_keys(backend) == sorted(UNUSUAL_KEYS)
        for key in UNUSUAL_KEYS:
            assert self.raw_get(backend, key) == backend.get(key) == key.encode(), key
            assert backend.head(key).key == key
            assert list_keys(backend, key) == sorted(other for other in UNUSUAL_KEYS if other.startswith(key))
        backend.delete(UNUSUAL_KEYS[::2])
        assert list_keys(backend) == sorted(UNUSUAL_KEYS[1::2])

    def test_bad_keys(self, backend: Backend) -> None:
        """A key that some storage cannot hold is refused by all, before anything is sent."""
        calls: list[Callable[[str], object]] = [
            backend.get,
            backend.head,
            lambda key: backend.put(key, b"x"),
            lambda key: backend.delete([key]),
            lambda key: backend.get_ranges([(key, 0, 1)]),
        ]
        for key in BAD_KEYS:
            for call in calls:
                with pytest.raises(ConfigError) as caught:
                    call(key)
                assert caught.value.key == key
        assert not any(backend.stats.requests.values())

    def test_key_and_folder(self, backend: Backend) -> None:
        """A key that is also a folder of another is held or refused, and damages nothing."""
        for first, second in (("a", "a/b"), ("c/d", "c")):
            backend.put(first, b"first")
            (error,) = at_once(1, lambda _: backend.put(second, b"second"))  # noqa: B023 - done at once
            assert error is None or (type(error), getattr(error, "key", None)) == (ConfigError, second)
            assert error is not None or self.raw_get(backend, second) == b"second"
            assert self.raw_get(backend, first) == b"first"
