"""Truth under load, in short: no wrong answer and no error, whatever the storage goes through meanwhile.

`python -m bench.truth` is the long form, beside the real Litestream's VFS.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

import vfs
from tests.support.truth import Verdict, prepare, watch, writing
from tests.test_vfs.origin import number, rows

TRANSACTIONS = 150
KEPT_S = 3


def in_threads(readers: list[Callable[[], apsw.Connection]], is_over: Callable[[], bool]) -> list[Verdict]:
    """Let connections read at the same time."""
    verdicts: list[Verdict] = []
    threads = [
        threading.Thread(target=lambda connect=connect: verdicts.append(watch(connect, is_over)))
        for connect in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(verdicts) == len(readers), "a thread ended with an error of its own"
    return verdicts


def in_children(readers: list[Callable[[], apsw.Connection]], stop: Path) -> list[int]:
    """Let each read in a forked child until a file is there; return pipes from which to read what they found."""
    pipes = []
    for connect in readers:
        reader, writer = os.pipe()
        if os.fork() == 0:
            status = 1
            try:
                found = watch(connect, stop.exists)
                os.write(
                    writer, json.dumps([found.reads, found.moves, found.wrong[:5], found.errors]).encode()
                )
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        pipes.append(reader)
    return pipes


def said(pipe: int) -> Verdict:
    with os.fdopen(pipe) as answer:
        reads, moves, wrong, errors = json.loads(answer.read())
    os.wait()
    verdict = Verdict(reads, moves, wrong)
    verdict.errors.update(errors)
    return verdict


def test_eight_connections_in_threads_and_forked_children_see_whole_states_that_never_go_back(
    tmp_path: Path,
) -> None:
    path, url, stop = tmp_path / "busy.db", f"file://{tmp_path}/replica", tmp_path / "stop"
    prepare(path)
    with writing(path, url, TRANSACTIONS, seed=5, kept_s=KEPT_S) as writer:
        inherited = vfs.connect(url, poll_interval=0)
        assert number(inherited, "SELECT count(*) FROM b") == 600
        pipes = in_children(
            [lambda: inherited, lambda: vfs.connect(url, poll_interval=0.05, cache_size=400_000)], stop
        )
        verdicts = in_threads(
            [
                lambda: vfs.connect(url, poll_interval=0),
                lambda: vfs.connect(url, poll_interval=0, cache_size=400_000),
                lambda: vfs.connect(url, poll_interval=0.05),
                lambda: vfs.connect(url, poll_interval=0.2, cache_size=1 << 20),
                lambda: vfs.connect(url, poll_interval=1),
                lambda: inherited,
            ],
            lambda: writer.poll() is not None,
        )
        stop.touch()
        verdicts += [said(pipe) for pipe in pipes]
        assert writer.stdout
        assert writer.stdout.read() == f"wrote {TRANSACTIONS}\n"
    assert [verdict.wrong for verdict in verdicts] == [[]] * 8
    assert [verdict.errors for verdict in verdicts] == [{}] * 8
    assert min(verdict.moves for verdict in verdicts) >= 1
    assert {file.parent.name for file in tmp_path.glob("replica/ltx/*/*.ltx")} >= {"0", "1", "9"}
    assert not list(tmp_path.glob("replica/ltx/0/0000000000000001-*")), "nothing was pruned"
    assert rows(vfs.connect(url), "SELECT count FROM written") == [(TRANSACTIONS,)]


def test_on_a_storage_that_fails_there_are_errors_with_types_and_no_wrong_answer(tmp_path: Path) -> None:
    path, url = tmp_path / "busy.db", f"file://{tmp_path}/replica"
    prepare(path)
    with writing(path, url, TRANSACTIONS, seed=6, kept_s=KEPT_S) as writer:
        verdicts = in_threads(
            [
                lambda seed=seed: vfs.connect(  # type: ignore[misc]
                    f"faulty+{url}?seed={seed}&rate=0.03&slow=0.01",
                    poll_interval=0,
                    cache_size=(400_000, 1 << 24)[seed % 2],
                )
                for seed in range(4)
            ],
            lambda: writer.poll() is not None,
        )
    assert [verdict.wrong for verdict in verdicts] == [[]] * 4
    assert min(verdict.moves for verdict in verdicts) >= 1
    for kind in {error.partition(":")[0] for verdict in verdicts for error in verdict.errors}:
        assert kind in {
            "UnavailableError",
            "NotReachableError",
            "NotFoundError",
            "CorruptError",
            "TruncatedError",
        }
