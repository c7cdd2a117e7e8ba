"""The contract of one instance in use: parallel reads, threads, forks, what it tells and what it keeps to itself."""

import traceback
from collections.abc import Callable, Iterator

import pytest

from backends.base import Backend, Piece
from backends.errors import BackendError, ConfigError, NotFoundError
from backends.testing.support import Needs, at_once, content, in_child, list_keys

__all__ = ["SharingContract"]


class SharingContract(Needs):
    """One instance, used by many."""

    def test_get_ranges(self, backend: Backend) -> None:
        """Ranges of several objects come in the order asked; a missing object is an error."""
        data = {f"r/{number}": content(5000, number) for number in range(3)}
        for key, value in data.items():
            backend.put(key, value)
        pieces: list[Piece] = [(f"r/{number % 3}", number * 90, number * 90 + 200) for number in range(50)]
        assert list(backend.get_ranges(pieces)) == [data[key][start:end] for key, start, end in pieces]
        assert list(backend.get_ranges([])) == []
        assert list(backend.get_ranges([("r/1", 4990, 6000)])) == [data["r/1"][4990:]]
        with pytest.raises(NotFoundError) as caught:
            backend.get_ranges([("r/0", 0, 1), ("missing", 0, 1), ("r/1", 0, 1)])
        assert caught.value.key == "missing"

    def test_get_at_once(self, backend: Backend) -> None:
        """What needs no waiting is the same, and counted the same; else there is no answer, and nothing is sent."""
        backend.put("k", data := content(5000))
        before, received = dict(backend.stats.requests), backend.stats.received
        got = backend.get_at_once([("k", at, at + 200) for at in range(0, 5000, 90)])
        if got is None:
            assert dict(backend.stats.requests) == before
            return
        assert list(got) == [data[at : at + 200] for at in range(0, 5000, 90)]
        assert backend.stats.received - received == sum(map(len, got))
        assert backend.stats.requests["get"] - before.get("get", 0) == len(got)
        with pytest.raises(NotFoundError) as caught:
            backend.get_at_once([("k", 0, 1), ("missing", 0, 1)])
        assert caught.value.key == "missing"

    @pytest.mark.parametrize("ahead", [0, 1, 4])
    def test_read_ahead(self, backend: Backend, ahead: int) -> None:
        """Pieces come in order, no more than `ahead` of them too early, and an error in its turn."""
        data = content(4000)
        backend.put("k", data)
        asked = 0

        def pieces() -> Iterator[Piece]:
            nonlocal asked
            for asked in range(1, 41):
                yield ("missing" if asked == 31 else "k", asked * 90, asked * 90 + 90)

        reading = backend.read_ahead(pieces(), ahead=ahead)
        for number in range(1, 31):
            assert next(reading) == data[number * 90 : number * 90 + 90]
            assert asked <= number + ahead
        with pytest.raises(NotFoundError):
            next(reading)
        assert next(backend.read_ahead(iter([("k", 0, 9)] * 9), ahead=ahead)) == data[:9]  # and is left there
        assert list(backend.read_ahead([], ahead=ahead)) == []

    def test_threads(self, backend: Backend) -> None:
        """One instance serves many threads."""

        def work(number: int) -> None:
            for turn in range(5):
                key, data = f"t/{number}/{turn}", content(2000, number * 10 + turn)
                backend.put(key, data)
                assert backend.get(key, 10, 500) == data[10:500]
                assert key in list_keys(backend, f"t/{number}/")
                if turn % 2:
                    backend.delete([key])

        assert at_once(8, work) == [None] * 8
        assert len(list_keys(backend, "t/")) == 8 * 3

    def test_fork(self, backend: Backend) -> None:
        """A forked child goes on with its parent's backend, and the parent is not disturbed."""
        data = content(9000)
        backend.put("before", data)
        pieces: list[Piece] = [("before", at, at + 1000) for at in range(0, 9000, 1000)]
        assert b"".join(backend.get_ranges(pieces)) == data

        def child() -> str:
            assert b"".join(backend.get_ranges(pieces)) == data
            backend.put("child", b"hello")
            assert list_keys(backend) == ["before", "child"]
            return backend.get("child").decode()

        for _ in range(2):
            assert in_child(child) == "hello"
            assert b"".join(backend.get_ranges(pieces)) == data
            assert b"".join(backend.read_ahead(pieces)) == data
            backend.delete(["child"])
        assert list_keys(backend) == ["before"]

    def test_timestamps(self, backend: Backend) -> None:
        """A timestamp is given back, rounded down to the backend's step; without the capability it is ignored."""
        step = backend.capabilities.timestamp_step_ms
        for time_ms in (0, 1_700_000_000_123, 1_735_689_599_999, 4_102_444_799_001):
            for size in (3, self.part_size + 1) if time_ms % 2 else (3,):
                backend.put("t", content(size), timestamp_ms=time_ms)
                kept = time_ms // step * step if backend.capabilities.timestamps else None
                assert backend.head("t").timestamp_ms == kept
                assert [info.timestamp_ms for info in backend.list()] in ([kept], [None])
        for wrong in (-1, 253_402_300_800_000):
            with pytest.raises(ConfigError):
                backend.put("wrong", b"x", timestamp_ms=wrong)
        assert list_keys(backend) == ["t"]

    def test_scheme(self, backend: Backend) -> None:
        """The backend is of the scheme for which the test class stands."""
        assert backend.url.startswith(f"{backend.scheme}:")
        assert not self.schemes or backend.scheme in self.schemes

    def test_stats(self, backend: Backend) -> None:
        """Requests are counted by kind, bytes by direction."""
        backend.put("s", content(1000))
        backend.get("s", 100, 400)
        backend.get("s")
        backend.head("s")
        list(backend.list())
        backend.delete(["s"])
        for kind in ("put", "get", "head", "list", "delete"):
            assert backend.stats.requests[kind] >= 1, kind
        assert backend.stats.sent >= 1000
        assert backend.stats.received >= 1300
        assert "put" in repr(backend.stats)

    def test_no_secrets(self, backend: Backend) -> None:
        """Neither the URL nor the repr nor an error shows what the backend was given in confidence."""
        shown = [backend.url, repr(backend), repr(backend.capabilities), repr(backend.stats)]
        calls: list[Callable[[], object]] = [
            lambda: backend.get("missing"), lambda: backend.head("missing"), lambda: backend.put("../x", b""),
            lambda: backend.get("missing", 3, 3),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(BackendError) as caught:
                call()
            shown += [repr(caught.value), *traceback.format_exception(caught.value)]
        for secret in self.secrets:
            assert not [text for text in shown if secret in text]

    def test_close(self, backend: Backend) -> None:
        """Closing is idempotent, and what is used again connects again."""
        backend.put("k", b"x")
        assert list(backend.get_ranges([("k", 0, 1)] * 3)) == [b"x"] * 3
        backend.close()
        backend.close()
        assert list(backend.get_ranges([("k", 0, 1)] * 3)) == [b"x"] * 3
        with backend as same:
            assert same is backend
            assert list_keys(same) == ["k"]
