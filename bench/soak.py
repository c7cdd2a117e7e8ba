"""A soak: writers, application checkpoints, kills, upkeep at short intervals, and readers that never stop checking.

Run as `python -m bench.soak --seconds 3600 --seed 7`; each round kills `ltx replicate` or stops it, and at the end of
each the replica is compared with the database page by page. Meanwhile the newest state and a random older one are
restored, and a connection through the VFS reads: each must keep the writers' promise, and none may go back.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

import vfs
from backends import NotFoundError
from ltx import Replica, ReplicaError
from tests.support.writers import PROMISE, check_promise, prepare, writing

_ROOT = Path(__file__).parents[1]
_CONFIGURATION = """\
snapshot: {{interval: 6s, retention: 15s}}
levels: [{{interval: 1s}}, {{interval: 4s}}]
l0-retention: 3s
l0-retention-check-interval: 1s
dbs:
  - path: {database}
    replica: {{url: "{url}", sync-interval: 50ms}}
"""


def main() -> int:
    """Run it; 1 when a page differed or a promise was broken."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--page-size", type=int, default=4096)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return _Soak(Path(folder), random.Random(options.seed)).run(options)


@dataclass
class _Soak:
    folder: Path
    choice: random.Random
    restores: int = 0
    queries: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    """The highest counter that each way of looking has seen."""

    @property
    def database(self) -> Path:
        return self.folder / "app.db"

    @property
    def url(self) -> str:
        return f"file://{self.folder / 'replica'}"

    def run(self, options: argparse.Namespace) -> int:
        prepare(self.database, mode="wal", page_size=options.page_size)
        configuration = _CONFIGURATION.format(database=self.database, url=self.url)
        (self.folder / "litestream.yml").write_text(configuration)
        end, rounds = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            rounds += 1
            try:
                self._round(min(end, time.monotonic() + 2 + self.choice.random() * 8), options.writers)
            except AssertionError as error:
                traceback.print_exc()
                print(f"round {rounds}: {error}; seed {options.seed}")
                return 1
        with Replica.open(self.url) as replica:
            found = replica.verify()
            levels = sorted({file.level for file in replica.files()})
        print(
            f"{rounds} rounds, {self.restores} restores, {self.queries} queries, {self.counters} transactions seen, "
            f"{len(found.files)} files on levels {levels}, sound: {found.is_sound}"
        )
        return 0 if found.is_sound else 1

    def _round(self, until: float, writers: int) -> None:
        """Write and look until then; kill or stop the replicator; then the replica must be the database."""
        with (
            self._replicating() as process,
            writing(self.database, processes=writers, seed=self.choice.randrange(1 << 30)),
        ):
            while time.monotonic() < until:
                if (self.folder / "replica").is_dir():
                    self._look()
                time.sleep(0.2)
            if is_killed := self.choice.random() < 0.5:
                process.kill()
                process.wait()
        if is_killed:  # while they wrote: the next one must find all of it
            with self._replicating():
                time.sleep(2)
        assert self._restore(), "the replica cannot be restored"
        with closing(apsw.Connection(str(self.database))) as db:
            assert db.serialize("main") == self._output.read_bytes(), "the replica is not the database"

    def _look(self) -> None:
        if self._restore():
            self._see("restore", check_promise(self._output))
        if self._restore(older=True):
            check_promise(self._output)
        try:
            with closing(vfs.connect(self.url, poll_interval=0)) as db:
                [(one, other, counter)] = db.execute(PROMISE).fetchall()
                assert isinstance(counter, int)
        except ReplicaError:  # nothing is there yet
            return
        assert one == other, f"a query saw {one} and {other}"
        self._see("query", counter)
        self.queries += 1

    def _see(self, how: str, counter: int) -> None:
        seen = self.counters.get(how, 0)
        assert counter >= seen, f"{how} went back from {seen} to {counter}"
        self.counters[how] = counter

    @property
    def _output(self) -> Path:
        return self.folder / "out.db"

    def _restore(self, *, older: bool = False) -> bool:
        with Replica.open(self.url) as replica:
            try:
                txid = self.choice.choice(replica.files()).max_txid if older else None
                replica.restore(self._output, txid=txid, force=True)
            except (ReplicaError, NotFoundError, IndexError):  # not there yet, or pruned meanwhile
                assert not self.counters or older, "a replica that could be restored cannot be any more"
                return False
        self.restores += 1
        return True

    @contextmanager
    def _replicating(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Replicate meanwhile; unless it was killed, or what is done meanwhile fails, it must end well."""
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ltx", "replicate", "--config", str(self.folder / "litestream.yml")],
                env={**os.environ, "PYTHONPATH": str(_ROOT), "XDG_RUNTIME_DIR": str(self.folder)},
                stdout=log,
                stderr=log,
            )
        try:
            while not (self.folder / "ltx" / f"{process.pid}.sock").exists() and process.poll() is None:
                time.sleep(
                    0.05
                )  # until then a SIGTERM ends it at once, since it has nothing to bring to its end
            yield process
            if process.poll() is None:
                process.terminate()
                assert process.wait(60) == 0, (self.folder / "log").read_text()[-2000:]
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
