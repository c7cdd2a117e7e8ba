"""What only S3 has: requests that cost money, parts, metadata, refusals, and connections that break."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import (
    AlreadyExistsError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from backends.obstore_s3 import ObstoreS3Backend
from backends.s3 import S3Backend
from backends.s3_protocol import begin_early
from backends.testing import BrokenFile, content
from tests.servers.seaweedfs import S3Server
from tests.support.verbs import shown, verbs

MIB = 1 << 20


Engine = S3Backend | ObstoreS3Backend


@pytest.fixture(params=[S3Backend, ObstoreS3Backend])
def kind(request: pytest.FixtureRequest) -> type[Engine]:
    """Either engine behind the scheme."""
    found: type[Engine] = request.param
    return found


@pytest.fixture
def either(kind: type[Engine], s3_server: S3Server, s3_url: str) -> Iterator[Engine]:
    with kind.from_url(s3_url, **s3_server.options) as backend:
        yield backend


@pytest.fixture
def backend(s3_server: S3Server, s3_url: str) -> Iterator[S3Backend]:
    with S3Backend.from_url(s3_url, **s3_server.options) as backend:
        yield backend


class TestRequests:
    def test_each_verb(self, either: Engine) -> None:
        """A listing with an empty object in it is asked of s3fs again: obstore would list a folder's marker as that."""
        either.put("a", b"12345")
        either.put("b", b"", if_absent=True, timestamp_ms=1)
        either.get("a")
        either.get("a", 1, 3)
        either.get("a", -2)
        either.head("a")
        list(either.list())
        either.delete(["a", "b", "c"])
        lists = 1 if isinstance(either, S3Backend) else 2
        assert either.stats.requests == {"put": 2, "get": 3, "head": 1, "list": lists, "delete": 1}
        assert (either.stats.sent, either.stats.received) == (5, 5 + 2 + 2)

    def test_parts(self, either: Engine) -> None:
        either.put("a", content(17 * MIB))
        assert either.stats.requests == {
            "create_multipart_upload": 1,
            "upload_part": 3,
            "complete_multipart_upload": 1,
        }
        assert either.stats.sent == 17 * MIB

    def test_many_keys(self, either: Engine) -> None:
        keys = [f"{number:04}" for number in range(1200)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: either.put(key, b"x"), keys))
        assert [info.key for info in either.list()] == keys
        assert either.stats.requests["list"] == 2
        assert [info.key for info in either.list(start_after="1000")] == keys[1001:]
        assert either.stats.requests["list"] == 3
        either.delete(keys)
        assert either.stats.requests["delete"] == 2
        assert list(either.list()) == []

    def test_a_missing_key_is_told_from_a_missing_bucket_once(self, either: Engine) -> None:
        for _ in range(3):
            with pytest.raises(NotFoundError):
                either.head("missing")
        assert either.stats.requests == {"head": 3, "get": 1}


class TestMetadata:
    @pytest.mark.parametrize(
        ("timestamp_ms", "text"),
        [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_120, "2023-11-14T22:13:20.12Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20Z"),
        ],
    )
    def test_timestamp_as_litestream_writes_it(
        self, either: Engine, s3_server: S3Server, timestamp_ms: int, text: str
    ) -> None:
        for data in (b"small", bytes(9 * MIB)) if timestamp_ms else (b"small",):
            either.put("k", data, timestamp_ms=timestamp_ms)
            found = s3_server.client.head_object(Bucket=s3_server.bucket, Key=f"{either.place.root}k")
            assert found["Metadata"] == {"litestream-timestamp": text}

    def test_timestamp_of_theirs(self, either: Engine, s3_server: S3Server) -> None:
        for text, timestamp_ms in (("2026-01-05T10:00:00.123456789Z", 1_767_607_200_123), ("nonsense", None)):
            s3_server.client.put_object(
                Bucket=s3_server.bucket,
                Key=f"{either.place.root}k",
                Body=b"x",
                Metadata={"litestream-timestamp": text},
            )
            assert either.head("k").timestamp_ms == timestamp_ms

    def test_names_that_are_no_keys_are_not_listed(self, either: Engine, s3_server: S3Server) -> None:
        for name in ("folder/", "folder/k", "dot."):
            s3_server.client.put_object(Bucket=s3_server.bucket, Key=either.place.root + name, Body=b"")
        assert [info.key for info in either.list()] == ["folder/k"]


