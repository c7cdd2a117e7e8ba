"""A server that takes the connection and says nothing: given up within 15 s, whatever is asked, over every network."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends import Backend, open_backend, patience
from backends.azure import AzureBackend
from backends.errors import UnavailableError
from backends.gcs import GCSBackend
from backends.obstore_azure import ObstoreAzureBackend
from backends.obstore_gcs import ObstoreGCSBackend
from backends.obstore_s3 import ObstoreS3Backend
from backends.retrying import Retry, RetryingBackend
from backends.s3 import S3Backend
from tests.servers.faults import Fault, faulty_proxy
from tests.servers.seaweedfs import S3Server
from tests.support.s3_stub import answer, silence, stub

KEY = "bm8gcmVhbCBrZXk="


def _backends(endpoint: str) -> Mapping[str, Callable[[], Backend]]:
    """Return how to open each kind of storage, as if this were its server."""
    host = endpoint.removeprefix("http://")
    s3 = f"s3://bkt/app?endpoint={endpoint}&region=x"
    azure = f"az://account@box/app?endpoint={endpoint}/account"
    return {
        "s3": lambda: S3Backend.from_url(s3, key="k", secret="s"),
        "s3 fast": lambda: ObstoreS3Backend.from_url(s3, key="k", secret="s"),
        "gs": lambda: GCSBackend.from_url("gs://bkt/app", endpoint=endpoint),
        "gs fast": lambda: ObstoreGCSBackend.from_url("gs://bkt/app", endpoint=endpoint),
        "az": lambda: AzureBackend.from_url(azure, account_key=KEY),
        "az fast": lambda: ObstoreAzureBackend.from_url(azure, account_key=KEY),
        "webdav": lambda: open_backend(f"webdav://{host}/app"),
        "webdav with a login": lambda: open_backend(f"webdav://user:word@{host}/app"),
        "sftp": lambda: open_backend(f"sftp://{host}/app"),
    }


def _calls(backend: Backend) -> Mapping[str, Callable[[], object]]:
    return {
        "get": lambda: backend.get("k"),
        "range": lambda: backend.get("k", 0, 5),
        "ranges": lambda: backend.get_ranges([("k", 0, 5), ("k", 7, 9)]),
        "head": lambda: backend.head("k"),
        "list": lambda: list(backend.list()),
        "put": lambda: backend.put("k", b"x"),
        "delete": lambda: backend.delete(["k"]),
    }


def _seconds_to_fail(endpoint: str, kind: str, verb: str) -> float:
    with RetryingBackend(_backends(endpoint)[kind]()) as backend:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=endpoint.removeprefix("http://")):
            _calls(backend)[verb]()
        return time.monotonic() - began


@pytest.fixture
def silent() -> Iterator[str]:
    with silence() as endpoint:
        yield endpoint


def test_every_network_gives_up_a_silent_server(silent: str, tmp_path: Path) -> None:
    """With the limits as they are, everything at the same time: each within 15 s, or what a busy machine makes of them."""
    jobs = [(kind, verb) for kind in _backends(silent) for verb in ("list", "get", "put")]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
    }
    url = f"s3://bkt/app?endpoint={silent}&region=x"
    command = [sys.executable, "-c", "from ltx.cli import main; raise SystemExit(main())", "list", url]
    began = time.monotonic()
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(len(jobs)) as pool,
    ):
        taken = dict(zip(jobs, pool.map(lambda job: _seconds_to_fail(silent, *job), jobs), strict=True))
        said = process.communicate(timeout=40)[1]
        took = time.monotonic() - began
    assert {job: round(seconds) for job, seconds in taken.items() if seconds > 18} == {}
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert silent in said
    assert took < 25


@pytest.mark.parametrize(
    "kind", [kind for kind in _backends("") if kind != "sftp"]
)  # which has one limit for all
def test_the_limit_is_one_and_only_for_the_first_answer(
    silent: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_ANSWER_S", 0.3)
    retry = Retry(tries=2, connect_s=0.5, first_s=0.01)
    for verb in _calls(_backends(silent)[kind]()):
        with RetryingBackend(_backends(silent)[kind](), retry) as backend:
            began = time.monotonic()
            with pytest.raises(UnavailableError) as caught:
                _calls(backend)[verb]()
            assert caught.value.silent, verb
            assert time.monotonic() - began < 5, verb


@pytest.mark.parametrize("engine", [S3Backend, ObstoreS3Backend])
def test_a_service_that_has_answered_may_take_its_time(
    engine: type[Backend], s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_ANSWER_S", 0.5)
    with faulty_proxy(int(s3_server.endpoint.rpartition(":")[2])) as proxy:
        url = s3_url.replace(s3_server.endpoint, f"http://127.0.0.1:{proxy.port}")
        with engine.from_url(url, **s3_server.options) as backend:
            backend.put("k", b"x")
            proxy.faults.append(Fault("GET", action="pause"))
            assert backend.get("k") == b"x"


@pytest.mark.parametrize("engine", [S3Backend, ObstoreS3Backend])
def test_a_refusal_is_an_answer(engine: type[Backend]) -> None:
    with stub([answer(503, code="SlowDown")]) as service:
        url = f"s3://bkt/app?endpoint={service.endpoint}&region=x"
        with engine.from_url(url, key="k", secret="s") as backend, pytest.raises(UnavailableError) as caught:
            backend.get("k")
    assert not caught.value.silent
