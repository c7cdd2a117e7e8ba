"""From a URL to its backend: ours, other people's, fsspec's, and what is said when there is none."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import registry
from backends.errors import BackendError, ConfigError, MissingDependencyError, UnknownSchemeError
from backends.fsspec import FsspecBackend
from backends.local import LocalBackend
from backends.memory import MemoryBackend
from backends.registry import open_backend, register, schemes
from backends.testing import BackendContract

SAMPLE = Path(__file__).parent.parent / "support" / "sample_backend"


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package is installed, entry points and all."""
    monkeypatch.syspath_prepend(SAMPLE)
    yield
    for name in ("ltx_sample", "ltx_sample_broken"):
        sys.modules.pop(name, None)


def contracts(kind: type[BackendContract] = BackendContract) -> Iterator[type[BackendContract]]:
    for below in kind.__subclasses__():
        yield below
        yield from contracts(below)


def test_every_scheme_runs_the_contract() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.test_backends.{path.stem}")
    tested = {scheme for kind in contracts() if kind.__name__.startswith("Test") for scheme in kind.schemes}
    ours = {scheme for scheme, target in schemes().items() if target.startswith("backends.")}
    assert tested == ours, "name the schemes of each contract class in its `schemes`"


def test_every_engine_runs_the_contract() -> None:
    """Where a scheme has two, both do."""
    test_every_scheme_runs_the_contract()
    engines = {kind.kind for kind in contracts() if hasattr(kind, "kind")}
    both = {
        target for entry in registry._entries.values() if entry.fast for target in (entry.target, entry.fast)
    }
    assert {f"{kind.__module__}:{kind.__name__}" for kind in engines} == both


class TestOurs:
    @pytest.mark.parametrize(
        "url", ["/some/folder", "some/folder", "file:///some/folder", "FILE:///some/folder", "./a::b", "C/d"]
    )
    def test_paths(self, url: str) -> None:
        assert isinstance(open_backend(url), LocalBackend)

    @pytest.mark.parametrize(
        ("url", "meant"),
        [
            ("s3:/bucket/app", "s3://bucket/app"),
            ("webdav:host/app", "webdav://host/app"),
            ("file:/srv/app", "file:///srv/app"),
        ],
    )
    def test_a_url_with_too_few_slashes_is_no_folder(self, url: str, meant: str) -> None:
        with pytest.raises(ConfigError, match=f"write {meant},"):
            open_backend(url)
        assert isinstance(open_backend(f"./{url}"), LocalBackend)

    @pytest.mark.parametrize(
        ("url", "meant"),
        [
            ("s3//bucket/app", "s3://bucket/app"),
            ("S3//bucket", "S3://bucket"),
            ("file///srv/app", "file:///srv/app"),
            ("webdavs//host/app", "webdavs://host/app"),
        ],
    )
    def test_a_url_without_its_colon_is_no_folder(self, url: str, meant: str) -> None:
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            open_backend(url)
        for path in (f"./{url}", "s3/bucket", "backups//app"):
            assert isinstance(open_backend(path), LocalBackend)

    def test_memory(self) -> None:
        assert isinstance(open_backend("memory://x"), MemoryBackend)

    def test_the_list_cannot_be_changed(self) -> None:
        with pytest.raises(TypeError):
            schemes()["x"] = "y"  # type: ignore[index]

    def test_importing_backends_loads_no_storage_library(self) -> None:
        code = (
            "import sys; before = set(sys.modules); import backends; backends.open_backend('/tmp/x'); "
            "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
        loaded = set(done.stdout.split())
        heavy = "obstore fsspec s3fs gcsfs adlfs sshfs webdav3 requests aiohttp botocore boto3 numpy apsw pytest azure google"
        assert "backends" in loaded
        assert loaded.isdisjoint(heavy.split())


@pytest.mark.usefixtures("entries")
class TestRegister:
    def test_a_class_of_ones_own(self) -> None:
        register("mine", "backends.memory:MemoryBackend")
        register("mine", "backends.memory:MemoryBackend")
        assert schemes()["mine"] == "backends.memory:MemoryBackend"
        assert isinstance(open_backend("mine://x"), MemoryBackend)

    def test_a_taken_scheme(self) -> None:
        with pytest.raises(ConfigError, match=r"s3:// is served by backends\.s3:S3Backend already"):
            register("s3", "backends.memory:MemoryBackend")

    @pytest.mark.parametrize("scheme", ["", "x", "S3", "s3://", "1a", "a b", "a/b"])
    def test_no_scheme(self, scheme: str) -> None:
        with pytest.raises(ConfigError, match="not a URL scheme"):
            register(scheme, "backends.memory:MemoryBackend")

    @pytest.mark.parametrize("target", ["", "module", "module:", ":Class", "module:a.b", "a b:C"])
    def test_no_target(self, target: str) -> None:
        with pytest.raises(ConfigError, match="'module:Class'"):
            register("mine", target)

    def test_a_library_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "s3fs", None)
        for name in [name for name in sys.modules if name.startswith("backends.s3")]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(
            MissingDependencyError, match=r"s3:// needs the package s3fs: pip install 'ltx\[s3\]'"
        ) as caught:
            open_backend("s3://bucket/app")
        assert isinstance(caught.value, ImportError)
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    def test_a_broken_import_of_ours_is_no_missing_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.startswith("backends.s3")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "backends.s3_place", None)
        with pytest.raises(ModuleNotFoundError) as caught:
            open_backend("s3://bucket/app")
        assert not isinstance(caught.value, BackendError)