class TestParts:
    def uploads(self, backend: S3Backend, server: S3Server) -> list[Any]:
        found = server.client.list_multipart_uploads(Bucket=server.bucket, Prefix=backend.place.root)
        return found.get("Uploads") or []

    def test_a_broken_source_leaves_no_parts(self, backend: S3Backend, s3_server: S3Server) -> None:
        with pytest.raises(RuntimeError, match="the source broke"):
            backend.put("k", cast(BinaryIO, BrokenFile(40 * MIB)))
        assert backend.stats.requests["abort_multipart_upload"] == 1
        assert backend.stats.requests["upload_part"] >= 1
        assert self.uploads(backend, s3_server) == []
        assert list(backend.list()) == []

    def test_a_broken_source_of_an_exclusive_create(self, backend: S3Backend) -> None:
        with pytest.raises(RuntimeError, match="the source broke"):
            backend.put("k", cast(BinaryIO, BrokenFile(40 * MIB)), if_absent=True)
        assert list(backend.list()) == []

    def test_a_taken_key_leaves_no_parts(self, s3_server: S3Server, s3_url: str) -> None:
        """As on AWS, where the condition stands on the request that completes the parts."""
        place = s3_url.partition("?")[0]
        client = {"endpoint_url": s3_server.endpoint, "region_name": "us-east-1"}
        with S3Backend.from_url(place, **s3_server.options, client_kwargs=client) as backend:
            first = content(9 * MIB)
            backend.put("k", first, if_absent=True)
            with pytest.raises(AlreadyExistsError):
                backend.put("k", bytes(9 * MIB), if_absent=True)
            assert backend.get("k") == first
            assert backend.stats.requests["abort_multipart_upload"] == 1
            assert self.uploads(backend, s3_server) == []

    def test_a_part_is_sent_again(self, backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        failed: list[str] = []
        send = backend._call

        def call(key: str | None, operation: str, **params: object) -> dict[str, Any]:
            if operation == "upload_part" and params["PartNumber"] == 2 and not failed:
                failed.append(operation)
                raise UnavailableError("a bad moment", key=key)
            return send(key, operation, **params)

        monkeypatch.setattr(backend, "_call", call)
        data = content(20 * MIB)
        backend.put("k", data)
        assert failed
        assert backend.get("k") == data

    def test_memory_does_not_grow_with_the_file(
        self, s3_server: S3Server, s3_url: str, tmp_path: Path
    ) -> None:
        """In parts and whole: 128 MiB take no more than 16 MiB do, give or take the parts under way."""
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(128 * MIB)
        grown = _run(_MEMORY, s3_url, str(path), **_environment(s3_server))
        assert max(map(int, grown.split())) < 64 << 10, f"KiB: {grown}"


_MEMORY = """
import io, resource, sys
from backends.s3 import S3Backend
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with S3Backend.from_url(sys.argv[1]) as backend, open(sys.argv[2], "rb") as file:
    backend.put("warm", bytes(1 << 20))
    base = peak()
    backend.put("whole", file, if_absent=True)
    whole = peak()
    backend.put("parts", file)
    print(whole - base, peak() - base)
"""


def _environment(server: S3Server, **more: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "LITESTREAM_"))}
    return kept | dict(server.environment) | {"AWS_EC2_METADATA_DISABLED": "true"} | more


