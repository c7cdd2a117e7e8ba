"""What the guide shows of each host works as it is written there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import COMMANDS, EXTENSION, ROOT
from tests.test_vfs.origin import Origin, origin

_BLOCK = re.compile(r"^```(\w+) not-run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall((ROOT / "docs/guide/extension.md").read_text())
SHOWN = ("sqlite3", "python3", "node", "bun", "php", "ruby")
"""In the order of the page."""


@pytest.fixture
def fruits(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path, f"file://{tmp_path}/replica") as made:
        made.commit(
            "CREATE TABLE fruits AS SELECT 'a pear' AS name",
            "CREATE TABLE sandwich_ratings AS SELECT 'a pear on rye' AS name, 5 AS stars",
        )
        yield made


def test_the_guide_shows_every_host() -> None:
    assert len(BLOCKS) == len(SHOWN) == len(COMMANDS)


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_guide_shows_works(name: str, fruits: Origin, runtime: Path, tmp_path: Path) -> None:
    _, text = BLOCKS[SHOWN.index(name)]
    text = text.replace("/path/to/litestream", str(EXTENSION.with_suffix("")))
    text = text.replace("s3://my-bucket/my.db", fruits.url).replace("5 minutes ago", "0 seconds ago")
    if name == "sqlite3":  # what is typed into the shell, and what then into the program
        commands, typed = re.split(r"^sqlite3$", text, flags=re.MULTILINE)
        text = f"{commands}\nsqlite3 <<'END'{typed}\nEND\n"
    script = tmp_path / f"script{ {'node': '.mjs', 'bun': '.mjs'}.get(name, '') }"
    script.write_text(text)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # for `ltx`
    words = COMMANDS[name]
    program = {"sqlite3": ["bash", "-eu"], "bun": words[:1]}.get(name, words[:-1])
    found = subprocess.run(
        [*program, script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": path,
            "LITESTREAM_REPLICA_URL": fruits.url,
            "XDG_RUNTIME_DIR": str(runtime),
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    assert "a pear" in found.stdout
    assert not list(tmp_path.glob("*my.db*"))
