"""The contract between writers and readers: who wins, and that nobody sees a part."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from backends.base import Backend
from backends.errors import AlreadyExistsError, UnsupportedError
from backends.testing.support import BrokenFile, Needs, at_once, content, list_keys

__all__ = ["WriterContract"]


class WriterContract(Needs):
    """Several writers and readers."""

    def test_put_if_absent(self, backend: Backend) -> None:
        """The second creation is refused and changes nothing; without the capability so is the first."""
        if not backend.capabilities.put_if_absent:
            with pytest.raises(UnsupportedError):
                backend.put("k", b"first", if_absent=True)
            assert list_keys(backend) == []
            return
        for size in (5, self.part_size + 1):
            first, second = content(size, 1), content(size, 2)
            backend.put("k", io.BytesIO(first), if_absent=True)
            with pytest.raises(AlreadyExistsError) as caught:
                backend.put("k", io.BytesIO(second), if_absent=True)
            assert caught.value.key == "k"
            assert self.raw_get(backend, "k") == first
            assert list_keys(backend) == ["k"]
            backend.delete(["k"])

    @pytest.mark.parametrize("writers", [20, 3])
    def test_one_writer_wins(self, backend: Backend, writers: int) -> None:
        """Of 20 writers of a small object, or 3 of one in parts, exactly one wins, from several instances."""
        size = 100 if writers == 20 else self.part_size + 1

        def put(number: int, instance: Backend) -> None:
            instance.put("contested", content(size, number), if_absent=True)

        with self.reopen(backend) as other:
            errors = at_once(writers, lambda number: put(number, other if number % 2 else backend))
        if not backend.capabilities.put_if_absent:
            assert {type(error) for error in errors} == {UnsupportedError}
            return
        winners = [number for number, error in enumerate(errors) if error is None]
        assert len(winners) == 1, errors
        assert {type(error) for error in errors} == {type(None), AlreadyExistsError}
        assert self.raw_get(backend, "contested") == content(size, winners[0])

    def test_marker(self, backend: Backend) -> None:
        """Of 20 callers one gets the marker, which is never listed; without the capability none does."""
        if not backend.capabilities.exclusive_marker:
            for call in (backend.mark, backend.unmark):
                with pytest.raises(UnsupportedError):
                    call("m")
            return
        with self.reopen(backend) as other:
            errors = at_once(20, lambda number: (other if number % 2 else backend).mark("epoch/1"))
            assert errors.count(None) == 1
            assert {type(error) for error in errors} == {type(None), AlreadyExistsError}
            backend.put("object", b"stays")
            with pytest.raises(AlreadyExistsError):
                backend.mark("object")
            other.unmark("object")
            assert self.raw_get(backend, "object") == b"stays"
            assert list_keys(backend) == ["object"]
            for _ in range(2):
                other.unmark("epoch/1")
            backend.mark("epoch/1")

    def test_reader_sees_old_or_new(self, backend: Backend) -> None:
        """While an object is replaced, a reader sees one version whole, unless `atomic_put` is denied."""
        versions = [content(400_000, 1), content(500_000, 2)]
        backend.put("k", versions[0])
        seen: set[bytes] = set()
        done = threading.Event()

        def read(instance: Backend) -> None:
            while not done.is_set():
                seen.add(instance.get("k"))

        with self.reopen(backend) as other, ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read, instance) for instance in (backend, other)]
            try:
                for number in range(30):
                    backend.put("k", versions[number % 2])
            finally:
                done.set()
            if backend.capabilities.atomic_put:
                assert [reader.result() for reader in readers] == [None, None]
                assert seen <= set(versions)
        assert self.raw_get(backend, "k") == versions[1]

    def test_staged(self, backend: Backend, tmp_path: Path) -> None:
        """A staged file is put as often as one likes, is not listed itself, and is gone in the end."""
        data = content(self.part_size + 1)
        folder = tmp_path / "staging"
        folder.mkdir()
        with backend.stage(folder) as staged:
            staged.write(data[:1000])
            staged.write(data[1000:])
            assert list_keys(backend) == []
            for number, key in enumerate(["st/1", "st/2", "st/1"]):
                backend.put(key, staged, timestamp_ms=1000 * number)
        assert list_keys(backend) == ["st/1", "st/2"]
        assert list(folder.iterdir()) == []
        for key, time_ms in (("st/1", 2000), ("st/2", 1000)):
            assert self.raw_get(backend, key) == data
            assert backend.head(key).timestamp_ms == (time_ms if backend.capabilities.timestamps else None)

    @pytest.mark.parametrize("parts", [0, 2])
    def test_broken_source(self, backend: Backend, parts: int) -> None:
        """A source that breaks leaves nothing, and what was there before stays; its own error comes through."""
        broken = cast(BinaryIO, BrokenFile(parts * self.part_size + 100_000))
        with pytest.raises(RuntimeError, match="the source broke"):
            backend.put("new", broken)
        assert list_keys(backend) == []
        if backend.capabilities.atomic_put:
            backend.put("old", b"whole")
            with pytest.raises(RuntimeError, match="the source broke"):
                backend.put("old", broken)
            assert self.raw_get(backend, "old") == b"whole"
            assert list_keys(backend) == ["old"]
