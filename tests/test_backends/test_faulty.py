"""The machine for faults: it passes everything through, fails as told, and is healed by asking again."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import pytest

from backends import Backend, open_backend
from backends.errors import AlreadyExistsError, ConfigError, UnavailableError
from backends.local import LocalBackend
from backends.memory import MemoryBackend
from backends.retrying import Retry, RetryingBackend
from backends.testing import (
    KINDS,
    TRANSIENT,
    BackendContract,
    Fault,
    FaultyBackend,
    RandomFaults,
    ScriptedFaults,
)

AT_ONCE = Retry(tries=40, sleep=lambda _: None)


def faulty(backend: Backend, seed: int = 0, rate: float = 0.0, kinds: tuple[str, ...] = KINDS) -> Backend:
    return FaultyBackend(backend, RandomFaults(seed, rate, kinds), sleep=lambda _: None)


def scripted(*script: Fault) -> FaultyBackend:
    return FaultyBackend(MemoryBackend(token_hex(6)), ScriptedFaults(*script), sleep=lambda _: None)


class TestWithoutFaults(BackendContract):
    part_size = 1 << 20

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        with faulty(LocalBackend(tmp_path / "root")) as backend:
            yield backend

    def reopen(self, backend: Backend) -> Backend:
        return faulty(open_backend(backend.url))

    def raw_get(self, backend: Backend, key: str) -> bytes:
        assert isinstance(backend, FaultyBackend)
        assert isinstance(backend.backend, LocalBackend)
        return (backend.backend.root / key).read_bytes()


class TestHealed(BackendContract):
    """Every third call fails with what asking again heals."""

    part_size = 1 << 20

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Iterator[Backend]:
        memory = MemoryBackend(request.node.nodeid)
        with RetryingBackend(faulty(memory, 7, 0.3, TRANSIENT), AT_ONCE) as backend:
            yield backend
        memory.delete([info.key for info in memory.list()])

    def reopen(self, backend: Backend) -> Backend:
        return RetryingBackend(faulty(MemoryBackend.from_url(backend.url), 8, 0.3, TRANSIENT), AT_ONCE)

    def raw_get(self, backend: Backend, key: str) -> bytes:
        return MemoryBackend.from_url(backend.url).get(key)


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "happened"),
        [("error", False), ("unreachable", False), ("timeout", False), ("throttle", False), ("lost", True)],
    )
    def test_errors_before_and_after_the_effect(self, kind: str, happened: bool) -> None:
        with scripted(Fault("put", 2, kind)) as backend:
            backend.put("a", b"1")
            with pytest.raises(UnavailableError) as caught:
                backend.put("a", io.BytesIO(b"2"))
            assert caught.value.key == "a"
            assert caught.value.reached is (kind != "unreachable")
            assert (caught.value.retry_after_s is not None) is (kind == "throttle")
            assert backend.get("a") == (b"2" if happened else b"1")
            backend.put("a", b"3")
            assert backend.get("a") == b"3"
            assert [(each.call.verb, each.call.key, each.kind) for each in backend.injected] == [
                ("put", "a", kind)
            ]

    @pytest.mark.parametrize(
        "call", [lambda backend: backend.get("a"), lambda backend: backend.head("a")], ids=["get", "head"]
    )
    def test_reads_whose_answer_is_lost(self, call: Callable[[Backend], object]) -> None:
        with scripted(Fault("get", 0, "lost"), Fault("head", 0, "lost")) as backend:
            for _ in range(2):  # "there is none" is an answer, too
                with pytest.raises(UnavailableError):
                    call(backend)
                backend.put("a", b"1")

    def test_a_short_read(self) -> None:
        with scripted(Fault("get", 1, "short")) as backend:
            backend.put("a", b"12345678")
            assert backend.get("a", 2, 6) == b"34"
            assert backend.get("a", 2, 6) == b"3456"

    def test_a_listing_that_breaks_off(self) -> None:
        with scripted(Fault("list", 1, "lost")) as backend:
            for key in "abcd":
                backend.put(key, b"")
            listing = backend.list()
            assert [next(listing).key, next(listing).key] == ["a", "b"]
            with pytest.raises(UnavailableError):
                next(listing)

    def test_stale_listings(self) -> None:
        with scripted(
            Fault("list", 2, "stale"), Fault("list", 4, "stale"), Fault("list", 5, "stale")
        ) as backend:
            seen = []
            for key in "abcde":
                backend.put(key, b"")
                seen.append("".join(info.key for info in backend.list()))
            assert seen == ["a", "a", "abc", "a", "ab"]
            assert "".join(info.key for info in backend.list()) == "abcde"

    def test_a_write_that_comes_late(self) -> None:
        with scripted(Fault("put", 1, "late")) as backend:
            with pytest.raises(UnavailableError):
                backend.put("a", io.BytesIO(b"late"))
            assert list(backend.list()) == []
            backend.settle()
            assert backend.get("a") == b"late"

    def test_a_late_exclusive_create_never_overwrites(self) -> None:
        with scripted(Fault("put", 1, "late")) as backend:
            with pytest.raises(UnavailableError):
                backend.put("a", b"late", if_absent=True)
            backend.put("a", b"in time", if_absent=True)
            backend.settle()
            assert backend.get("a") == b"in time"

    def test_a_create_that_is_refused_for_its_own_object(self) -> None:
        with scripted(Fault("put", 1, "duplicate")) as backend:
            with pytest.raises(AlreadyExistsError):
                backend.put("a", b"ours", if_absent=True)
            assert backend.get("a") == b"ours"

    def test_deletes(self) -> None:
        script = [
            Fault("delete", 1, "forgotten"),
            Fault("delete", 2, "partial"),
            Fault("delete", 3, "duplicate"),
        ]
        with scripted(*script) as backend:
            for key in "abcd":
                backend.put(key, b"")
            backend.delete(["a"])
            assert len(list(backend.list())) == 4
            with pytest.raises(UnavailableError) as caught:
                backend.delete(list("abcd"))
            assert caught.value.key == "c"
            assert [info.key for info in backend.list()] == ["c", "d"]
            backend.delete(["c"])
            backend.put("c", b"again")
            backend.settle()
            assert [info.key for info in backend.list()] == ["d"]

    def test_slow_answers(self) -> None:
        slept: list[float] = []
        memory = MemoryBackend(token_hex(6))
        script = ScriptedFaults(Fault("put", 1, "slow"), Fault("get", 1, "timeout"))
        with FaultyBackend(memory, script, slow_s=7, sleep=slept.append) as backend:
            backend.put("a", b"1")
            with pytest.raises(UnavailableError, match="7 s"):
                backend.get("a")
        assert slept == [7, 7]

    def test_a_part_of_the_key(self) -> None:
        with scripted(Fault("put", 2, "error", part="ltx/")) as backend:
            for key in ("ltx/1", "other", "another"):
                backend.put(key, b"")
            with pytest.raises(UnavailableError):
                backend.put("ltx/2", b"")

    @pytest.mark.parametrize("fault", [Fault("fetch", 1, "error"), Fault("get", 1, "odd")])
    def test_a_script_is_checked(self, fault: Fault) -> None:
        with pytest.raises(ConfigError, match="no fault"):
            ScriptedFaults(fault)

    def test_a_kind_that_does_not_fit(self) -> None:
        with (
            scripted(Fault("get", 1, "forgotten")) as backend,
            pytest.raises(ConfigError, match="get has no fault"),
        ):
            backend.get("a")


class TestSeeds:
    def test_the_same_calls_have_the_same_faults(self) -> None:
        def run(seed: int, order: list[str]) -> set[tuple[str, str]]:
            backend = FaultyBackend(MemoryBackend(token_hex(6)), RandomFaults(seed, 0.3, ("error",)))
            for key in order:
                for _ in range(3):
                    with suppress(UnavailableError):
                        backend.put(key, b"")
            return {(str(each.call), each.kind) for each in backend.injected}

        keys = [f"k/{number}" for number in range(40)]
        assert run(1, keys) == run(1, keys[::-1]) != run(2, keys)
        assert 20 < len(run(1, keys)) < 55

    @pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
    def test_rates(self, rate: float) -> None:
        with pytest.raises(ConfigError, match="0 to 1"):
            RandomFaults(1, rate)


class TestURL:
    def test_it_is_a_prefix_of_any_scheme(self, tmp_path: Path) -> None:
        with open_backend(f"faulty+file://{tmp_path}?seed=7&rate=1&kinds=error,lost&slow=0.5") as backend:
            assert isinstance(backend, FaultyBackend)
            assert backend.url == f"file://{tmp_path}"
            assert isinstance(backend.faults, RandomFaults)
            assert (backend.faults.seed, backend.faults.rate, backend.faults.kinds) == (
                7,
                1,
                ("error", "lost"),
            )
            assert backend.slow_s == 0.5
            with pytest.raises(UnavailableError):
                backend.head("a")

    def test_the_rest_is_the_other_backends(self) -> None:
        with open_backend(
            "faulty+s3://bucket/app?region=eu-west-9&rate=0&endpoint=http://h:1", seed=5
        ) as backend:
            assert "region=eu-west-9" in backend.url
            assert "rate" not in backend.url
            assert "seed=5" in repr(backend)

    def test_chained_urls(self) -> None:
        with open_backend("faulty+simplecache::memory://x?rate=0") as backend:
            assert backend.url == "simplecache::memory://x"

    @pytest.mark.parametrize("query", ["seed=x", "rate=2", "rate=x", "slow=-1", "slow=nan", "kinds=odd"])
    def test_wrong_values(self, query: str) -> None:
        with pytest.raises(ConfigError):
            open_backend(f"faulty+memory://x?{query}")

    def test_it_needs_no_pytest(self, tmp_path: Path) -> None:
        code = (
            "import sys; import backends; backends.open_backend(sys.argv[1]).put('a', b'1'); "
            "assert 'pytest' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, f"faulty+file://{tmp_path}?rate=0"], check=True)
        assert (tmp_path / "a").read_bytes() == b"1"