@pytest.mark.usefixtures("sample", "entries")
class TestOtherPeoples:
    def test_an_entry_point_is_a_scheme(self) -> None:
        assert schemes()["sample"] == "ltx_sample:SampleBackend"
        assert "ltx_sample" not in sys.modules
        with open_backend("sample://x") as backend:
            backend.put("k", b"from afar")
            assert backend.get("k") == b"from afar"
            assert type(backend).__name__ == "SampleBackend"

    def test_its_own_mistake_shows(self) -> None:
        with pytest.raises(ModuleNotFoundError, match="ltx_sample_parts_that_are_not_there") as caught:
            open_backend("sample-broken://x")
        assert not isinstance(caught.value, BackendError)

    def test_a_class_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match="ltx_sample:NoSuchClass"):
            open_backend("sample-nameless://x")

    def test_it_cannot_take_a_scheme_of_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "ltx_thief-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: ltx-thief\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[ltx.backends]\ns3 = ltx_sample:SampleBackend\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert schemes()["s3"] == "backends.s3:S3Backend"


class TestFsspecs:
    @pytest.mark.parametrize(
        "url",
        [
            "local:///some/folder",
            "simplecache::memory://x",
            "zip://inner::simplecache::s3://bucket/x.zip",
            "dir::file:///some/folder",
        ],
    )
    def test_what_fsspec_knows(self, url: str) -> None:
        backend = open_backend(url)
        assert isinstance(backend, FsspecBackend)
        assert backend.url == url

    def test_colons_in_a_path_are_no_chain(self) -> None:
        assert open_backend("memory://a::b").scheme == "memory"
        assert isinstance(open_backend("memory://a::b"), MemoryBackend)

    def test_a_library_of_fsspec_that_is_not_installed(self) -> None:
        with pytest.raises(MissingDependencyError, match="smb"):
            open_backend("smb://user:pass-word@host/x")

    @pytest.mark.parametrize("url", ["nope://user:pass-word@host/x", "nope::memory://x"])
    def test_what_nobody_knows(self, url: str) -> None:
        with pytest.raises(UnknownSchemeError, match="nope") as caught:
            open_backend(url)
        assert "pass-word" not in str(caught.value)
