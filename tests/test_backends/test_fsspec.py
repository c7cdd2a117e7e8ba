"""Storages that only fsspec serves: a real FTP server, chains, and what an unknown library may do."""

import importlib
import traceback
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from backends.errors import (
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.fsspec import FsspecBackend
from backends.registry import open_backend
from backends.testing import content
from tests.servers.daemon import PASSWORD
from tests.servers.ftp import ftp
from tests.support.s3_stub import refused_port


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Path]]:
    with ftp() as server:
        yield server


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=0)) + repr(error)


class TestFTP:
    def test_round_trip(self, served: tuple[str, Path], tmp_path: Path) -> None:
        url, root = served
        data = content(300_000)
        (tmp_path / "source").write_bytes(data)
        with open_backend(f"{url}/a/b") as backend, (tmp_path / "source").open("rb") as source:
            assert backend.capabilities.atomic_put
            assert PASSWORD not in backend.url + repr(backend)
            backend.put("ltx/0/1", source)
            backend.put("ltx/0/2", b"second")
            backend.put("ltx/0/2", b"again")
            assert (root / "a/b/ltx/0/1").read_bytes() == data
            assert sorted(path.name for path in (root / "a/b/ltx/0").iterdir()) == ["1", "2"]
            assert backend.get("ltx/0/1", 1000, 2000) == data[1000:2000]
            assert backend.get("ltx/0/1", -10) == data[-10:]
            assert [(info.key, info.size) for info in backend.list("ltx/")] == [
                ("ltx/0/1", 300_000),
                ("ltx/0/2", 5),
            ]
            with pytest.raises(UnsupportedError, match="no exclusive create"):
                backend.put("ltx/0/3", b"x", if_absent=True)
            backend.delete(["ltx/0/1", "ltx/0/9"])
            with pytest.raises(NotFoundError):
                backend.get("ltx/0/1")
            with pytest.raises(ConfigError, match="in the way"):
                backend.put("ltx/0/2/x", b"x")

    def test_threads_do_not_share_a_connection(self, served: tuple[str, Path]) -> None:
        with open_backend(f"{served[0]}/threads") as backend, ThreadPoolExecutor(4) as pool:
            keys = [f"k{number}" for number in range(20)]
            list(pool.map(lambda key: backend.put(key, key.encode() * 1000), keys))
            got = backend.get_ranges([(key, 0, 3) for key in keys])
            assert list(got) == [(key.encode() * 1000)[:3] for key in keys]

    def test_a_second_writer_is_seen(self, served: tuple[str, Path]) -> None:
        with open_backend(f"{served[0]}/seen") as one, open_backend(f"{served[0]}/seen") as two:
            for number in range(3):
                assert len(list(two.list())) == number
                one.put(f"k{number}", b"x")
                assert two.get(f"k{number}") == b"x"

    def test_a_wrong_password(self, served: tuple[str, Path]) -> None:
        wrong = served[0].replace(PASSWORD, "S3CRET")
        with open_backend(wrong) as backend, pytest.raises(BackendError) as caught:
            backend.get("k")
        assert "S3CRET" not in shown(caught.value)
        assert "127.0.0.1" in str(caught.value)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # fsspec's __del__
    def test_nothing_listens(self) -> None:
        url = refused_port().replace("http://", "ftp://user:S3CRET@")
        with open_backend(url) as backend, pytest.raises(UnavailableError) as caught:
            backend.get("k")
        assert "S3CRET" not in shown(caught.value)


class TestChains:
    def test_through_a_cache(self) -> None:
        with open_backend("simplecache::memory://chained") as backend:
            backend.put("a/k", b"bytes")
            assert backend.get("a/k", 1, 3) == b"yt"
            assert [info.key for info in backend.list()] == ["a/k"]
            backend.delete(["a/k"])
            assert list(backend.list()) == []

    def test_inside_an_archive(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("replica/ltx/0/1", b"bytes")
        with open_backend(f"zip://replica::file://{tmp_path}/x.zip") as backend:
            assert [info.key for info in backend.list()] == ["ltx/0/1"]
            assert backend.get("ltx/0/1", 0, 2) == b"by"
            with pytest.raises(BackendError):
                backend.put("new", b"x")

    def test_no_listing_of_the_chain_is_cached(self) -> None:
        backend = FsspecBackend("dir::memory://x", {"memory": {"token": "t"}})
        backend.put("k", b"x")
        ((filesystem, _),) = backend._filesystems.values()
        assert filesystem.fs.storage_options["use_listings_cache"] is False
        assert filesystem.fs.storage_options["token"] == "t"
        assert not any(kept is filesystem.fs for kept in MemoryFileSystem._cache.values())


class Odd(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A library with errors and habits of its own."""

    protocol = "odd"
    fails: Exception | None = None

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if self.fails:
            raise self.fails
        found: dict[str, Any] = super().info(path, **options)
        return found

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        data: bytes = super().cat_file(path)
        return data[:-1] if path.endswith("short") else data


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[FsspecBackend]:
    fsspec.register_implementation("odd", Odd, clobber=True)
    with FsspecBackend("odd://token-S3CRET@host/x?sig=S3CRET", {"password": "S3CRET"}) as backend:
        yield backend
    importlib.import_module("fsspec.registry")._registry.pop("odd")


class TestOddLibraries:
    def test_one_that_knows_no_ranges(self, odd: FsspecBackend) -> None:
        odd.put("k", b"0123456789")
        assert odd.get("k", 3, 6) == b"345"
        assert odd.get("k", 3) == b"3456789"
        odd.put("short", b"0123456789")
        with pytest.raises(UnavailableError, match="9 bytes came, not 3"):
            odd.get("short", 3, 6)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (FileNotFoundError("S3CRET"), NotFoundError),
            (PermissionError("S3CRET"), PermissionDeniedError),
            (TimeoutError("S3CRET"), UnavailableError),
            (ConnectionResetError("S3CRET"), UnavailableError),
            (NotImplementedError("S3CRET"), UnsupportedError),
            (ValueError("S3CRET"), ConfigError),
            (KeyError("S3CRET"), BackendError),
        ],
    )
    def test_errors(
        self, odd: FsspecBackend, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[BackendError]
    ) -> None:
        monkeypatch.setattr(Odd, "fails", error)
        with pytest.raises(kind) as caught:
            odd.head("k")
        assert type(caught.value) is kind
        assert caught.value.key == "k"
        assert type(error).__name__ in str(caught.value)
        assert "S3CRET" not in shown(caught.value) + odd.url + repr(odd)
