"""What only files have: durability in the right order, leftovers of a crash, links, folders and strange inodes."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.local import LocalBackend
from backends.registry import open_backend


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path / "root")


class Recorder:
    """Remembers the calls that make a file durable and visible, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        for name in ("write", "fsync", "utime", "link", "replace", "unlink"):
            self._record(monkeypatch, name, getattr(os, name))

    def _record(self, monkeypatch: pytest.MonkeyPatch, name: str, real: Callable[..., Any]) -> None:
        def call(place: int | str, *more: Any, **options: Any) -> Any:
            answer = real(place, *more, **options) if name != "unlink" else None
            self.calls.append(f"{name} {self._shown(place)}")
            if name == "unlink":
                real(place, *more, **options)
            return answer

        monkeypatch.setattr(os, name, call)

    def _shown(self, place: int | str) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{place}")) if isinstance(place, int) else Path(place)
        shown = str(path.relative_to(self.root.parent))
        folder, _, name = shown.rpartition("/")
        return f"{folder}/ASIDE" if name.startswith(".tmp-") else shown


@contextmanager
def _slow_put(root: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Put something that does not come to its end, in another process."""
    code = (
        "import io, sys, time\n"
        "from backends.local import LocalBackend\n"
        "class Slow(io.BytesIO):\n"
        "    def read(self, size=-1):\n"
        "        print('reading', flush=True); time.sleep(0.3); return b'x' * (1 << 20)\n"
        "LocalBackend(sys.argv[1]).put('a/k', Slow())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(2):
            child.stdout.readline()
        yield child


class TestDurability:
    @pytest.mark.parametrize(("if_absent", "publish"), [(True, "link"), (False, "replace")])
    def test_order(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, if_absent: bool, publish: str
    ) -> None:
        """Folders, then the bytes and their time, then the name, then the folder that holds the name."""
        recorder = Recorder(monkeypatch, backend.root)
        backend.put("a/k", b"bytes", if_absent=if_absent, timestamp_ms=1)
        monkeypatch.undo()
        assert recorder.calls == [
            "fsync .",
            "fsync root",
            "write root/a/ASIDE",
            "utime root/a/ASIDE",
            "fsync root/a/ASIDE",
            f"{publish} root/a/ASIDE",
            *(["unlink root/a/ASIDE"] if if_absent else []),
            "fsync root/a",
            "unlink root/a/ASIDE",  # in any case, should anything have failed
        ]

    def test_deleting_is_durable(self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        for key in ("a/1", "a/2", "b/1"):
            backend.put(key, b"x")
        recorder = Recorder(monkeypatch, backend.root)
        backend.delete(["a/1", "a/2", "b/1", "c/1"])
        assert sorted(recorder.calls[-2:]) == ["fsync root/a", "fsync root/b"]

    def test_a_killed_writer_leaves_the_old_object(self, backend: LocalBackend) -> None:
        """What is left of it is never listed, cannot be named, and does not stop the next writer."""
        backend.put("a/k", b"old", timestamp_ms=7)
        with _slow_put(backend.root) as child:
            child.send_signal(signal.SIGKILL)
        (leftover,) = [path for path in (backend.root / "a").iterdir() if path.name.startswith(".tmp-")]
        assert leftover.stat().st_size >= 1 << 20
        assert backend.get("a/k") == b"old"
        assert [info.key for info in backend.list()] == ["a/k"]
        with pytest.raises(ConfigError):
            backend.get(f"a/{leftover.name}")
        backend.put("a/k", b"new")
        assert backend.get("a/k") == b"new"

    def test_who_deletes_removes_what_killed_writers_left_and_nothing_that_is_being_written(
        self, backend: LocalBackend
    ) -> None:
        for number in range(4):
            backend.put(f"a/{number}", b"x")
        with _slow_put(backend.root) as killed:
            killed.send_signal(signal.SIGKILL)
        left = set(backend.root.glob("*/.tmp-*"))
        fresh, foreign = backend.root / "a" / f".tmp-{'0' * 16}", backend.root / ".tmp-of-somebody"
        fresh.touch()
        foreign.touch()
        with _slow_put(backend.root) as child, backend.stage("") as staged:
            (writing,) = set(backend.root.glob("*/.tmp-*")) - left - {fresh}
            (own,) = set(backend.root.glob(".tmp-*")) - {foreign}
            for path in (*left, writing, own, foreign):
                os.utime(path, (1, 1))  # as old as the transaction that it holds
            backend.delete(["a/0"])
            assert set(backend.root.rglob(".tmp-*")) == {fresh, foreign, writing, own}
            os.utime(fresh, (1, 1))
            backend.delete(["a/1"])  # not each time: once an hour is enough
            assert fresh.exists()
            staged.write(b"staged")
            backend.put("b", staged, if_absent=True)
            child.send_signal(signal.SIGKILL)
        os.utime(writing, (1, 1))
        LocalBackend(backend.root).delete([])
        assert set(backend.root.rglob(".tmp-*")) == {foreign}
        assert len(left) == 1
        assert backend.get("b") == b"staged"

    def test_a_failed_put_leaves_no_file(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend.put("a/k", b"old")
        for name in ("fsync", "replace", "utime"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, _failing(errno.ENOSPC))
                with pytest.raises(BackendError, match="No space left"):
                    backend.put("a/k", b"new", timestamp_ms=1)
            assert [path.name for path in (backend.root / "a").iterdir()] == ["k"]
            assert backend.get("a/k") == b"old"


def _failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


class TestExclusiveCreation:
    def test_a_file_system_without_links(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            monkeypatch.setattr(os, "link", _failing(number))
            with pytest.raises(UnsupportedError, match="no hard links"):
                backend.put("a/k", b"x", if_absent=True)
            assert list((backend.root / "a").iterdir()) == []
        backend.put("a/k", b"x")
        assert backend.get("a/k") == b"x"

    def test_a_name_that_points_nowhere_is_taken(self, backend: LocalBackend) -> None:
        backend.root.mkdir()
        (backend.root / "k").symlink_to("nowhere")
        with pytest.raises(AlreadyExistsError):
            backend.put("k", b"x", if_absent=True)

    def test_a_name_taken_meanwhile(self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the link decides, not the look before it."""
        backend.put("k", b"first")
        monkeypatch.setattr(os.path, "lexists", lambda _: False)
        with pytest.raises(AlreadyExistsError):
            backend.put("k", b"second", if_absent=True)
        assert backend.get("k") == b"first"
        assert [path.name for path in backend.root.iterdir()] == ["k"]


class TestStrangeFiles:
    def test_what_is_no_file_is_no_object(self, backend: LocalBackend) -> None:
        """A pipe would block for ever, and a folder has no bytes."""
        backend.put("a/k", b"x")
        os.mkfifo(backend.root / "pipe")
        for key in ("pipe", "a"):
            for call in (backend.get, backend.head):
                with pytest.raises(NotFoundError):
                    call(key)
        assert [info.key for info in backend.list()] == ["a/k"]

    def test_names_that_are_no_keys_are_not_listed(self, backend: LocalBackend) -> None:
        backend.put("a/k", b"x")
        for name in ("dot.", "back\\slash", b"\xff".decode(errors="surrogateescape"), ".tmp-1", " blank"):
            (backend.root / name).write_bytes(b"x")
        assert [info.key for info in backend.list()] == ["a/k"]

    def test_a_linked_folder_is_followed(self, backend: LocalBackend, tmp_path: Path) -> None:
        (tmp_path / "other disk").mkdir()
        backend.root.mkdir()
        (backend.root / "ltx").symlink_to(tmp_path / "other disk")
        backend.put("ltx/k", b"x")
        assert [info.key for info in backend.list()] == ["ltx/k"]

    def test_a_file_in_place_of_the_root(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        backend = LocalBackend(tmp_path / "file")
        with pytest.raises(ConfigError, match="a file is in the way"):
            backend.put("k", b"x")
        with pytest.raises(ConfigError, match="is a file, not a folder"):
            list(backend.list())


class TestErrors:
    def test_kinds(self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        backend.put("k", b"x")
        for number, kind in (
            (errno.EACCES, PermissionDeniedError),
            (errno.EIO, UnavailableError),
            (errno.ESTALE, UnavailableError),
            (errno.ENOTDIR, NotFoundError),
            (errno.EFBIG, BackendError),
        ):
            monkeypatch.setattr(os, "open", _failing(number))
            with pytest.raises(kind) as caught:
                backend.get("k")
            assert type(caught.value) is kind
            assert caught.value.key == "k"

    def test_a_folder_that_may_not_be_read(
        self, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing that leaves it out would show a gap that is none."""
        backend.put("a/k", b"x")
        monkeypatch.setattr(os, "scandir", _failing(errno.EACCES))
        with pytest.raises(PermissionDeniedError, match="not allowed by the system"):
            list(backend.list())

    def test_what_the_source_raises_is_not_ours(self, backend: LocalBackend) -> None:
        class Source:
            def seek(self, *_: int) -> int:
                return 0

            def read(self, _: int) -> bytes:
                raise OSError(errno.EIO, "the source's disk")

        with pytest.raises(OSError, match="the source's disk") as caught:
            backend.put("k", Source())  # type: ignore[arg-type]
        assert not isinstance(caught.value, BackendError)
        assert list(backend.root.iterdir()) == []


class TestURL:
    @pytest.mark.parametrize(
        ("url", "root"),
        [
            ("file:///a/b", "/a/b"),
            ("file://localhost/a/b", "/a/b"),
            ("file:///a%20b%3F%23%25", "/a b?#%"),
            ("file:///%FF", os.fsdecode(b"/\xff")),
            ("/a/../b//c/", "/b/c"),
            ("/a?b#c", "/a?b#c"),
        ],
    )
    def test_root(self, url: str, root: str) -> None:
        backend = open_backend(url)
        assert isinstance(backend, LocalBackend)
        assert backend.root == Path(root)
        again = open_backend(backend.url)
        assert isinstance(again, LocalBackend)
        assert again.root == backend.root

    def test_relative(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A path is fixed when the backend is opened: a later change of folder changes nothing."""
        monkeypatch.chdir(tmp_path)
        for url in ("x/y", "file://x/y", "./x/y"):
            assert LocalBackend.from_url(url).root == tmp_path / "x" / "y"

    @pytest.mark.parametrize(
        ("url", "options", "says"),
        [
            ("file:///a?b=c", {}, "no query"),
            ("file:///a#b", {}, "no query"),
            ("file://", {}, "names no folder"),
            ("", {}, "names no folder"),
            ("/a", {"key": "x"}, "takes no options: key"),
        ],
    )
    def test_mistakes(self, url: str, options: dict[str, str], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            open_backend(url, **options)


def test_times_are_the_files_own(backend: LocalBackend) -> None:
    """What a copy of the folder by another program must keep: modification times, in milliseconds."""
    backend.put("k", b"x", timestamp_ms=1_700_000_000_123)
    assert (backend.root / "k").stat().st_mtime_ns == 1_700_000_000_123_000_000
    backend.put("now", b"x")
    assert abs((backend.root / "now").stat().st_mtime - time.time()) < 5


class TestStaging:
    """A folder publishes what was staged in it as it is."""

    def test_a_staged_file_is_published_without_a_copy(self, backend: LocalBackend, tmp_path: Path) -> None:
        with backend.stage(tmp_path) as staged:
            staged.write(b"bytes")
            inode = os.fstat(staged.fileno()).st_ino
            backend.put("a/k", staged, if_absent=True, timestamp_ms=1234)
            assert backend.root.joinpath("a/k").stat().st_ino == inode
        assert backend.get("a/k") == b"bytes"
        assert backend.head("a/k").timestamp_ms == 1234
        assert [path.name for path in backend.root.rglob("*")] == ["a", "k"]

    def test_a_staged_file_can_be_put_again_after_a_conflict(
        self, backend: LocalBackend, tmp_path: Path
    ) -> None:
        backend.put("a", b"taken")
        with backend.stage(tmp_path) as staged:
            staged.write(b"bytes")
            with pytest.raises(AlreadyExistsError):
                backend.put("a", staged, if_absent=True)
            backend.put("b", staged, if_absent=True)
        assert (backend.get("a"), backend.get("b")) == (b"taken", b"bytes")

    def test_another_backend_copies_it(self, backend: LocalBackend, tmp_path: Path) -> None:
        other = LocalBackend(tmp_path / "other")
        with backend.stage(tmp_path) as staged:
            staged.write(b"bytes")
            other.put("k", staged)
        assert other.get("k") == b"bytes"

    def test_staging_for_nothing_leaves_nothing(self, tmp_path: Path) -> None:
        with LocalBackend(tmp_path / "new").stage(tmp_path) as staged:
            staged.write(b"bytes")
        assert list(tmp_path.iterdir()) == []


def test_ranges_are_read_at_once_from_a_disk_and_from_nothing_else(
    tmp_path: Path, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more files than may be open together, and without a thread."""
    keys = [f"f/{number}" for number in range(100)]
    assert backend.get_at_once([("k", 0, 1)]) is None, "there is no folder yet"
    for key in keys:
        backend.put(key, key.encode())
    threads = threading.active_count()
    assert backend.get_at_once([(key, 2, 9) for key in keys]) == [key[2:].encode() for key in keys]
    assert threading.active_count() == threads
    mounts = tmp_path / "mountinfo"
    device = os.stat(backend.root).st_dev
    place = f"27 1 {os.major(device)}:{os.minor(device)} / / rw - "
    monkeypatch.setattr("backends.disks._MOUNTS", mounts)
    for kind in ("nfs4", "fuse.sshfs", "cifs", "9p"):
        mounts.write_text(f"26 1 0:21 / /proc rw shared:13 - proc proc rw\n{place}{kind} there rw\n")
        assert LocalBackend(backend.root).get_at_once([("f/1", 0, 9)]) is None
        assert LocalBackend(backend.root).get_ranges([("f/1", 0, 9)] * 2) == (b"f/1", b"f/1")
    mounts.write_text(f"{place}ext4 /dev/vda rw\n")
    assert LocalBackend(backend.root).get_at_once([("f/1", 0, 9)]) == [b"f/1"]
    mounts.unlink()
    assert LocalBackend(backend.root).get_at_once([("f/1", 0, 9)]) is None
