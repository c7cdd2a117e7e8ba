"""Restoring over an existing database: whoever uses it is not robbed, and it is there until the new one is."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import ltx
from backends.memory import MemoryBackend
from ltx import CorruptError, DatabaseError, LTXError, NoSnapshotError, NotReachableError, Replica
from tests.test_replica.histories import History
from tests.test_replica.old_databases import die_writing, kill_a_writer, old_database, rows

HISTORY = History.random(6, seed=3)

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def filled(backend: MemoryBackend) -> MemoryBackend:
    HISTORY.put_all(backend)
    return backend


@contextmanager
def held(path: Path, *statements: str) -> Iterator[None]:
    """Let another process open a database and keep it open after some statements."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path, *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.communicate()


def beside(path: Path) -> dict[str, bytes]:
    """Return all files of a folder, shared memory apart."""
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith("-shm")}


@pytest.mark.parametrize(
    ("journal_mode", "statements"),
    [
        ("wal", ["SELECT * FROM t"]),
        ("wal", ["BEGIN", "SELECT * FROM t"]),
        ("wal", ["BEGIN IMMEDIATE", "INSERT INTO t VALUES ('unfinished')"]),
        ("delete", ["BEGIN", "SELECT * FROM t"]),
        ("delete", ["BEGIN IMMEDIATE", "INSERT INTO t VALUES ('unfinished')"]),
        ("delete", ["BEGIN EXCLUSIVE"]),
        ("delete", ["PRAGMA locking_mode=EXCLUSIVE", "BEGIN IMMEDIATE", "COMMIT"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1][:12],
)
@pytest.mark.usefixtures("filled")
def test_a_database_in_use_is_refused_and_untouched(
    replica: Replica, tmp_path: Path, journal_mode: str, statements: list[str]
) -> None:
    path = old_database(tmp_path / "app.db", journal_mode)
    with held(path, *statements):
        before = beside(path)
        with pytest.raises(DatabaseError, match="is in use: stop whatever has it open"):
            replica.restore(path, force=True)
        assert beside(path) == before
    assert rows(path) == ["old"]
    assert replica.restore(path, force=True).path.read_bytes() == HISTORY.state(6)


@pytest.mark.usefixtures("filled")
def test_a_connection_that_holds_no_lock_cannot_be_noticed(replica: Replica, tmp_path: Path) -> None:
    path = old_database(tmp_path / "app.db", "delete")
    with held(path, "SELECT * FROM t"):
        replica.restore(path, force=True)
    assert path.read_bytes() == HISTORY.state(6)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.usefixtures("filled")
def test_nothing_of_the_old_database_is_replayed_over_the_new_one(
    replica: Replica, tmp_path: Path, journal_mode: str
) -> None:
    path = kill_a_writer(tmp_path / "app.db", journal_mode)
    assert len(beside(path)) == 2
    replica.restore(path, force=True)
    assert beside(path) == {"app.db": HISTORY.state(6)}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["app.db"]


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.parametrize(
    ("spoil", "target", "kind"),
    [
        (lambda backend: None, {"txid": 7}, NotReachableError),
        (lambda backend: backend.delete([info.key for info in backend.list()]), {}, NoSnapshotError),
        (lambda backend: _truncate_last(backend), {}, CorruptError),
    ],
    ids=["no such TXID", "empty replica", "damaged"],
)
def test_a_restore_that_fails_leaves_the_old_database_with_its_log(
    filled: MemoryBackend,
    replica: Replica,
    tmp_path: Path,
    journal_mode: str,
    spoil: Callable[[MemoryBackend], None],
    target: dict[str, int],
    kind: type[Exception],
) -> None:
    path = kill_a_writer(tmp_path / "app.db", journal_mode)
    spoil(filled)
    before = beside(path)
    with pytest.raises(kind):
        replica.restore(path, force=True, txid=target.get("txid"))
    assert beside(path) == before
    assert rows(path) == (["old", "only in the log"] if journal_mode == "wal" else ["old"])


def _truncate_last(backend: MemoryBackend) -> None:
    *_, last = backend.list()
    backend.put(last.key, backend.get(last.key)[:-9])


@pytest.mark.usefixtures("filled")
def test_the_new_file_is_durable_before_the_old_log_goes_and_is_renamed_after_that(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kill_a_writer(tmp_path / "app.db", "wal")
    steps: list[str] = []

    def spied(name: str) -> None:
        real = getattr(os, name)

        def spy(*arguments: object, **options: object) -> object:
            steps.append(
                " ".join(
                    [name, *(Path(str(each)).suffix for each in arguments if isinstance(each, str | Path))]
                )
            )
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, spy)

    for name in ("fsync", "unlink", "replace", "rename", "link"):
        spied(name)
    replica.restore(path, force=True)
    assert steps == [
        "fsync",
        "unlink .db-wal",
        "unlink .db-shm",
        "unlink .db-journal",
        "replace .tmp .db",
        "fsync",
        "unlink .tmp",
    ]


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.usefixtures("filled")
def test_nobody_can_begin_to_use_the_old_database_until_it_is_replaced(
    replica: Replica, tmp_path: Path, journal_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kill_a_writer(tmp_path / "app.db", journal_mode)
    real, answers = os.replace, []

    def replace(source: Path, target: Path) -> None:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                _HOLD.replace("connect(sys.argv[1]", "connect(sys.argv[1], timeout=0"),
                path,
                "SELECT * FROM t",
            ],
            input=b"",
            capture_output=True,
            check=False,
        )
        answers.append(done.stderr.decode())
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    replica.restore(path, force=True)
    assert len(answers) == 1
    assert "locked" in answers[0]
    assert path.read_bytes() == HISTORY.state(6)


def test_a_log_that_the_new_database_gets_at_once_is_not_taken_for_the_old_one_s(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next user may come between the rename and the release of the old database."""
    ltx.replicate_once(old_database(tmp_path / "source.db", "wal"), replica)
    (tmp_path / "place").mkdir()
    path = kill_a_writer(tmp_path / "place" / "app.db", "wal")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if target == path:
            die_writing(path, "wal")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        replica.restore(path, force=True)
    assert rows(path) == ["old", "only in the log"]


@pytest.mark.parametrize(
    "content", [b"", b"plain text", b"SQLite format 3\0" + bytes(4080), os.urandom(8192)]
)
@pytest.mark.usefixtures("filled")
def test_what_is_no_database_is_replaced_side_files_included(
    replica: Replica, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(content)
    for suffix in ("-wal", "-shm", "-journal"):
        (tmp_path / f"app.db{suffix}").write_bytes(b"stale")
    replica.restore(path, force=True)
    assert beside(path) == {"app.db": HISTORY.state(6)}


@pytest.mark.usefixtures("filled")
def test_a_database_that_cannot_be_locked_is_refused(replica: Replica, tmp_path: Path) -> None:
    path = old_database(tmp_path / "app.db", "delete")
    data = bytearray(path.read_bytes())
    data[18] = 3  # a version that today's SQLite may only read
    path.write_bytes(data)
    with pytest.raises(DatabaseError, match="cannot be locked"):
        replica.restore(path, force=True)
    assert beside(path) == {"app.db": bytes(data)}


@pytest.mark.usefixtures("filled")
def test_force_is_fine_where_there_is_no_old_database(replica: Replica, tmp_path: Path) -> None:
    assert replica.restore(tmp_path / "app.db", force=True).path.read_bytes() == HISTORY.state(6)


@pytest.mark.usefixtures("filled")
def test_mode_and_owner_of_the_old_database_are_kept(replica: Replica, tmp_path: Path) -> None:
    path = old_database(tmp_path / "app.db", "delete")
    path.chmod(0o640)
    os.chown(path, 1234, 2345)
    replica.restore(path, force=True)
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 2345)


@pytest.mark.parametrize("link", ["real/app.db", "absolute"])
@pytest.mark.usefixtures("filled")
def test_a_symbolic_link_stays_one_and_its_database_is_replaced(
    replica: Replica, tmp_path: Path, link: str
) -> None:
    (tmp_path / "real").mkdir()
    path = kill_a_writer(tmp_path / "real" / "app.db", "wal")
    linked = tmp_path / "linked.db"
    linked.symlink_to(path if link == "absolute" else link)
    (tmp_path / "linked.db-wal").write_bytes(b"not the database's")
    restored = replica.restore(linked, force=True)
    assert restored.path == path
    assert linked.is_symlink()
    assert beside(path) == {"app.db": HISTORY.state(6)}
    assert (tmp_path / "linked.db-wal").exists()


@pytest.mark.usefixtures("filled")
def test_a_link_to_nothing_leads_to_the_new_database(replica: Replica, tmp_path: Path) -> None:
    linked = tmp_path / "linked.db"
    linked.symlink_to("new.db")
    assert replica.restore(linked).path == tmp_path / "new.db"
    assert linked.read_bytes() == HISTORY.state(6)


@pytest.mark.usefixtures("filled")
def test_a_device_or_a_pipe_is_never_replaced(replica: Replica, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for force in (False, True):
        with pytest.raises(LTXError):
            replica.restore(pipe, force=force)
    with pytest.raises(LTXError, match="a device or a pipe"):
        replica.restore("/dev/null", force=True)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.usefixtures("filled")
def test_the_new_database_can_be_used_at_once(replica: Replica, tmp_path: Path) -> None:
    path = kill_a_writer(tmp_path / "app.db", "wal")
    replica.restore(path, force=True)
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        connection.execute("SELECT * FROM t")  # random pages: what counts is that nothing was added to them
    assert beside(path) == {"app.db": HISTORY.state(6)}
