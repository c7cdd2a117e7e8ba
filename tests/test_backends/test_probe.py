"""What a probe finds out: on real servers, on storages that do not keep their word, and that it leaves nothing."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from backends import (
    Backend,
    Capabilities,
    Data,
    ObjectInfo,
    PermissionDeniedError,
    UnavailableError,
    open_backend,
)
from backends.base import cut
from backends.errors import AlreadyExistsError
from backends.memory import MemoryBackend
from backends.probe import ProbeReport, probe
from backends.testing import Fault, FaultyBackend, ScriptedFaults
from tests.servers.azure import azurite
from tests.servers.gcs import fake_gcs
from tests.servers.seaweedfs import S3Server
from tests.servers.sftp import sshd
from tests.servers.webdav import apache


def results(report: ProbeReport) -> dict[str, str]:
    return {check.name: check.result for check in report.checks}


def differing(report: ProbeReport) -> dict[str, str]:
    return {name: result for name, result in results(report).items() if result != "ok"}


def check_clean(backend: Backend, report: ProbeReport) -> None:
    assert report.left == ()
    assert list(backend.list()) == []


@pytest.fixture
def memory() -> MemoryBackend:
    return MemoryBackend(secrets.token_hex(6))


class TestStorages:
    def test_memory(self, memory: MemoryBackend) -> None:
        report = probe(memory)
        assert differing(report) == {"mark exclusively": "no"}
        assert (report.quirks, report.clock_difference_s) == ([], 0)
        assert report.is_usable
        assert report.verdict == "everything that replication needs works here"
        assert all(
            check.took_ms is not None and check.took_ms < 1000
            for check in report.checks
            if check.result == "ok"
        )
        check_clean(memory, report)

    def test_a_folder(self, tmp_path: Path) -> None:
        with open_backend(str(tmp_path / "a root")) as backend:
            report = probe(backend)
            assert differing(report) == {"mark exclusively": "no"}
            assert report.clock_difference_s == 0
        assert list((tmp_path / "a root").iterdir()) == []

    def test_what_lies_there_is_not_touched(self, memory: MemoryBackend) -> None:
        memory.put("ltx/0/0000000000000001-0000000000000001.ltx", b"precious")
        before = list(memory.list())
        assert probe(memory).is_usable
        assert list(memory.list()) == before

    @pytest.mark.parametrize("url", ["local://{}", "simplecache::memory://{}"])
    def test_the_generic_one(self, url: str, tmp_path: Path) -> None:
        with open_backend(url.format(tmp_path / "root")) as backend:
            report = probe(backend)
            found = differing(report)
            assert found.pop("replace at once", "no") == "no"
            assert found == dict.fromkeys(
                ["create exclusively", "mark exclusively", "keep a timestamp"], "no"
            )
            assert any("no exclusive create" in quirk for quirk in report.quirks)
            assert report.is_usable
            check_clean(backend, report)

    def test_s3(self, s3_server: S3Server, s3_url: str) -> None:
        with open_backend(s3_url, **s3_server.options) as backend:
            report = probe(backend)
            assert differing(report) == {"mark exclusively": "no"}
            assert report.clock_difference_s == 0
            check_clean(backend, report)

    def test_webdav(self) -> None:
        with apache() as server, open_backend(f"{server.url}/app") as backend:
            report = probe(backend)
            assert differing(report) == dict.fromkeys(
                ["create exclusively", "keep a timestamp", "replace at once"], "no"
            )
            check_clean(backend, report)
            assert list((server.root / "app").iterdir()) == []

    def test_gcs(self) -> None:
        with fake_gcs("bkt") as endpoint, open_backend("gs://bkt/app", endpoint=endpoint) as backend:
            report = probe(backend)
            assert differing(report) == {"mark exclusively": "no"}
            check_clean(backend, report)

    def test_azure(self) -> None:
        with azurite("box") as server:
            url = f"abs://{server.account}@box/app?endpoint={server.endpoint}"
            with open_backend(url, account_key=server.key) as backend:
                report = probe(backend)
                assert differing(report) == {"mark exclusively": "no"}
                check_clean(backend, report)

    def test_sftp(self) -> None:
        with sshd() as server:
            url = f"sftp://{server.user}@127.0.0.1:{server.port}{quote(str(server.folder / 'app'))}"
            options = {"key_path": server.key_path, "host_key": server.host_key}
            with open_backend(url, **options) as backend:
                report = probe(backend)
                assert differing(report) == {"mark exclusively": "no"}
                assert "in steps of 1000 ms" in [check.detail for check in report.checks]
                check_clean(backend, report)
            assert [path.name for path in (server.folder / "app").iterdir()] == [".ltx-doctor"]


class TestWhoMayNot:
    def test_write(self, s3_server: S3Server, s3_url: str) -> None:
        with open_backend(s3_url, **s3_server.reader_options) as backend:
            report = probe(backend)
        assert results(report)["list"] == "ok"
        assert results(report)["write"] == "failed"
        assert set([*results(report).values()][2:]) == {"skipped"}
        assert report.verdict == (
            "it can be listed but not written with these rights: restore and query work, replication does not; "
            "allow writing"
        )
        assert report.left == ()

    def test_list(self, s3_server: S3Server, s3_url: str) -> None:
        with open_backend(s3_url, key="nobody", secret="wrong") as backend:
            report = probe(backend)
        assert results(report)["list"] == "failed"
        assert "do not allow listing" in report.verdict

    def test_delete(self, memory: MemoryBackend) -> None:
        with deaf(memory, lambda: PermissionDeniedError("no deletes", key="k")):
            report = probe(memory)
        assert differing(report)["delete"] == "failed"
        assert report.verdict.startswith("these credentials may not delete, so the replica only grows; ")
        assert len(report.left) > 5
        memory.delete(report.left)


@contextmanager
def deaf(memory: MemoryBackend, error: Callable[[], Exception]) -> Iterator[None]:
    """Let every delete fail."""

    def delete(keys: Iterable[str]) -> None:
        raise error()

    memory.delete = delete  # type: ignore[method-assign]
    try:
        yield
    finally:
        del memory.delete


class Overwriting(MemoryBackend):
    """Says that it creates exclusively, and ignores the condition."""

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        super().put(key, data, timestamp_ms=timestamp_ms)


class LookingFirst(MemoryBackend):
    """Looks, and then writes: two at once are both told that they won."""

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        if if_absent:
            if key in self._store.objects:
                raise AlreadyExistsError(f"{key} exists", key=key)
            time.sleep(0.02)
        super().put(key, data, timestamp_ms=timestamp_ms)


class RefusingAll(MemoryBackend):
    """Refuses every creation in a race, the one that it carried out too."""

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        super().put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)
        if "raced" in key:
            raise AlreadyExistsError(f"{key} exists", key=key)


class Tearing(MemoryBackend):
    """Writes big objects in two halves."""

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        whole = b"".join(cut(data, 1 << 20))
        if len(whole) > 100_000:
            super().put(key, whole[:1000])
            time.sleep(0.01)
        super().put(key, whole, if_absent=if_absent, timestamp_ms=timestamp_ms)


class Timeless(MemoryBackend):
    """Says that it keeps timestamps."""

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        super().put(key, data, if_absent=if_absent)


class Ahead(MemoryBackend):
    """Its clock is two hours ahead."""

    def head(self, key: str) -> ObjectInfo:
        return replace(super().head(key), modified=datetime.now(UTC) + timedelta(hours=2))


class Marking(MemoryBackend):
    """Gives a marker to everybody."""

    capabilities = Capabilities(put_if_absent=True, timestamps=True, atomic_put=True, exclusive_marker=True)

    def mark(self, key: str) -> None:
        pass

    def unmark(self, key: str) -> None:
        pass


class TestLies:
    @pytest.mark.parametrize(
        ("kind", "check", "seen"),
        [
            (Overwriting, "create exclusively", "the condition is ignored"),
            (LookingFirst, "create exclusively", "writers at once were told that they created"),
            (RefusingAll, "create exclusively", "was told that another one created"),
            (Tearing, "replace at once", "saw a part of it"),
            (Timeless, "keep a timestamp", "came back as None"),
            (Marking, "mark exclusively", "8 of 8 callers"),
        ],
    )
    def test_what_a_backend_claims(self, kind: type[MemoryBackend], check: str, seen: str) -> None:
        backend = kind(secrets.token_hex(6))
        report = probe(backend)
        assert {name for name, result in results(report).items() if result == "failed"} == {check}
        assert any(seen in quirk for quirk in report.quirks)
        needed = check not in ("keep a timestamp", "mark exclusively")
        assert report.is_usable is not needed
        if needed:
            assert "; " in report.verdict
        check_clean(backend, report)

    @pytest.mark.parametrize(
        ("fault", "check"),
        [
            (Fault("get", 0, "short"), "read after write"),
            (Fault("list", 5, "stale"), "list after write"),
            (Fault("list", 5, "lost"), "list after write"),
            (Fault("put", 2, "error"), "write"),
            (Fault("get", 8, "lost"), "read a range"),
            (Fault("delete", 1, "forgotten"), "delete"),
            (Fault("delete", 1, "error"), "delete"),
        ],
    )
    def test_what_fails(self, memory: MemoryBackend, fault: Fault, check: str) -> None:
        backend = FaultyBackend(memory, ScriptedFaults(fault))
        report = probe(backend)
        assert backend.injected
        assert results(report)[check] == "failed"
        assert not report.is_usable
        check_clean(memory, report)

    def test_a_clock_that_differs(self) -> None:
        report = probe(Ahead(secrets.token_hex(6)))
        assert report.clock_difference_s
        assert 7190 < report.clock_difference_s < 7201
        assert any("ahead of ours" in quirk for quirk in report.quirks)
        assert report.is_usable

    def test_capabilities_that_change(self) -> None:
        class Learning(MemoryBackend):
            def put(self, key: str, data: Data, **options: object) -> None:
                self.capabilities = replace(self.capabilities, atomic_put=False)
                super().put(key, data, **options)  # type: ignore[arg-type]

        report = probe(Learning(secrets.token_hex(6)))
        assert report.quirks[0] == "atomic_put was True at first, and False after the first writes"


class TestCleaningUp:
    @pytest.mark.parametrize("number", [1, 3, 5, 9, 20, 33])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, UnavailableError, MemoryError])
    def test_it_leaves_nothing_wherever_it_ends(
        self, memory: MemoryBackend, number: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left, lock, put = number, threading.Lock(), memory.put

        def fail(key: str, data: Data, **options: object) -> None:
            nonlocal left
            put(key, data, **options)  # type: ignore[arg-type]
            with lock:
                left -= 1
            if left == 0:
                raise error("here")

        monkeypatch.setattr(memory, "put", fail)
        with suppress(KeyboardInterrupt, MemoryError):
            probe(memory)
        assert list(memory.list()) == []

    def test_it_says_what_it_could_not_delete(self, memory: MemoryBackend) -> None:
        with deaf(memory, lambda: UnavailableError("gone")):
            report = probe(FaultyBackend(memory, ScriptedFaults()))
        assert sorted(info.key for info in memory.list()) == list(report.left)
        assert not report.is_usable

    def test_its_names_are_its_own(self, memory: MemoryBackend) -> None:
        seen: list[str] = []
        backend = FaultyBackend(memory, ScriptedFaults(Fault("delete", 0, "forgotten")))
        seen += probe(backend).left
        seen += probe(backend).left
        assert len(set(seen)) == len(list(memory.list()))
        assert all(key.startswith(".ltx-doctor") for key in seen)


def test_the_report_as_json(memory: MemoryBackend) -> None:
    entry = probe(memory).as_dict()
    assert [*entry] == [
        "url", "usable", "verdict", "checks", "capabilities", "quirks", "clock_difference_s", "left",
    ]  # fmt: skip
    assert isinstance(entry["capabilities"], Mapping)
