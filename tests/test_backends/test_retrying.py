"""When a call is made again, how long that lasts, and what a lost answer means."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Self

import pytest

from backends.base import Backend, Data, ObjectInfo, Piece
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from backends.memory import MemoryBackend
from backends.retrying import Retry, RetryingBackend
from backends.testing import BackendContract, content


class Flaky(Backend):
    """A backend of whose calls in each thread every second fails, in turn before and after it took effect."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.scheme, self.url, self.capabilities = backend.scheme, backend.url, backend.capabilities
        self.stats = backend.stats
        self._calls = threading.local()  # counted together, one of many threads could get all the failures

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        raise NotImplementedError

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        after = self._fail_before()
        data = self.backend.get(key, start, end)
        self._fail_after(after)
        return data

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        after = self._fail_before()
        self.backend.put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)
        self._fail_after(after)

    def head(self, key: str) -> ObjectInfo:
        self._fail_before()
        return self.backend.head(key)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        after = self._fail_before()
        yield from self.backend.list(prefix, start_after=start_after)
        self._fail_after(after)

    def delete(self, keys: Iterable[str]) -> None:
        after = self._fail_before()
        self.backend.delete(keys)
        self._fail_after(after)

    def _fail_before(self) -> bool:
        self._calls.number = number = getattr(self._calls, "number", -1) + 1
        if number % 4 == 0:
            raise UnavailableError("the request was lost")
        return number % 4 == 2

    def _fail_after(self, after: bool) -> None:
        if after:
            raise UnavailableError("the answer was lost")


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def retry(self, **options: float) -> Retry:
        return Retry(
            clock=lambda: self.now,
            sleep=self.sleep,
            jitter=lambda: 1.0,
            tries=int(options.pop("tries", 6)),
            **options,
        )


AT_ONCE = Retry(sleep=lambda _: None)


class TestRetrying(BackendContract):
    part_size = 1 << 20

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Iterator[Backend]:
        with RetryingBackend(Flaky(MemoryBackend(request.node.nodeid)), AT_ONCE) as backend:
            yield backend
            backend.delete([info.key for info in backend.list()])

    def reopen(self, backend: Backend) -> Backend:
        return RetryingBackend(Flaky(MemoryBackend.from_url(backend.url)), AT_ONCE)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        return MemoryBackend.from_url(backend.url).get(key)


class TestRetry:
    def test_waits_double_up_to_the_longest(self) -> None:
        time = Time()
        with pytest.raises(UnavailableError):
            time.retry(tries=9, first_s=0.2, longest_s=3).run(self._fails(time))
        assert time.slept == [0.2, 0.4, 0.8, 1.6, 3, 3, 3, 3]

    def test_jitter_is_full(self) -> None:
        time = Time()
        with pytest.raises(UnavailableError):
            Retry(clock=lambda: time.now, sleep=time.sleep, jitter=lambda: 0.0).run(self._fails(time))
        assert time.slept == [0.0] * 5

    def test_success_ends_it(self) -> None:
        time = Time()
        answers: Iterator[str | Exception] = iter([UnavailableError("1"), UnavailableError("2"), "yes"])

        def call() -> str:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert time.retry().run(call) == "yes"
        assert time.slept == [0.2, 0.4]

    def test_the_service_says_how_long(self) -> None:
        time = Time()
        with pytest.raises(UnavailableError):
            time.retry(tries=3).run(self._fails(time, retry_after_s=7))
        assert time.slept == [7, 7]

    def test_more_than_there_is_time_for(self) -> None:
        time = Time()
        with pytest.raises(UnavailableError) as caught:
            time.retry(total_s=60).run(self._fails(time, retry_after_s=61))
        assert time.slept == []
        assert caught.value.retry_after_s == 61

    def test_total_time_counts_from_the_first_failure(self) -> None:
        time = Time()
        with pytest.raises(UnavailableError):
            time.retry(tries=100, total_s=60).run(self._fails(time, takes_s=25))
        assert time.now - 1000 == pytest.approx(25 + 0.2 + 25 + 0.4 + 25 + 0.8 + 25)

    @pytest.mark.parametrize(("takes_s", "lasts_s"), [(5, 10.2), (14, 14), (0, 6.2)])
    def test_no_connection_within_15_s(self, takes_s: float, lasts_s: float) -> None:
        time = Time()
        with pytest.raises(UnavailableError):
            time.retry().run(self._fails(time, takes_s=takes_s, reached=False))
        assert time.now - 1000 == pytest.approx(lasts_s)

    @pytest.mark.parametrize("kind", [NotFoundError, BackendError, AlreadyExistsError, ConfigError, OSError])
    def test_nothing_else_is_tried_again(self, kind: type[Exception]) -> None:
        time = Time()
        calls = 0

        def call() -> None:
            nonlocal calls
            calls += 1
            raise kind("no")

        with pytest.raises(kind):
            time.retry().run(call)
        assert (calls, time.slept) == (1, [])

    def test_at_least_one_try(self) -> None:
        with pytest.raises(ConfigError):
            Retry(tries=0)

    @staticmethod
    def _fails(
        time: Time, takes_s: float = 0, retry_after_s: float | None = None, reached: bool = True
    ) -> Callable[[], None]:
        def call() -> None:
            time.now += takes_s
            raise UnavailableError("no", retry_after_s=retry_after_s, reached=reached)

        return call