def _run(code: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "code"),
        [
            ({"key": "testkey", "secret": "S3CRET"}, "SignatureDoesNotMatch"),
            ({"key": "AKIDOFNOBODY", "secret": "S3CRET"}, "InvalidAccessKeyId"),
        ],
    )
    def test_wrong_credentials(
        self, kind: type[Engine], s3_url: str, options: dict[str, object], code: str
    ) -> None:
        with kind.from_url(s3_url, **options) as backend:
            for verb, call in verbs(backend).items():
                with pytest.raises(PermissionDeniedError, match=f"{code}.*AWS_SECRET_ACCESS_KEY") as caught:
                    call()
                assert "S3CRET" not in shown(caught.value), verb
                assert "http://127.0.0.1:" in str(caught.value)

    def test_an_identity_that_may_read(
        self, kind: type[Engine], s3_server: S3Server, s3_url: str, either: Engine
    ) -> None:
        either.put("k", b"readable")
        with kind.from_url(s3_url, **s3_server.reader_options) as reader:
            assert reader.get("k") == b"readable"
            assert reader.head("k").size == 8
            assert [info.key for info in reader.list()] == ["k"]
            for verb, right in (
                ("put", "s3:PutObject"),
                ("parts", "s3:PutObject"),
                ("delete", "s3:DeleteObject"),
            ):
                with pytest.raises(
                    PermissionDeniedError, match=f"AccessDenied.*{right} is needed on s3://"
                ) as caught:
                    verbs(reader)[verb]()
                assert caught.value.key == "k"
        assert either.get("k") == b"readable"

    def test_a_missing_bucket(self, kind: type[Engine], s3_server: S3Server) -> None:
        for verb in ("get", "range", "head", "list", "put", "create", "parts", "delete"):
            url = s3_server.url("a").replace("s3://bucket/", "s3://nobucket/")
            with (
                kind.from_url(url, **s3_server.options) as backend,
                pytest.raises(ConfigError, match="bucket nobucket does not exist at http://127"),
            ):
                verbs(backend)[verb]()

    def test_no_credentials(
        self, kind: type[Engine], s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in [name for name in os.environ if name.startswith(("AWS_", "LITESTREAM_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with (
            kind.from_url(s3_url) as backend,
            pytest.raises(PermissionDeniedError, match="set AWS_ACCESS_KEY_ID"),
        ):
            backend.get("k")

    def test_a_profile(
        self,
        kind: type[Engine],
        s3_server: S3Server,
        s3_url: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        keys = s3_server.environment
        (tmp_path / "credentials").write_text(
            f"[work]\naws_access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        with kind.from_url(s3_url, profile="work") as backend:
            backend.put("k", b"x")
        with kind.from_url(f"{s3_url}&profile=work") as backend:
            assert backend.get("k") == b"x"
        with kind.from_url(s3_url, profile="typo") as backend, pytest.raises(ConfigError, match="typo"):
            backend.get("k")

    def test_credentials_in_the_environment(
        self, kind: type[Engine], s3_server: S3Server, s3_url: str
    ) -> None:
        """Ours and Litestream's names; the machine's AWS_CA_BUNDLE does not matter on http."""
        engine = f"from {kind.__module__} import {kind.__name__} as Kind"
        code = f"import sys; {engine}; Kind.from_url(sys.argv[1]).put('k', b'x')"
        _run(code, s3_url, **_environment(s3_server))
        theirs = {
            name.replace("AWS_", "LITESTREAM_"): text for name, text in s3_server.environment.items()
        }  # fmt: skip
        bare = {
            name: text for name, text in _environment(s3_server).items() if not name.startswith("AWS_ACC")
        }
        bare.pop("AWS_SECRET_ACCESS_KEY")
        _run(code, s3_url, **bare, **theirs)


LOW_AND_HIGH = st.text("-./0a", min_size=1, max_size=6)


def _folders_first(name: str) -> list[str]:
    return name.split("/")


@given(st.sets(LOW_AND_HIGH, max_size=12), LOW_AND_HIGH)
def test_listing_begins_early_enough(names: set[str], start_after: str) -> None:
    """For a service that goes by bytes, and for one that goes folder by folder and leaves a folder out after its name."""
    keys = {name for name in names if "//" not in name and name.strip("/") == name}
    begin = begin_early(start_after)
    wanted = {key for key in keys if key > start_after}
    assert wanted <= {key for key in keys if key > begin}
    if begin:
        place = _folders_first(begin)
        listed = {
            key
            for key in keys
            if _folders_first(key) > place and (begin.endswith("/") or not key.startswith(f"{begin}/"))
        }
        assert wanted <= listed
