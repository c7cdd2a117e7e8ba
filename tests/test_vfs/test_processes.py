"""Connections in threads and in forked children."""

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import vfs
from tests.support.replicating import ROOT
from tests.test_vfs.origin import Origin, as_read, content, number, origin, rows, seen
from tests.test_vfs.storages import delays, hooked


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """Two tables whose sums agree, in a folder: a forked child of it sees what is published later."""
    with origin(tmp_path, f"file://{tmp_path}/replica", page_size=512) as made:
        made.commit(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, n)",
            "CREATE TABLE b (id INTEGER PRIMARY KEY, n)",
            "INSERT INTO a SELECT value, 10 FROM generate_series(1, 500)",
            "INSERT INTO b SELECT value, 20 FROM generate_series(1, 250)",
        )
        yield made


def move(source: Origin) -> None:
    """Take from one table, give to the other."""
    with source.connection:
        source.connection.execute("UPDATE a SET n = n - 1 WHERE id % 3 = 0")
        source.connection.execute("UPDATE b SET n = n + 1 WHERE id <= 166")
    source.publish()


BALANCE = "SELECT (SELECT sum(n) FROM a) + (SELECT sum(n) FROM b)"


def in_child(work: Callable[[], None], limit_s: float = 20) -> None:
    """Do something in a forked child; fail as it does."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent tells
            os.write(writer, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(status)
    os.close(writer)
    deadline = time.monotonic() + limit_s
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with os.fdopen(reader) as said:
        text = said.read()
    assert not text, text


def test_a_child_queries_with_the_connection_of_its_parent(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0)
    assert number(db, BALANCE) == 10_000
    move(source)

    def query() -> None:
        assert number(db, BALANCE) == 10_000
        assert seen(db) == 2
        assert content(db) == as_read(source.states[2])

    in_child(query)
    assert number(db, BALANCE) == 10_000


def test_a_child_and_its_child_open_connections_of_their_own(source: Origin) -> None:
    kept = vfs.connect(source.url, poll_interval=0)
    assert number(kept, BALANCE) == 10_000

    def grandchild() -> None:
        assert content(vfs.connect(source.url, txid=1)) == as_read(source.states[1])
        assert number(vfs.connect(source.url, poll_interval=0), BALANCE) == 10_000

    def child() -> None:
        assert number(vfs.connect(source.url, poll_interval=0), BALANCE) == 10_000
        in_child(grandchild)

    move(source)
    in_child(child)
    assert content(kept) == as_read(source.states[2])


def test_a_child_is_not_held_up_by_what_threads_of_its_parent_were_doing(tmp_path: Path) -> None:
    """The parent forks while a thread of it waits for the storage, lock in hand."""
    with origin(tmp_path) as source:
        source.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (7)")
        url, hooks = hooked(source.url)
        db, other = (vfs.connect(url, poll_interval=0) for _ in range(2))
        with delays(hooks, 1.0, "list"):
            thread = threading.Thread(target=rows, args=(other, "SELECT * FROM t"))
            thread.start()
            time.sleep(0.2)

            def query() -> None:
                hooks.clear()
                assert number(db, "SELECT n FROM t") == 7
                assert number(vfs.connect(url, poll_interval=0), "SELECT n FROM t") == 7

            in_child(query, limit_s=5)
            thread.join()


def together(count: int, work: Callable[[int], None]) -> None:
    """Do something in threads at the same time; raise the first error."""
    errors: list[BaseException] = []

    def guarded(place: int) -> None:
        try:
            work(place)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_with_connections_of_their_own_see_whole_states_that_never_go_back(source: Origin) -> None:
    done = threading.Event()

    def read(place: int) -> None:
        db = vfs.connect(
            source.url, poll_interval=0 if place % 2 else 0.01, cache_size=(0, 1 << 24)[place // 2]
        )
        db.execute("PRAGMA cache_size = 1")
        before = reads = 0
        while not (done.is_set() and before == source.newest and reads > 20):
            with db:
                assert number(db, BALANCE) == 10_000
                assert before <= seen(db)
                before = seen(db)
            reads += 1

    def work(place: int) -> None:
        if place < 4:
            read(place)
            return
        try:
            for _ in range(25):
                move(source)
        finally:
            done.set()

    together(5, work)


def test_one_connection_shared_by_threads_answers_right_or_says_that_it_is_busy(source: Origin) -> None:
    db = vfs.connect(source.url, poll_interval=0, cache_size=0)
    answers: list[int] = []

    def read(place: int) -> None:
        for _ in range(30):
            try:
                answers.append(number(db, BALANCE))
            except apsw.ThreadingViolationError:
                time.sleep(0.001)

    together(4, read)
    assert set(answers) == {10_000}
    assert len(answers) >= 30


def test_a_child_that_is_forked_while_a_thread_loads_a_module_lives() -> None:
    """Whoever is forked must not load anything: the lock of a module that is being loaded is free never more."""
    program = """
import os, sys, threading, time
import vfs
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "ctypes" and threading.current_thread() is not threading.main_thread():
            loading.set()
            time.sleep(0.5)
loading = threading.Event()
sys.meta_path.insert(0, Slow())
assert "ctypes" not in sys.modules
threading.Thread(target=lambda: __import__("ctypes")).start()
loading.wait()
if os.fork() == 0:
    os._exit(0)
os.wait()
print("both live")
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert found.stdout == "both live\n", found.stderr
