"""The real Litestream as a child process: what it lists, plans, restores and replicates."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.servers.daemon import program

__all__ = ["Database", "Listed", "Peer", "PeerError"]

_TIMEOUT_S = 50


class PeerError(Exception):
    """The real Litestream refused; the text is what it said."""


@dataclass(frozen=True, order=True)
class Listed:
    """One file, as the real Litestream names it in a listing or a plan; times have whole seconds there."""

    level: int
    min_txid: int
    max_txid: int
    size: int
    timestamp: str


@dataclass(frozen=True)
class Database:
    """A database for the real Litestream to replicate, and the settings of its replica."""

    path: Path
    replica: Mapping[str, object]


@dataclass(frozen=True)
class Peer:
    """The program, and the environment that it needs beyond a bare one.

    Nothing of ours that could change what it does is passed on: neither credentials nor `AWS_CA_BUNDLE`, with which
    its S3 client fails.
    """

    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        """All variables that it sees."""
        bare = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LITESTREAM_"))
        }
        return {**bare, **self.variables}

    def run(self, *arguments: str | Path) -> str:
        """Run a command to its end; return its output, or raise what it said."""
        done = subprocess.run(
            [program("litestream"), *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise PeerError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def files(self, url: str) -> Sequence[Listed]:
        """List all levels of a replica, in the order in which it does."""
        return [
            _listed(found) for found in json.loads(self.run("ltx", "-level", "all", "-json", url) or "[]")
        ]

    def plan(self, url: str, *, txid: int | None = None, at: datetime | None = None) -> Sequence[Listed]:
        """Ask which files it would restore from, in order."""
        target = _target(txid, at)
        found = json.loads(self.run("restore", "-dry-run", "-json", *target, "-o", os.devnull + ".db", url))
        return [_listed(file) for file in found["files"]]

    def restore(
        self, url: str, output: Path, *, txid: int | None = None, at: datetime | None = None
    ) -> bytes:
        """Restore to a file that does not exist yet; return its bytes and leave it there."""
        self.run("restore", *_target(txid, at), "-o", output, url)
        return output.read_bytes()

    def replicate_once(self, database: Path, url: str) -> None:
        """Let it publish what is committed now."""
        self.run("replicate", "-once", database, url)

    @contextlib.contextmanager
    def replicating(
        self,
        folder: Path,
        databases: Sequence[Database],
        *,
        levels: Sequence[str] = ("1s", "3s"),
        snapshot_interval: str = "2s",
        snapshot_retention: str = "1h",
        l0_retention: str = "1h",
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run its daemon on databases, with intervals of seconds where users have minutes and hours.

        It is ended as its users end it; what is committed by then is on the replicas.

        Args:
            folder: Where its configuration and its log go.
            databases: What to replicate.
            levels: Intervals of the levels 1 and up.
            snapshot_interval: Time from snapshot to snapshot.
            snapshot_retention: How long snapshots are kept, and what is below them.
            l0_retention: How long files of level 0 are kept once they were merged.
        """
        config = folder / "litestream.json"
        config.write_text(
            json.dumps(
                {
                    "levels": [{"interval": interval} for interval in levels],
                    "snapshot": {"interval": snapshot_interval, "retention": snapshot_retention},
                    "l0-retention": l0_retention,
                    "l0-retention-check-interval": "500ms",
                    "dbs": [
                        {
                            "path": str(database.path),
                            "monitor-interval": "20ms",
                            "replica": {"sync-interval": "20ms", **database.replica},
                        }
                        for database in databases
                    ],
                }
            )
        )
        with open(folder / "litestream.log", "ab") as log:
            process = subprocess.Popen(
                [program("litestream"), "replicate", "-config", str(config)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listed(found: Mapping[str, object]) -> Listed:
    return Listed(
        int(str(found["level"])),
        int(str(found["min_txid"]), 16),
        int(str(found["max_txid"]), 16),
        int(str(found["size"])),
        str(found["timestamp"]),
    )


def _target(txid: int | None, at: datetime | None) -> Sequence[str]:
    arguments = [] if txid is None else ["-txid", f"{txid:016x}"]
    if at is not None:
        arguments += ["-timestamp", at.astimezone(UTC).isoformat().replace("+00:00", "Z")]
    return arguments