class Lossy(MemoryBackend):
    """A store whose first answer to a put is lost; the put lands, or another's does, or none."""

    def __init__(self, lands: bytes | None, reached: bool = True) -> None:
        super().__init__(f"lossy-{id(self)}")
        self.lands, self.reached, self.puts = lands, reached, 0

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        self.puts += 1
        if self.puts == 1:
            if self.lands is not None:
                super().put(key, self.lands, timestamp_ms=timestamp_ms)
            raise UnavailableError("the answer was lost", reached=self.reached)
        super().put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)


class TestLostAnswer:
    def test_our_own_first_try_landed(self) -> None:
        data = content(9_000_000)
        for source in (data, io.BytesIO(data)):
            lossy = Lossy(data)
            RetryingBackend(lossy, AT_ONCE).put("k", source, if_absent=True, timestamp_ms=5)
            assert (lossy.puts, lossy.get("k")) == (2, data)

    @pytest.mark.parametrize("other", [b"", b"mind", b"mine and more", b"min"])
    def test_another_was_first(self, other: bytes) -> None:
        lossy = Lossy(other)
        with pytest.raises(AlreadyExistsError):
            RetryingBackend(lossy, AT_ONCE).put("k", b"mine", if_absent=True)
        assert lossy.get("k") == other

    def test_nothing_had_landed(self) -> None:
        lossy = Lossy(None)
        RetryingBackend(lossy, AT_ONCE).put("k", b"mine", if_absent=True)
        assert (lossy.puts, lossy.get("k")) == (2, b"mine")

    def test_what_never_left_did_not_land(self) -> None:
        """Equal bytes of another are a conflict where our first try did not reach the service."""
        lossy = Lossy(b"mine", reached=False)
        with pytest.raises(AlreadyExistsError):
            RetryingBackend(lossy, AT_ONCE).put("k", b"mine", if_absent=True)

    def test_a_conflict_at_the_first_try_is_one(self) -> None:
        backend = RetryingBackend(MemoryBackend(f"first-{id(self)}"), AT_ONCE)
        backend.put("k", b"mine")
        with pytest.raises(AlreadyExistsError):
            backend.put("k", b"mine", if_absent=True)
        assert backend.stats.requests["get"] == 0


class TestWrapping:
    def test_it_is_what_it_wraps(self) -> None:
        inner = MemoryBackend("wrapped")
        backend = RetryingBackend(inner)
        assert (backend.scheme, backend.url, backend.capabilities, backend.stats) == (
            inner.scheme,
            inner.url,
            inner.capabilities,
            inner.stats,
        )
        assert repr(backend) == "<RetryingBackend of <MemoryBackend memory://wrapped>>"

    def test_opened_by_url(self) -> None:
        backend = RetryingBackend.from_url("memory://wrapped", retry=AT_ONCE)
        assert isinstance(backend.backend, MemoryBackend)
        assert backend.retry is AT_ONCE
        with pytest.raises(ConfigError, match="Retry"):
            RetryingBackend.from_url("memory://wrapped", retry=5)

    def test_a_marker_is_asked_for_once(self) -> None:
        calls = 0

        class Marking(MemoryBackend):
            def mark(self, key: str) -> None:
                nonlocal calls
                calls += 1
                raise UnavailableError("the answer was lost", key=key)

        backend = RetryingBackend(Marking("marking"), AT_ONCE)
        with pytest.raises(UnavailableError):
            backend.mark("m")
        assert calls == 1
        with pytest.raises(UnsupportedError):
            backend.unmark("m")

    @pytest.mark.parametrize("fails", [False, True])
    def test_many_ranges_are_read_as_the_wrapped_backend_does_it_and_on_failure_one_by_one(
        self, fails: bool
    ) -> None:
        calls: list[Sequence[Piece]] = []

        class Batching(MemoryBackend):
            def get_ranges(self, pieces: Sequence[Piece]) -> Sequence[bytes]:
                calls.append(pieces)
                if fails:
                    raise UnavailableError("one of them was lost")
                return [self.get(*piece) for piece in pieces]

        time = Time()
        with RetryingBackend(Batching("batching"), time.retry()) as backend:
            backend.put("k", b"0123456789")
            pieces = [("k", start, start + 2) for start in range(8)]
            assert [*backend.get_ranges(pieces)] == [b"0123456789"[s : s + 2] for s in range(8)]
        assert calls == [pieces]
        assert len(time.slept) == int(fails)
        assert backend.stats.requests["get"] == 8

    def test_many_ranges_of_a_storage_that_is_away_are_given_up_in_time(self) -> None:
        time = Time()

        class Away(MemoryBackend):
            def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
                time.now += 10
                raise UnavailableError("not reached", reached=False)

        with RetryingBackend(Away("away"), time.retry()) as backend:
            before = time.now
            with pytest.raises(UnavailableError):
                backend.get_ranges([("k", 0, 1)])
        assert time.now - before <= 15


class Learning(MemoryBackend):
    """Finds out at its first write that it cannot create exclusively."""

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        self.capabilities = replace(self.capabilities, put_if_absent=False)
        super().put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)


def test_what_a_storage_shows_at_its_first_write_is_passed_on() -> None:
    backend = RetryingBackend(Learning("learning"))
    assert backend.capabilities.put_if_absent
    backend.put("k", b"x")
    assert not backend.capabilities.put_if_absent
