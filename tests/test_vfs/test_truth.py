"""Truth under load, in short: no wrong answer and no error, whatever the storage goes through meanwhile.

`python -m bench.truth` is the long form, beside the real Litestream's VFS.
"""

import time
from collections.abc import Callable
from pathlib import Path

import vfs
from tests.support.truth import Verdict, in_children, in_threads, said, writing, written
from tests.test_vfs.origin import number, rows

TRANSACTIONS, PER_SECOND = 200, 40
KEPT_S = 4
MOVES = 3
LONGEST_S = 90
"""A reader that has not seen as much by then hangs: the writers go on until all have."""


def enough(replica: Path) -> Callable[[Verdict], bool]:
    """Return what says that a reader saw all that it is to see, files that were pruned meanwhile included."""
    deadline = time.monotonic() + LONGEST_S

    def is_over(found: Verdict) -> bool:
        saw_all = found.count >= TRANSACTIONS and found.moves >= MOVES
        return (saw_all and not began(replica)) or time.monotonic() > deadline

    return is_over


def began(replica: Path) -> bool:
    """Whether the first file of level 0 is still there."""
    return (replica / "ltx/0/0000000000000002-0000000000000002.ltx").exists()


def test_eight_connections_in_threads_and_forked_children_see_whole_states_that_never_go_back(
    tmp_path: Path,
) -> None:
    replica = tmp_path / "replica"
    url = f"file://{replica}"
    with writing(tmp_path, url, seed=5, kept_s=KEPT_S, per_second=PER_SECOND) as path:
        inherited = vfs.connect(url, poll_interval=0)
        assert number(inherited, "SELECT count(*) FROM b") == 600
        is_over = enough(replica)
        pipes = in_children(
            [lambda: inherited, lambda: vfs.connect(url, poll_interval=0.05, cache_size=400_000)], is_over
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
            is_over,
        )
        verdicts += [said(pipe) for pipe in pipes]
    assert [verdict.wrong for verdict in verdicts] == [[]] * 8
    assert [verdict.errors for verdict in verdicts] == [{}] * 8
    assert min(verdict.moves for verdict in verdicts) >= MOVES
    assert min(verdict.count for verdict in verdicts) >= TRANSACTIONS
    assert {file.parent.name for file in replica.glob("ltx/*/*.ltx")} >= {"0", "1", "9"}
    assert not began(replica), "nothing was pruned"
    assert rows(vfs.connect(url, poll_interval=0), "SELECT count FROM written") == [(written(path),)]


def test_on_a_storage_that_fails_there_are_errors_with_types_and_no_wrong_answer(tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    url = f"file://{replica}"
    with writing(tmp_path, url, seed=6, kept_s=KEPT_S, per_second=PER_SECOND):
        verdicts = in_threads(
            [
                lambda seed=seed: vfs.connect(  # type: ignore[misc]
                    f"faulty+{url}?seed={seed}&rate=0.03&slow=0.01",
                    poll_interval=0,
                    cache_size=(400_000, 1 << 24)[seed % 2],
                )
                for seed in range(4)
            ],
            enough(replica),
        )
    assert [verdict.wrong for verdict in verdicts] == [[]] * 4
    assert min(verdict.moves for verdict in verdicts) >= MOVES
    assert min(verdict.count for verdict in verdicts) >= TRANSACTIONS
    for kind in {error.partition(":")[0] for verdict in verdicts for error in verdict.errors}:
        assert kind in {
            "UnavailableError",
            "NotReachableError",
            "NotFoundError",
            "CorruptError",
            "TruncatedError",
        }
