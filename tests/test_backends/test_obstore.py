"""obstore behind the schemes of S3, Google and Azure: when it is asked, and when the scheme's library is in its place."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from backends import Backend, obstore, open_backend
from backends.azure import AzureBackend
from backends.errors import ConfigError, NotFoundError, PermissionDeniedError, UnavailableError
from backends.gcs import GCSBackend
from backends.obstore_azure import ObstoreAzureBackend
from backends.obstore_gcs import ObstoreGCSBackend
from backends.obstore_s3 import ObstoreS3Backend
from backends.retrying import Retry, RetryingBackend
from backends.s3 import S3Backend
from backends.testing import in_child
from tests.servers.azure import AzureServer, azurite
from tests.servers.seaweedfs import S3Server
from tests.servers.webdav import nginx
from tests.support.s3_stub import answer, silence, stub
from tests.support.verbs import shown

KEY = "bm8gcmVhbCBrZXk="


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [
        name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "LITESTREAM_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


class TestChoice:
    @pytest.mark.parametrize(
        ("url", "options", "engine", "library"),
        [
            ("s3://box/app?endpoint=http://127.0.0.1:1", {}, ObstoreS3Backend, S3Backend),
            ("s3://box/app?region=eu-west-1", {}, ObstoreS3Backend, S3Backend),
            ("gs://b/app", {"token": "anon"}, ObstoreGCSBackend, GCSBackend),
            ("gcs://b/app", {"token": "anon"}, ObstoreGCSBackend, GCSBackend),
            ("abs://a@b/app", {"account_key": KEY}, ObstoreAzureBackend, AzureBackend),
            ("az://a@b/app", {"sas_token": "?sv=1&sig=x"}, ObstoreAzureBackend, AzureBackend),
            ("abfs://a@b/app", {"anon": "true"}, ObstoreAzureBackend, AzureBackend),
        ],
    )
    def test_where_it_is_installed(
        self,
        url: str,
        options: dict[str, object],
        engine: type[Backend],
        library: type[Backend],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with open_backend(url, **options) as backend:
            assert type(backend) is engine
        monkeypatch.setitem(sys.modules, "obstore", None)
        with open_backend(url, **options) as backend:
            assert type(backend) is library

    @pytest.mark.parametrize(
        ("query", "options", "environment"),
        [
            ("storageClass=STANDARD_IA", {}, {}),
            ("sseKmsKeyId=x", {}, {}),
            ("signPayload=false", {}, {}),
            ("forcePathStyle=false", {}, {}),
            ("", {"config_kwargs": {"read_timeout": 99}}, {}),
            ("", {"root": "./"}, {}),
            ("", {"root": "/app/"}, {}),
            ("", {"client_kwargs": {"verify": "/some/ca.pem"}}, {}),
            ("", {"s3_additional_kwargs": {"ACL": "private"}}, {}),
            ("", {}, {"AWS_SERVER_SIDE_ENCRYPTION": "AES256"}),
            ("", {}, {"AWS_CONFIG_FILE": "[default]\nca_bundle = /some/ca.pem\n"}),
        ],
    )
    def test_what_it_cannot_do_is_for_the_library(
        self,
        query: str,
        options: dict[str, object],
        environment: Mapping[str, str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        for name, text in environment.items():
            if name == "AWS_CONFIG_FILE":
                (tmp_path / "config").write_text(text)
                text = str(tmp_path / "config")
            monkeypatch.setenv(name, text)
        url = f"s3://box/app?endpoint=http://127.0.0.1:1&region=x&{query}"
        assert type(open_backend(url, **options)) is S3Backend

    @pytest.mark.parametrize(
        "url",
        [
            "s3://box/app",  # no region is known, and obstore does not follow to the right one
            "s3://box/app?region=cn-north-1",
            "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/p/app",
            "gs://b/app?token=anon&requester_pays=true",
            "gs://b/a//b?token=anon",
            "abs://a@b/app",  # the default credential chain
        ],
    )
    def test_places_for_the_library(self, url: str) -> None:
        assert type(open_backend(url)) in (S3Backend, GCSBackend, AzureBackend)

    def test_a_configuration_that_only_names_a_role_and_a_region(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "config").write_text(
            "[profile work]\nregion = eu-west-2\nrole_arn = x\nsource_profile = y\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        backend = open_backend("s3://box/app", profile="work")
        assert isinstance(backend, ObstoreS3Backend)
        assert backend.region == "eu-west-2"
        with pytest.raises(ConfigError, match="typo"):
            open_backend("s3://box/app", profile="typo").get("k")


class TestS3:
    def test_the_environment_says_nothing_that_s3fs_would_not_hear(
        self, s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        with ObstoreS3Backend.from_url(s3_url, **s3_server.options) as backend:
            backend.put("k", b"x")
            assert backend.get("k") == b"x"
            assert [info.key for info in backend.list()] == ["k"]

    def test_the_library_is_not_even_loaded(self, s3_server: S3Server, s3_url: str) -> None:
        """A command that looks, reads and writes a little starts without the time that s3fs takes to load."""
        code = (
            "import sys; from backends import open_backend\n"
            "with open_backend(sys.argv[1]) as backend:\n"
            "    backend.put('a/k', b'x', if_absent=True)\n"
            "    assert backend.head('a/k').size == len(backend.get('a/k')) == len([*backend.list('a/')]) == 1\n"
            "print('s3fs' in sys.modules, 'aiobotocore' in sys.modules)"
        )
        command = [sys.executable, "-c", code, s3_url]
        environment = os.environ | dict(s3_server.environment)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=50, check=True
        )
        assert done.stdout.split() == ["False", "False"]

    def test_a_forked_child_asks_the_library(self, s3_server: S3Server, s3_url: str) -> None:
        with ObstoreS3Backend.from_url(s3_url, **s3_server.options) as backend:
            backend.put("k", b"x")

            def work() -> str:
                assert backend.get("k") == b"x"
                backend.put("of the child", b"x")
                return f"{obstore._Process.obstore_is_dead} {'s3fs' in sys.modules}"

            assert in_child(work) == "True True"
            assert backend.get("of the child") == b"x"
            assert not obstore._Process.obstore_is_dead

    def test_a_service_that_asks_for_patience_is_asked_by_the_library(self) -> None:
        """The first answer's wait is not seen by obstore; the second one's is kept by s3fs, and waited for."""
        slow_down = answer(503, code="SlowDown", headers=["Retry-After: 7"])
        waits: list[float] = []
        with (
            stub([slow_down, slow_down, answer(200, b"123")]) as service,
            ObstoreS3Backend.from_url(
                f"s3://box?endpoint={service.endpoint}", key="k", secret="s"
            ) as backend,
        ):
            patient = RetryingBackend(backend, Retry(sleep=waits.append))
            assert patient.get("k") == b"123"
            assert len(service.requests) == 3
            assert backend.stats.requests == {"get": 3}
        assert waits[0] <= 0.2
        assert waits[1] >= 7

    def test_a_bucket_in_another_region_is_for_the_library(self) -> None:
        with (
            stub([answer(301, code="PermanentRedirect"), answer(200, b"123")]) as service,
            ObstoreS3Backend.from_url(
                f"s3://box?endpoint={service.endpoint}", key="k", secret="s"
            ) as backend,
        ):
            assert backend.get("k") == b"123"
            assert backend.get("k") == b"123"
            assert len(service.requests) == 3

    def test_a_put_whose_answer_it_does_not_understand(self) -> None:
        """It may have landed: the same put is tried again, by the library, and finds its own object."""
        strange = answer(200, headers=[])
        with (
            stub([strange, answer(412, code="PreconditionFailed"), answer(206, b"x", headers=["Content-Range: bytes 0-0/1"]),
                  answer(200, length=1, headers=["Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"])]) as service,
            ObstoreS3Backend.from_url(f"s3://box?endpoint={service.endpoint}", key="k", secret="s") as backend,
        ):  # fmt: skip
            RetryingBackend(backend, Retry(sleep=lambda _: None)).put("k", b"x", if_absent=True)

    def test_an_interrupt_is_noticed(self) -> None:
        """obstore's own blocking calls do not notice one before the answer comes, or the time limit."""
        code = (
            "import signal, sys; from backends.obstore_s3 import ObstoreS3Backend\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a suite in the background ignores it
            "with ObstoreS3Backend.from_url(sys.argv[1], key='k', secret='s') as backend:\n"
            "    print('asking', flush=True); backend.get('k')"
        )
        with silence() as endpoint:
            command = [sys.executable, "-c", code, f"s3://box?endpoint={endpoint}"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stdout
                process.stdout.readline()
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                process.communicate(timeout=20)
                assert time.monotonic() - began < 5
            assert process.returncode in (-signal.SIGINT, 130)


@pytest.mark.parametrize("engine", [S3Backend, ObstoreS3Backend])
def test_certificates(engine: type[Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not trusted is an error that says what to set, and that helps; what answers here is no S3."""
    with nginx(tls=True) as server:
        url = f"s3://box/app?endpoint=https://127.0.0.1:{server.port}&region=x"
        with (
            engine.from_url(url, key="k", secret="s") as backend,
            pytest.raises(ConfigError, match=r"no trusted connection to https://127.*AWS_CA_BUNDLE"),
        ):
            backend.get("k")
        with (
            engine.from_url(f"{url}&skipVerify=true", key="k", secret="s") as backend,
            pytest.raises(PermissionDeniedError, match=r"40[13]"),
        ):
            backend.get("k")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.root.parent / "certificate.pem"))
        with (
            engine.from_url(url, key="k", secret="s") as backend,
            pytest.raises(PermissionDeniedError, match=r"40[13]"),
        ):
            backend.get("k")


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureServer]:
    with azurite("box") as server:
        yield server


class TestAzure:
    def test_logins(self, azure: AzureServer) -> None:
        from tests.test_backends.test_azure import _sas

        url = f"az://{azure.account}@box/{secrets.token_hex(4)}"
        sas = _sas(azure, read=True, write=True, create=True, list=True)
        with (
            ObstoreAzureBackend.from_url(url, endpoint=azure.endpoint, sas_token=sas) as with_sas,
            ObstoreAzureBackend.from_url(url, connection_string=azure.connection_string) as with_string,
        ):
            with_sas.put("k", b"12345", timestamp_ms=1_700_000_000_120)
            assert with_string.get("k", -3) == b"345"
            assert with_string.head("k").timestamp_ms == 1_700_000_000_120
            assert [info.key for info in with_sas.list()] == ["k"]
            assert with_string.stats.requests == {"get": 1, "head": 2}

    def test_a_refused_login_is_told_without_it(self, azure: AzureServer) -> None:
        url = f"az://{azure.account}@box/x"
        for login in (
            {"sas_token": "sv=2024-01-01&sig=S3CRET"},
            {"account_key": KEY},
        ):
            with ObstoreAzureBackend.from_url(url, endpoint=azure.endpoint, **login) as backend:
                for call in (
                    lambda: backend.get("k"),
                    lambda: backend.head("k"),
                    lambda: backend.put("k", b"x"),
                ):
                    with pytest.raises(PermissionDeniedError, match="was tried; set account_key") as caught:
                        call()
                    assert "S3CRET" not in shown(caught.value)
                    assert "sig" not in shown(caught.value)

    def test_a_missing_container(self, azure: AzureServer) -> None:
        with ObstoreAzureBackend.from_url(
            f"az://{azure.account}@nobox/x", endpoint=azure.endpoint, account_key=azure.key
        ) as backend:
            for call in (lambda: backend.get("k"), lambda: backend.head("k"), lambda: backend.put("k", b"x")):
                with pytest.raises(ConfigError, match="no such container"):
                    call()


def test_a_missing_bucket_of_google(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers.gcs import fake_gcs

    with fake_gcs("bkt") as endpoint:
        with ObstoreGCSBackend.from_url("gs://nobkt/x", endpoint=endpoint) as backend:
            for call in (lambda: backend.get("k"), lambda: backend.head("k")):
                with pytest.raises(ConfigError, match="there is no such bucket"):
                    call()
        with ObstoreGCSBackend.from_url("gs://bkt/x", endpoint=endpoint) as backend:
            for _ in range(3):
                with pytest.raises(NotFoundError):
                    backend.get("k")
    with (
        ObstoreGCSBackend.from_url("gs://bkt/x", endpoint=endpoint) as backend,
        pytest.raises(UnavailableError, match=f"cannot connect to {endpoint}") as caught,
    ):
        backend.get("k")
    assert not caught.value.reached
