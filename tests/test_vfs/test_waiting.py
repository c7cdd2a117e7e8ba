"""Every wait for the storage is bounded, and ends soon after an interrupt."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

import vfs
from backends import NotFoundError, UnavailableError
from ltx import NoSnapshotError
from tests.test_vfs.origin import Origin, number, origin, rows, seen
from tests.test_vfs.storages import Hooks, Request, delays, hooked

LONG_S = 3.0
SOON_S = 0.15
"""An interrupt is noticed within 50 ms; the rest is for a busy machine."""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """A database bigger than what is read when a file is opened, and a change to it."""
    with origin(tmp_path) as made:
        made.commit(
            "CREATE TABLE t (n INTEGER PRIMARY KEY, b)",
            "INSERT INTO t SELECT value, randomblob(900) FROM generate_series(1, 400)",
        )
        made.commit("UPDATE t SET b = 1 WHERE n = 1")
        yield made


@contextmanager
def interrupting(connection: apsw.Connection, after_s: float) -> Iterator[Callable[[], float]]:
    """Interrupt a connection from another thread; the function returns how long ago that was."""
    when: list[float] = []

    def interrupt() -> None:
        when.append(time.monotonic())
        connection.interrupt()

    timer = threading.Timer(after_s, interrupt)
    timer.start()
    try:
        yield lambda: time.monotonic() - when[0]
    finally:
        timer.join()


def slow(hooks: Hooks) -> None:
    hooks.before = lambda request: time.sleep(LONG_S)


@pytest.mark.parametrize("attached", [False, True], ids=["main", "attached"])
@pytest.mark.parametrize("while_it", ["looks", "reads"])
def test_an_interrupt_ends_a_slow_fetch(attached: bool, while_it: str, source: Origin) -> None:
    url, hooks = hooked(source.url)
    interval = 0 if while_it == "looks" else 3600
    db = vfs.connect(url, poll_interval=interval, cache_size=0)
    table = "t"
    if attached:
        db = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
        db.execute("ATTACH ? AS r", (vfs.uri(url, poll_interval=interval) + "&cache_size=0",))
        table = "r.t"
    assert number(db, f"SELECT count(*) FROM {table}") == 400
    others = [vfs.connect(source.url) for _ in range(5)]
    with delays(hooks, LONG_S), interrupting(db, 0.2) as ago:
        with pytest.raises(vfs.InterruptedQueryError) as caught:
            number(db, f"SELECT count(*) FROM {table} WHERE b > 1")
        assert ago() < SOON_S
    assert caught.value.extendedresult == apsw.SQLITE_INTERRUPT  # type: ignore[attr-defined]
    assert number(db, f"SELECT count(*) FROM {table}") == 400
    assert len(others) == 5


def test_an_interrupt_ends_the_wait_for_another_thread_that_waits(source: Origin) -> None:
    """One connection looks at the storage; the second one waits for its result and is interrupted."""
    url, hooks = hooked(source.url)
    first, second = (vfs.connect(url, poll_interval=0) for _ in range(2))
    with delays(hooks, 0.7):
        other = threading.Thread(target=rows, args=(first, "SELECT count(*) FROM t"))
        other.start()
        time.sleep(0.2)
        with interrupting(second, 0.2) as ago:
            with pytest.raises(vfs.InterruptedQueryError):
                rows(second, "SELECT count(*) FROM t")
            assert ago() < SOON_S
        other.join()


def test_an_interrupt_ends_travelling_in_time(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=0)
    with delays(hooks, LONG_S, "list"), interrupting(db, 0.2) as ago:
        with pytest.raises(vfs.InterruptedQueryError):
            db.execute("PRAGMA litestream_time = '2026-01-01'")
        assert ago() < SOON_S
    assert number(db, "SELECT count(*) FROM t") == 400


@pytest.mark.parametrize("kind", ["list", "get"])
def test_a_storage_that_never_answers_is_given_up_at_the_deadline(kind: str, source: Origin) -> None:
    url, hooks = hooked(source.url)
    with delays(hooks, LONG_S, kind):
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=rf"{url} did not answer within 0\.3 s"):
            vfs.connect(url, timeout=0.3)
        assert time.monotonic() - began < 1


def test_who_waits_for_another_ones_look_waits_no_longer(source: Origin) -> None:
    url, hooks = hooked(source.url)
    told: list[float] = []

    def connect() -> None:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"did not answer within 1 s"):
            vfs.connect(url, timeout=1)
        told.append(time.monotonic() - began)

    with delays(hooks, LONG_S):
        threads = [threading.Thread(target=connect) for _ in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        for thread in threads:
            thread.join()
    assert len(told) == 3
    assert max(told) < 1.6


def test_a_page_that_never_comes_is_given_up_at_the_deadline(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, timeout=0.3, cache_size=0)
    with delays(hooks, LONG_S), pytest.raises(UnavailableError, match=r"within 0\.3 s") as caught:
        rows(db, "SELECT sum(length(b)) FROM t")
    assert caught.value.extendedresult == apsw.SQLITE_IOERR  # type: ignore[attr-defined]
    assert number(db, "SELECT sum(length(b)) FROM t") == 399 * 900 + 1


def test_hung_requests_do_not_keep_others_waiting(source: Origin) -> None:
    """More of them than any pool of threads would have."""
    url, hooks = hooked(source.url)
    db = vfs.connect(url, timeout=0.1, cache_size=0)
    with delays(hooks, LONG_S):
        for _ in range(12):
            with pytest.raises(UnavailableError):
                rows(db, "SELECT sum(length(b)) FROM t")
    assert number(db, "SELECT sum(length(b)) FROM t") == 399 * 900 + 1


def test_while_the_storage_is_away_what_is_known_is_answered_and_the_lag_tells(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, poll_interval=0, timeout=0.4)
    assert number(db, "SELECT sum(length(b)) FROM t") == 399 * 900 + 1
    source.commit("UPDATE t SET b = 'new' WHERE n = 2")
    with delays(hooks, LONG_S):
        began = time.monotonic()
        for _ in range(20):
            assert number(db, "SELECT sum(length(b)) FROM t") == 399 * 900 + 1
        assert time.monotonic() - began < 0.7, "each transaction waited for the storage"
        assert float(str(rows(db, "SELECT litestream_lag()")[0][0])) > 0.3
        time.sleep(0.6)
    assert number(db, "SELECT length(b) FROM t WHERE n = 2") == 3
    assert seen(db) == 3
    assert float(str(rows(db, "SELECT litestream_lag()")[0][0])) < 0.2


def test_an_empty_replica_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    for url in ("memory://nothing-here", f"file://{tmp_path}/nothing"):
        with pytest.raises(NoSnapshotError, match=f"no LTX files lie at {url}: check the URL"):
            vfs.connect(url)
    assert time.monotonic() - began < 1


def test_an_error_of_the_storage_keeps_its_type_and_text(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, cache_size=0)

    def refuse(request: Request) -> None:
        raise RuntimeError(f"out of cheese at {request.kind}")

    hooks.before = refuse
    with pytest.raises(RuntimeError, match="out of cheese at get"):
        rows(db, "SELECT sum(length(b)) FROM t")
    with pytest.raises(RuntimeError, match="out of cheese at list"):
        vfs.connect(url)
    hooks.clear()
    assert number(db, "SELECT count(*) FROM t") == 400


def test_ctrl_c_ends_a_wait_and_the_process(source: Origin) -> None:
    """The request still hangs when the process ends: no thread may hold it up."""
    script = """if True:
        import sys, time, apsw, backends, vfs
        from backends.local import LocalBackend
        class Hanging(LocalBackend):
            slow = False
            def get_at_once(self, pieces):
                return None
            def get(self, *a):
                if Hanging.slow:
                    print("hangs", flush=True)
                    time.sleep(100)
                return super().get(*a)
        backends.register("hanging", "__main__:Hanging")
        Hanging.from_url = classmethod(lambda cls, url: cls(url.partition("://")[2]))
        db = vfs.connect("hanging://" + sys.argv[1], cache_size=0)
        Hanging.slow = True
        try:
            db.execute("SELECT sum(length(b)) FROM t").fetchall()
        except KeyboardInterrupt as error:
            print("stopped", error.extendedresult == apsw.SQLITE_INTERRUPT, flush=True)
    """
    folder = source.path.parent / "replica"
    for file in source.replica.files():
        path = folder / file.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.replica.backend.get(file.key))
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "hangs\n"
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "stopped True\n"
            assert process.wait(10) == 0
            assert time.monotonic() - began < 2
        finally:
            process.kill()


def test_not_found_is_not_retried_for_ever(source: Origin) -> None:
    url, hooks = hooked(source.url)

    def gone(request: Request) -> None:
        if request.kind == "get":
            raise NotFoundError(f"no object {request.key}", key=request.key)

    hooks.before = gone
    began = time.monotonic()
    with pytest.raises((NotFoundError, UnavailableError, NoSnapshotError)):
        vfs.connect(url)
    assert time.monotonic() - began < 2
