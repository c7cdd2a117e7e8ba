"""The WebDAV filesystem as other people's code uses it: through fsspec, held to fsspec's own tests."""

import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import fsspec
import pytest
from fsspec.tests import abstract

from backends.webdav_filesystem import WebDAVFileSystem, WebDAVSFileSystem
from tests.servers.daemon import PASSWORD, USER
from tests.servers.webdav import DAVServer, apache


@pytest.fixture(scope="module")
def server() -> Iterator[DAVServer]:
    with apache() as server:
        yield server


@pytest.fixture
def fs(server: DAVServer) -> Iterator[WebDAVFileSystem]:
    fs = WebDAVFileSystem("127.0.0.1", server.port, USER, PASSWORD)
    yield fs
    for path in fs.ls("/", detail=False):
        fs.rm(path, recursive=True)
    fs.close()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the entry points of the installed package do."""
    for kind in (WebDAVFileSystem, WebDAVSFileSystem):
        monkeypatch.setitem(import_module("fsspec.registry")._registry, kind.protocol, kind)


class _Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec has no types
    @pytest.fixture
    def fs(self, server: DAVServer) -> WebDAVFileSystem:
        return WebDAVFileSystem("127.0.0.1", server.port, USER, PASSWORD)

    @pytest.fixture
    def fs_path(self) -> str:
        return "/abstract"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)


class TestCopy(abstract.AbstractCopyTests, _Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, _Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, _Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, _Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, _Fixtures):  # type: ignore[misc]
    pass


def test_entry_points() -> None:
    """The installed package gives fsspec both schemes."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["fsspec.specs"]
    classes = [
        getattr(import_module(module), name)
        for module, name in (points[scheme].split(":") for scheme in ("webdav", "webdavs"))
    ]
    assert classes == [WebDAVFileSystem, WebDAVSFileSystem]


def test_through_fsspec(server: DAVServer, fs: WebDAVFileSystem, registered: None) -> None:
    url = f"{server.url}/a folder/ü%25.txt"
    with fsspec.open(url, "wt") as file:
        file.write("hello")
    with fsspec.open(url, "rt") as file:
        assert file.read() == "hello"
    assert (server.root / "a folder/ü%.txt").read_text() == "hello"
    opened, path = fsspec.url_to_fs(url)
    assert path == "/a folder/ü%.txt"
    assert isinstance(opened, WebDAVFileSystem)
    assert PASSWORD not in opened.unstrip_protocol(path)
    assert fsspec.url_to_fs("webdavs://host/x")[0]._dav.origin == "https://host"


def test_looking(fs: WebDAVFileSystem) -> None:
    fs.pipe({"/a/1": b"1", "/a/b/22": b"22", "/a/b/c/333": b"333", "/ab": b""})
    assert fs.ls("/a", detail=False) == ["/a/1", "/a/b"]
    assert [(info["name"], info["type"], info["size"]) for info in fs.ls("/a")] == [
        ("/a/1", "file", 1),
        ("/a/b", "directory", 0),
    ]
    assert fs.ls("/ab", detail=False) == ["/ab"]
    assert fs.find("/a") == ["/a/1", "/a/b/22", "/a/b/c/333"]
    assert fs.glob("/a/**/3*") == ["/a/b/c/333"]
    assert fs.du("/a") == 6
    assert fs.exists("/a/b") and fs.isdir("/a/b") and fs.isfile("/a/b/22")  # noqa: PT018
    assert not fs.exists("/a/x")
    with pytest.raises(FileNotFoundError):
        fs.ls("/missing")
    with pytest.raises(PermissionError):
        WebDAVFileSystem("127.0.0.1", int(fs._dav.origin.rpartition(":")[2])).exists("/a")


def test_reading(fs: WebDAVFileSystem) -> None:
    data = bytes(range(256)) * 1000
    fs.pipe_file("/data", data)
    for start, end in ((None, None), (5, 10), (-10, None), (-10, -5), (None, -5), (250_000, 300_000), (7, 7)):
        assert fs.cat_file("/data", start, end) == data[start:end]
    assert fs.cat_ranges(["/data"] * 3, [0, 5, 9], [5, 9, 20]) == [data[:5], data[5:9], data[9:20]]
    with fs.open("/data", block_size=5000) as file:
        file.seek(100_000)
        assert file.read(10) == data[100_000:100_010]
        assert file.seek(-5, 2) == len(data) - 5
        assert file.read() == data[-5:]


def test_writing(fs: WebDAVFileSystem, tmp_path: Path) -> None:
    with fs.open("/x/large", "wb", block_size=1 << 16) as file:
        for number in range(100):
            file.write(bytes([number]) * 10_000)
            assert not fs.exists("/x/large"), "it appears whole"
    assert fs.cat_file("/x/large") == b"".join(bytes([number]) * 10_000 for number in range(100))
    with fs.open("/x/never", "wb", autocommit=False) as file:
        file.write(b"never")
    file.discard()
    with fs.open("/x/large", "wb", autocommit=False) as file:
        file.write(b"later")
    assert fs.info("/x/large")["size"] == 1_000_000
    file.commit()
    assert fs.cat_file("/x/large") == b"later"
    assert fs.ls("/x", detail=False) == ["/x/large"]
    (tmp_path / "local").write_bytes(b"local")
    fs.put_file(str(tmp_path / "local"), "/x/local")
    fs.get_file("/x/local", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"local"
    with pytest.raises(FileExistsError):
        fs.pipe_file("/x/local", b"new", mode="create")


def test_changing(fs: WebDAVFileSystem) -> None:
    fs.makedirs("/d/e")
    with pytest.raises(FileExistsError):
        fs.makedirs("/d/e")
    fs.makedirs("/d/e", exist_ok=True)
    fs.pipe_file("/d/e/1", b"1")
    fs.cp_file("/d/e/1", "/d/2")
    fs.mv("/d/e/1", "/d/3")
    assert fs.find("/d") == ["/d/2", "/d/3"]
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("/d")
    fs.rmdir("/d/e")
    with pytest.raises(FileNotFoundError):
        fs.rm_file("/d/e")
    for remove in (fs.rm_file, fs.rm):
        with pytest.raises(IsADirectoryError):
            remove("/d")
    fs.rm_file("/d/2")
    fs.rm("/d", recursive=True)
    assert not fs.exists("/d")
