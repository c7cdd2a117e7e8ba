"""What the README and the guide show is run; what there is to know about is in them."""

import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import backends
import ltx.errors
import vfs
import vfs.__main__ as vfs_program
import vfs.sqlite
from ltx.cli.app import app

ROOT = Path(__file__).parents[1]
GUIDE = sorted((ROOT / "docs/guide").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDE]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

_BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block of a page: `sh` and `python` are run in order, `text` is what the `sh` before it prints."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(match["kind"], match["text"], text.count("\n", 0, match.start()) + 2)
        for match in _BLOCK.finditer(text)
    ]


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a user: `ltx`, `python` and `sqlite3` on the path, and nothing else of ours."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("ltx", "-m ltx"), ("python", ""), ("sqlite3", f"{programs}/sqlite.py")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "sqlite.py").write_text(
        "import sqlite3, sys\n"
        "with sqlite3.connect(sys.argv[1]) as database:\n"
        "    database.execute(sys.argv[2])\n"
        "database.close()\n"
    )
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    printed = ""
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.kind in ("sh", "python"):
            command = ["bash", "-euc"] if block.kind == "sh" else [sys.executable, "-W", "error", "-c"]
            found = subprocess.run(
                [*command, block.text], cwd=home, env=shell, capture_output=True, text=True
            )
            assert found.returncode == 0, f"{where}: {found.stdout}{found.stderr}"
            printed = found.stdout
        elif block.kind == "text":
            assert plain(block.text) == plain(printed), where
        else:
            assert block.kind.endswith(" not-run"), f"{where}: {block.kind}"


_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "<time>"),
    (re.compile(r"file://\S+/"), "file:///"),
    (re.compile(r"in \d+\.\d\d s"), "in <some> s"),
    (re.compile(r"(?<![\w.])\d+\.\d(?![\w.])"), "<ms>"),
    (re.compile(r"(?<![0-9a-f])\d{2,10}(?![0-9a-f])"), "<size>"),
    (re.compile(r" +"), " "),
)


def plain(text: str) -> str:
    """Leave out what differs from run to run: times, sizes, places and the width of columns."""
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text.strip()


def commands() -> Iterator[tuple[str, str]]:
    """Yield every command and each of its options."""
    programs = [
        ("ltx", typer.main.get_command(app)),
        ("python -m vfs", typer.main.get_command(vfs_program.app)),
    ]
    for name, program in programs:
        found = {f"{name} {word}": command for word, command in getattr(program, "commands", {}).items()}
        for place, command in {name: program, **found}.items():
            yield place, ""
            for parameter in command.params:
                yield from ((place, option) for option in parameter.opts if option.startswith("--"))


@pytest.mark.parametrize(("command", "option"), sorted(set(commands())))
def test_every_command_and_option_is_documented(command: str, option: str) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert f"{command} " in text
    if option:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", (ROOT / "docs/guide/commands.md").read_text())


def test_every_scheme_and_extra_is_documented() -> None:
    readme = (ROOT / "README.md").read_text()
    ours = {scheme for scheme, target in backends.schemes().items() if target.startswith("backends.")}
    missing = {f"{scheme}://" for scheme in ours} | {
        f"`{extra}`" for extra in PROJECT.get("optional-dependencies", {})
    }
    assert {name for name in missing if name not in readme} == set()


def test_every_option_of_a_query_is_documented() -> None:
    text = (ROOT / "docs/guide/querying.md").read_text().partition("\n## Options\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    parameters = inspect.signature(vfs.connect).parameters.values()
    assert named == {each.name for each in parameters if each.kind is not each.VAR_KEYWORD} - {"url"}
    assert named == {*vfs.sqlite._TYPED} - {"replica_url"}
    for page in ("django.md", "sqlalchemy.md", "fast-queries.md"):
        assert "(querying.md#options)" in (ROOT / "docs/guide" / page).read_text()


def test_every_error_is_documented() -> None:
    text = (ROOT / "docs/guide/errors.md").read_text()
    named = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    errors = {
        name
        for module in (ltx, backends, vfs)
        for name, value in ((name, getattr(module, name)) for name in module.__all__)
        if inspect.isclass(value) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert named == errors


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_opens_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md")[0].text
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_changes_are_named_by_issue_and_kind() -> None:
    for path in (ROOT / "docs/changes").iterdir():
        assert re.fullmatch(r"\d+\.(added|changed|fixed|removed)\.md", path.name), path.name
        assert path.read_text().count("\n") == 1, path.name


def test_design_pages_say_the_same_four_things() -> None:
    pages = sorted((ROOT / "docs/design").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == [*range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text()
        for heading in ("Status", "Problem", "Design", "Rejected"):
            assert re.search(rf"^(## )?{heading}", text, re.MULTILINE), f"{page.name}: {heading}"


def test_the_demonstration_shows_what_it_says(tmp_path: Path, shell: dict[str, str]) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "docs/guide/demo.py", tmp_path / "demo"],
        env=shell,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    assert len(re.findall(r"^  same ", found.stdout, re.MULTILINE)) == 4
    assert "DIFFERENT" not in found.stdout
    assert "python -m vfs replica --at '10 seconds ago'" in found.stdout
