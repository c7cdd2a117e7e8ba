"""Programs that load the SQLite extension as their users do, and are told step by step what to do."""

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "vfs/extension/litestream.so"
DRIVERS = ROOT / "tests/test_extension/hosts"
NODE_MODULES = ROOT / ".servers/node_modules"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0"

COMMANDS: Mapping[str, Sequence[str]] = {
    "sqlite3": ("sqlite3", "-batch"),
    "python3": ("/usr/bin/python3", "-I", str(DRIVERS / "host.py")),
    "node": (str(NODE_MODULES / "node/bin/node"), "--no-warnings", str(DRIVERS / "host.mjs")),
    "bun": (str(NODE_MODULES / "bun/bin/bun.exe"), str(DRIVERS / "host.mjs"), LIBRARY),
    "php": ("php", "-d", f"sqlite3.extension_dir={EXTENSION.parent}", str(DRIVERS / "host.php")),
    "ruby": ("ruby", str(DRIVERS / "host.rb")),
}

_END = "-- this was all --"


class HostError(Exception):
    """The host reports an error; its text is the one that its user sees."""


class Host:
    """One running host.

    Attributes:
        name: Of the program.
        process: It.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        bare = {
            key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "LITESTREAM_"))
        }
        self.process = subprocess.Popen(
            COMMANDS[name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**bare, **environment},
            cwd=environment["XDG_RUNTIME_DIR"] or None,
            text=True,
            bufsize=1,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def load(self) -> None:
        """Load the extension on a connection that is closed right away, where the host can."""
        self.step("load", str(EXTENSION.with_suffix("") if self.name == "ruby" else EXTENSION))

    def open(self, uri: str, name: str = "main") -> None:
        """Open a database under a name; the sqlite3 program knows one at a time."""
        self.step("open", name, uri)

    def sql(self, statement: str, name: str = "main") -> list[list[Any]]:
        """Return the rows of a statement; sqlite3 tells texts only."""
        return self.step("sql", name, statement)

    def step(self, *words: Any) -> list[list[Any]]:
        """Do something, and return what is found.

        Raises:
            HostError: The host reports an error.
        """
        self.begin(*words)
        return self.finish()

    def begin(self, *words: Any) -> None:
        """Tell what to do."""
        assert self.process.stdin is not None
        if self.name != "sqlite3":
            self.process.stdin.write(json.dumps(words) + "\n")
            return
        match words:
            case ("load", path):
                text = f".mode json\n.load {path}"
            case ("open", _, uri):
                text = f".open {uri}"
            case ("close", _):
                text = ".open :memory:"
            case ("sql", _, statement):
                text = f"{statement};"
            case ("opens", uri, count, statement):
                text = ".output /dev/null\n" + f".open {uri}\n{statement};\n" * count + ".output"
            case _:
                raise ValueError(words)
        self.process.stdin.write(f"{text}\n.print '{_END}'\n")

    def finish(self, timeout_s: float = 40.0) -> list[list[Any]]:
        """Return what was found.

        Raises:
            HostError: The host reports an error.
        """
        if self.name != "sqlite3":
            line = self._lines.get(timeout=timeout_s)
            said = json.loads(line) if line.startswith("{") else {"error": line}
            if "error" in said:
                raise HostError(said["error"])
            return list(said["rows"])
        said_lines: list[str] = []
        while (line := self._lines.get(timeout=timeout_s)) != _END:
            if not line:
                raise HostError("\n".join([*said_lines, "it ended"]))
            said_lines.append(line)
        wrong = [line for line in said_lines if re.match(r"Error|Parse error|Runtime error", line)]
        if wrong:
            raise HostError("\n".join(wrong))
        text = "".join(said_lines)
        if not text.startswith("["):
            return [[text]] if text else []
        return [list(row.values()) for row in json.loads(text)]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)
        self._reader.join(20)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                if line.strip():
                    self._lines.put(line.rstrip("\n"))
        self._lines.put("")


@contextmanager
def host(name: str, folder: Path, **environment: str) -> Iterator[Host]:
    """Run a host that finds its helper processes in a folder, with the extension loaded."""
    running = Host(name, {"XDG_RUNTIME_DIR": str(folder), **environment})
    try:
        running.load()
        yield running
        running.close()
    finally:
        running.process.kill()
        running.close()


def uri(url: str, **parameters: str) -> str:
    """Return the URI of a replica, as users write it."""
    asked = {"vfs": "litestream", "replica_url": quote(url, safe=""), **parameters}
    return "file:///my.db?" + "&".join(f"{name}={quote(value, safe='%')}" for name, value in asked.items())


def helpers(folder: Path) -> list[int]:
    """Return the helper processes whose sockets lie in a folder."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                words = (each / "cmdline").read_bytes().split(b"\0")
                environment = (each / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"vfs.serve" in b"".join(words) and f"XDG_RUNTIME_DIR={folder}".encode() in environment:
                found.append(int(each.name))
    return found


assert sys.platform == "linux", "these tests are for Linux"
