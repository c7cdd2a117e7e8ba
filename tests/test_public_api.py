"""What is public, and what importing it costs."""

import inspect
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import backends
import ltx
import vfs
from tests.support.databases import make

ROOT = Path(__file__).parents[1]
PACKAGES = [ltx, backends, vfs]
WITH_ALL = [
    *PACKAGES,
    *map(import_module, ["ltx.format", "ltx.replica", "ltx.replication", "ltx.errors", "ltx.cli"]),
]

SDKS = (
    "adlfs", "aiobotocore", "aiohttp", "asyncssh", "azure", "boto3", "botocore", "gcsfs", "google", "requests", "s3fs",
    "sshfs", "webdav3",
)  # fmt: skip


def by_kind(name: str) -> tuple[int, str]:
    """Sort as ruff does: CONSTANTS, Classes, functions."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


@pytest.mark.parametrize("module", WITH_ALL, ids=lambda module: str(module.__name__))
def test_all_is_sorted_and_exists(module: ModuleType) -> None:
    names = module.__all__
    assert names == sorted(set(names), key=by_kind)
    for name in names:
        assert hasattr(module, name), name


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: str(module.__name__))
def test_all_is_all_that_is_public(module: ModuleType) -> None:
    public = {
        name
        for name in dir(module)
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    }
    called_once = {"register"} if module is vfs else set()
    assert public - called_once == set(module.__all__)


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: str(module.__name__))
def test_what_is_public_says_what_it_is(module: ModuleType) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            assert not value.__doc__.startswith(f"{name}("), name  # what dataclass makes up


def test_the_version_is_said_once_more_and_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ltx.__version__ == project["version"]


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a statement loads in a fresh process."""
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    return set(found.stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import ltx", {"numpy", "fsspec", "dateparser", "typer", "rich", "asyncio", "ssl", "vfs", *SDKS}),
        ("import backends", {"numpy", "fsspec", "asyncio", "ssl", "apsw", "ltx", "vfs", *SDKS}),
        ("import vfs", {"dateparser", "typer", "rich", "sqlalchemy", "django", *SDKS}),
        (
            "import vfs.serve",
            {
                "numpy",
                "subprocess",
                "tempfile",
                "hashlib",
                "fractions",
                "difflib",
                "fsspec",
                "json",
                "ctypes",
                "random",
            },
        ),
        ("import ltx.cli", {"numpy", "fsspec", "dateparser", "rich", "asyncio", "ssl", "vfs", *SDKS}),
    ],
)
def test_importing_loads_no_storage_library(statement: str, unwanted: set[str]) -> None:
    assert not loaded_by(statement) & unwanted


def test_a_first_query_loads_nothing_that_only_others_need(tmp_path: Path) -> None:
    """The helper of the extension starts for it, and whoever typed the query waits."""
    make(tmp_path / "a.db", page_size=4096, rows=20)
    with ltx.Replica.open(str(tmp_path / "replica")) as replica:
        ltx.replicate_once(tmp_path / "a.db", replica)
    query = f"import vfs; vfs.connect({str(tmp_path / 'replica')!r}).execute('SELECT * FROM t').fetchall()"
    assert not loaded_by(query) & {
        "numpy",
        "subprocess",
        "tempfile",
        "hashlib",
        "fsspec",
        "dateparser",
        "ssl",
    }


def test_a_package_is_typed() -> None:
    for package in PACKAGES:
        assert package.__file__
        assert (Path(package.__file__).parent / "py.typed").exists(), package.__name__


def test_every_package_of_the_tree_is_in_the_wheel() -> None:
    """setuptools is told the packages by name; one that is forgotten would be missing where it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("ltx", "backends", "vfs")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert named == found


def test_the_extra_all_is_all_extras() -> None:
    """`make test` installs it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["all"] == [f"ltx[{','.join(name for name in extras if name != 'all')}]"]
