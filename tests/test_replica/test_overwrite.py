"""Writing to a copy that others read: our locks are ours, and nobody is kept out for long."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import ltx
from ltx.replica.overwrite import Busy, WritableCopy
from tests.support.databases import make
from tests.test_replica.test_follow import program

_WRITES_NOW = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
"""
_READS_FOR = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
for _ in range(int(sys.argv[3])):
    db.execute("BEGIN")
    print(db.execute("SELECT a FROM t LIMIT 1").fetchall(), flush=True)
    time.sleep(float(sys.argv[2]))
    db.execute("COMMIT")
"""
_READS_SHORT = """
import sqlite3, sys, time
print("ready", flush=True)
longest = count = 0
sys.stdin.readline()
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.monotonic()
    db = sqlite3.connect(sys.argv[1], timeout=20)
    db.execute("SELECT a FROM t LIMIT 1").fetchall()
    db.close()
    longest, count = max(longest, time.monotonic() - began), count + 1
    time.sleep(0.003)
print(longest, count, flush=True)
"""
_WRITES_SOON = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("began", flush=True)
db.execute("UPDATE t SET a = 7")
db.execute("COMMIT")
"""
SIZE = 512


class Anew:
    """Every page of a database as it is, the last one of other bytes."""

    page_size = SIZE

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.commit = len(self.data) // SIZE

    def pages(self) -> Iterator[tuple[int, bytes]]:
        for pgno in range(1, self.commit):
            yield pgno, self.data[(pgno - 1) * SIZE : pgno * SIZE]
        yield self.commit, bytes(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "copy.db", page_size=SIZE, mode="delete")


def names(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir())


def test_a_second_one_in_this_process_is_refused_and_takes_no_lock_away(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other name.db"
    other.hardlink_to(path)
    refused = []

    def check(_: bytes) -> None:
        for name in (path, other):
            with pytest.raises(ltx.DatabaseError, match="another"):
                WritableCopy(name)
        done = subprocess.run([sys.executable, "-c", _WRITES_NOW, path], capture_output=True, check=False)
        refused.append(done.stderr)

    with closing(WritableCopy(path)) as copy:
        copy.write(Anew(path), check)
    assert b"database is locked" in refused[0]
    with closing(WritableCopy(other)) as copy:  # and when it was closed anybody may
        copy.write(Anew(path), lambda _: None)


def test_one_of_another_process_is_refused(path: Path) -> None:
    text = "import pathlib, sys\nfrom ltx.replica.overwrite import WritableCopy\nWritableCopy(pathlib.Path(sys.argv[1]))"
    with closing(WritableCopy(path)), program(text, path) as other:
        assert "another process keeps" in other.communicate(timeout=30)[1]


def test_one_that_cannot_be_opened_is_in_nobodys_way_later(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WritableCopy(Path(f"{path}-not"))
    journal = Path(f"{path}-journal")
    journal.mkdir()
    with pytest.raises(ltx.DatabaseError):
        WritableCopy(path)
    journal.rmdir()
    WritableCopy(path).close()


def written_meanwhile(copy: WritableCopy, path: Path) -> Callable[[], int]:
    """Write in a thread, again and again until it is done; return what waits for that and tells how often it tried."""
    tries: list[int] = []

    def write() -> None:
        while True:
            tries.append(1)
            try:
                copy.write(Anew(path), lambda _: None)
            except Busy:
                continue
            return

    thread = threading.Thread(target=write)
    thread.start()

    def wait() -> int:
        thread.join(60)
        assert not thread.is_alive()
        return len(tries)

    return wait


def test_a_long_reader_keeps_no_new_ones_out(path: Path, tmp_path: Path) -> None:
    with (
        closing(WritableCopy(path)) as copy,
        program(_READS_FOR, path, "3", "1") as long,
        program(_READS_SHORT, path, "3.5") as short,
    ):
        assert long.stdout
        assert short.stdout
        assert short.stdin
        assert short.stdout.readline() == "ready\n"
        assert long.stdout.readline()
        done = written_meanwhile(copy, path)
        short.stdin.write("\n")
        short.stdin.flush()
        assert done() >= 2
        assert long.poll() is None or long.returncode == 0
        longest, count = short.stdout.readline().split()
        print(longest, count)
        assert float(longest) < 1.5
        assert int(count) > 30
    assert path.read_bytes()[-SIZE:] == bytes(SIZE)
    assert names(tmp_path) == ["copy.db"]


def test_readers_that_relieve_each_other_do_not_keep_it_waiting_for_ever(path: Path) -> None:
    """There is always one who reads: only those that are kept out for longer let it through."""
    with closing(WritableCopy(path)) as copy, ExitStack() as stack:
        readers = []
        for _ in range(2):
            readers.append(stack.enter_context(program(_READS_FOR, path, "0.4", "100")))
            time.sleep(0.2)
        for reader in readers:
            assert reader.stdout
            assert reader.stdout.readline()
        done = written_meanwhile(copy, path)
        done()
        for reader in readers:
            assert reader.poll() is None
            reader.kill()
    assert path.read_bytes()[-SIZE:] == bytes(SIZE)


def test_who_reads_while_it_waits_takes_what_is_prepared_for_no_leftover(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with closing(WritableCopy(path, wait_s=0.3)) as copy, program(_READS_FOR, path, "100", "1") as reader:
        assert reader.stdout
        assert reader.stdout.readline()
        with pytest.raises(Busy):
            copy.write(Anew(path), lambda _: None)
        assert path.read_bytes() == before
        assert names(tmp_path) == ["copy.db"]
        reader.kill()
    with closing(WritableCopy(path)) as copy:
        copy.write(Anew(path), lambda _: None)


def test_what_somebody_else_writes_while_it_waits_is_seen(path: Path) -> None:
    """It lets go of its locks between two tries; whoever writes then has written before us."""
    heads: list[bytes] = []

    def check(head: bytes) -> None:
        heads.append(head)
        if len(heads) > 1:
            raise ltx.OutputExistsError("somebody else wrote")

    with closing(WritableCopy(path, wait_s=20)) as copy, program(_READS_FOR, path, "100", "1") as reader:
        assert reader.stdout
        assert reader.stdout.readline()
        failed: list[Exception] = []

        def write() -> None:
            try:
                copy.write(Anew(path), check)
            except ltx.OutputExistsError as error:
                failed.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        with program(_WRITES_SOON, path) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == "began\n"
            reader.kill()
            thread.join(30)
            assert failed
            assert writer.wait(30) == 0
    assert heads[0][24:28] != heads[1][24:28]
    with closing(WritableCopy(path)) as copy, pytest.raises(ltx.OutputExistsError):
        copy.write(Anew(path), check)
