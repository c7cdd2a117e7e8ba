"""One database has one writer: a second one is noticed, and nothing of it is overwritten."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends import AlreadyExistsError, Capabilities, UnavailableError
from backends.local import LocalBackend
from backends.memory import MemoryBackend
from backends.retrying import Retry, RetryingBackend
from ltx import ConflictError, Replica, replicate_once
from ltx.replica.layout import LINEAGE_KEY
from tests.support.backends import FaultyBackend, failing
from tests.support.databases import connected, fill, make, sealed
from tests.support.replicas import Case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    made = Case(tmp_path)
    make(made.database, rows=40)
    return made


@pytest.fixture
def other(case: Case) -> Case:
    """Another database that is replicated to the same place."""
    made = Case(case.folder, name="other.db")
    make(made.database, rows=90)
    return made


def change(case: Case) -> None:
    with connected(case.database) as db:
        fill(db, 5)


def let_in(run: Callable[[], object]) -> Callable[[Callable[[], None]], None]:
    """Return what lets another writer in just before the first put."""
    waiting = [run]

    def put(call: Callable[[], None]) -> None:
        if waiting:
            waiting.pop()()
        call()

    return put


class NoCreate(FaultyBackend):
    """A storage without exclusive creation, as some have it."""

    capabilities = Capabilities(put_if_absent=False, timestamps=True, atomic_put=True)

    def __init__(
        self, backend: LocalBackend, put: Callable[[Callable[[], None]], None] = lambda call: call()
    ) -> None:
        super().__init__(backend, put)
        self.capabilities = replace(backend.capabilities, put_if_absent=False)


@pytest.mark.parametrize("runs_before", [0, 2])
def test_another_writer_just_before_the_put_is_a_conflict(runs_before: int, case: Case, other: Case) -> None:
    for _ in range(runs_before):
        case.run()
        change(case)
    state = sorted(case.state.iterdir()) if runs_before else []
    contents = [path.read_bytes() for path in state]
    backend = FaultyBackend(
        LocalBackend(case.root), let_in(lambda: replicate_once(other.database, case.replica(), adopt=True))
    )
    with pytest.raises(ConflictError, match="somebody else") as caught:
        replicate_once(case.database, Replica(backend))
    assert caught.value.key == f"ltx/0/{runs_before + 1:016x}-{runs_before + 1:016x}.ltx"
    assert isinstance(caught.value.__cause__, AlreadyExistsError)
    # The other one's file stands, and nothing else changed: no temporary files, no sidecar.
    assert case.restored() == other.database.read_bytes()
    assert len(case.keys()) == runs_before + 1
    assert sorted(path for path in case.state.iterdir() if path.name != LINEAGE_KEY or runs_before) == state
    assert [path.read_bytes() for path in state] == contents


def test_after_a_conflict_the_next_run_goes_on_from_what_is_there_if_it_is_told_to(
    case: Case, other: Case
) -> None:
    backend = FaultyBackend(
        LocalBackend(case.root), let_in(lambda: replicate_once(other.database, case.replica(), adopt=True))
    )
    with pytest.raises(ConflictError):
        replicate_once(case.database, Replica(backend))
    with pytest.raises(ConflictError, match="--adopt"):
        replicate_once(case.database, case.replica())
    assert case.restored() == other.database.read_bytes()
    done = replicate_once(case.database, case.replica(), adopt=True)
    assert done
    assert (done.level, done.txid) == (0, 2)
    assert case.restored() == case.database.read_bytes()


def test_a_conflict_over_a_snapshot_is_one_too(case: Case, other: Case) -> None:
    case.run()
    change(case)
    case.run()
    (case.root / case.published[0].key).unlink()
    case.sidecar.unlink()
    backend = FaultyBackend(
        LocalBackend(case.root), let_in(lambda: replicate_once(other.database, case.replica(), adopt=True))
    )
    with pytest.raises(ConflictError) as caught:
        replicate_once(case.database, Replica(backend))
    assert caught.value.key == f"ltx/9/{1:016x}-{3:016x}.ltx"
    assert case.restored() == other.database.read_bytes()


def test_without_exclusive_creation_a_file_that_is_there_is_a_conflict(case: Case, other: Case) -> None:
    backend = NoCreate(LocalBackend(case.root))
    real = backend.head

    def head(key: str) -> object:
        if not case.keys():
            replicate_once(other.database, case.replica())
        return real(key)

    backend.head = head  # type: ignore[method-assign, assignment]
    with pytest.raises(ConflictError):
        replicate_once(case.database, Replica(backend))
    assert case.restored() == other.database.read_bytes()


def test_without_exclusive_creation_who_is_written_over_at_the_same_moment_learns_of_it(
    case: Case, other: Case
) -> None:
    elsewhere = LocalBackend(case.folder / "elsewhere")
    assert replicate_once(other.database, Replica(elsewhere))

    def put(call: Callable[[], None]) -> None:
        call()
        key = f"ltx/0/{1:016x}-{1:016x}.ltx"
        if (case.root / key).exists():
            (case.root / key).write_bytes(elsewhere.get(key))

    with pytest.raises(ConflictError):
        replicate_once(case.database, Replica(NoCreate(LocalBackend(case.root), put)))
    assert case.restored() == other.database.read_bytes()
    assert not list(case.state.glob("pages-*"))


def test_a_storage_without_exclusive_creation_can_be_used(case: Case) -> None:
    for _ in range(3):
        case.run(NoCreate(LocalBackend(case.root)))
        change(case)
    assert [done.txid for done in case.published] == [1, 2, 3]


@pytest.mark.parametrize("after_effect", [True, False])
@pytest.mark.parametrize("times", [1, 3])
def test_a_put_that_is_sent_again_succeeds_whether_the_first_one_landed_or_not(
    times: int, after_effect: bool, case: Case
) -> None:
    for txid in (1, 2):
        faulty = FaultyBackend(LocalBackend(case.root), failing(times=times, after_effect=after_effect))
        done = case.run(RetryingBackend(faulty, Retry(sleep=lambda _: None)))
        assert done
        assert done.txid == txid
        assert case.run() is None
        change(case)


@pytest.mark.parametrize("after_effect", [True, False])
@pytest.mark.parametrize("txid", [1, 2])
def test_a_put_that_failed_is_made_up_for_by_the_next_run(txid: int, after_effect: bool, case: Case) -> None:
    for _ in range(txid - 1):
        case.run()
        change(case)
    put = failing(times=1, after_effect=after_effect, behind=txid == 1)  # first of all a new replica names us
    faulty = FaultyBackend(LocalBackend(case.root), put)
    with pytest.raises(UnavailableError, match="lost"):
        replicate_once(case.database, Replica(faulty))
    done = case.replica()
    if after_effect:
        assert replicate_once(case.database, done) is None
    else:
        again = replicate_once(case.database, done)
        assert again
        assert again.txid == txid
    assert len(case.keys()) == txid
    change(case)
    last = replicate_once(case.database, done)
    assert last
    assert last.txid == txid + 1


def test_a_try_of_our_own_that_landed_is_no_conflict(case: Case) -> None:
    """The backend says that the key is taken; what lies there is what was sent."""

    def put(call: Callable[[], None]) -> None:
        call()
        call()

    done = case.run(FaultyBackend(LocalBackend(case.root), put))
    assert done
    assert done.txid == 1


def test_the_same_database_replicated_by_many_at_once_stays_whole(case: Case) -> None:
    program = (
        "import sys, ltx\n"
        "try:\n"
        "    print(ltx.replicate_once(sys.argv[1], ltx.Replica.open(sys.argv[2])))\n"
        "except ltx.ConflictError as error:\n"
        "    print('conflict', error.key)\n"
    )
    command = [sys.executable, "-c", program, str(case.database), str(case.root)]
    for round_ in range(2):
        change(case)
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        outputs = [process.communicate(timeout=30)[0] for process in running]
        assert all(process.returncode == 0 for process in running)
        assert any("Published" in output for output in outputs), outputs
        assert len(case.keys()) >= round_ + 1
        assert replicate_once(case.database, case.replica()) is None
    assert sealed(case.database) == case.restored()


def test_replicas_in_memory_and_in_a_folder_hold_the_same(case: Case) -> None:
    memory = Replica(MemoryBackend("conflicts"))
    assert replicate_once(case.database, memory)
    case.run()
    output = case.folder / "from memory.db"
    memory.restore(output)
    assert output.read_bytes() == case.known
