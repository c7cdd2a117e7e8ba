"""A database, its replica in a folder, and the command line in this process and in one of its own."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ltx
from ltx.cli import main

ROOT = Path(__file__).parents[2]


class Result(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


LTX = Callable[..., Result]
LTXProcess = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> LTX:
    """Run `ltx` in this process."""

    def run(*words: str | Path) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def cli_process() -> LTXProcess:
    """Start `ltx` in a process of its own."""

    def start(*words: str | Path, code: str = "", **kwargs: object) -> "subprocess.Popen[str]":
        program = ["-c", code] if code else ["-m", "ltx"]
        settings: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **kwargs,
        }
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, *program, *map(str, words)], env=environment, **settings
        )
        return process

    return start


def change(path: Path, *statements: str) -> None:
    """Commit statements to a database, and bring all of it into its file."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        for statement in statements:
            database.execute(statement)
            database.commit()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def database(place: Path) -> Path:
    """A database with some pages."""
    change(
        place / "app.db",
        "CREATE TABLE sandwich_ratings (sandwich TEXT, stars INTEGER)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
        "INSERT INTO sandwich_ratings SELECT 'BLT ' || i, i % 5 FROM n",
    )
    return place / "app.db"


class Replicated(NamedTuple):
    """A replica, and the source as it was after each of its transactions."""

    url: Path
    states: tuple[bytes, ...]
    published: tuple[ltx.Published, ...]

    def file(self, txid: int) -> Path:
        """The level-0 file of a transaction."""
        return self.url / f"ltx/0/{txid:016x}-{txid:016x}.ltx"


@pytest.fixture
def replica(database: Path) -> Replicated:
    """Three transactions in a folder."""
    states, published = [], []
    url = database.parent / "replica"
    with ltx.Replica.open(str(url)) as opened:
        for stars in range(3):
            change(database, f"UPDATE sandwich_ratings SET stars = {stars} WHERE sandwich = 'BLT 7'")
            found = ltx.replicate_once(database, opened)
            assert found
            published.append(found)
            states.append(database.read_bytes())
    return Replicated(url, tuple(states), tuple(published))
