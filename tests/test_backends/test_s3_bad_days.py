"""S3 on a bad day: connections that break or never come about, and every kind of refusal."""

import asyncio
import socket
import time
from typing import Any

import pytest
from aiohttp.resolver import ThreadedResolver

from backends import obstore, s3_filesystem, s3_place
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.obstore_s3 import ObstoreS3Backend
from backends.retrying import Retry, RetryingBackend
from backends.s3 import S3Backend
from backends.s3_filesystem import _BoundedResolver
from tests.support.s3_stub import CLOSE, Answer, answer, black_hole, refused_port, silence, stub
from tests.support.verbs import shown, verbs

SECRET = "testsecret1234567890"


class TestBadDays:
    kind: type[ObstoreS3Backend | S3Backend] = S3Backend

    def open(self, endpoint: str, **options: object) -> ObstoreS3Backend | S3Backend:
        given: dict[str, Any] = {"key": "k", "secret": SECRET} | options
        return self.kind.from_url(f"s3://bkt/app?endpoint={endpoint}&region=us-east-1", **given)

    def hasty(self, endpoint: str, connect_s: float, read_s: float) -> ObstoreS3Backend | S3Backend:
        """Open it with limits that a test can wait for."""
        return self.open(endpoint, config_kwargs={"connect_timeout": connect_s, "read_timeout": read_s})

    def test_nothing_listens(self) -> None:
        with self.open(refused_port()) as backend:
            for call in verbs(backend).values():
                with pytest.raises(UnavailableError, match="cannot connect to http://127") as caught:
                    call()
                assert not caught.value.reached

    def test_an_unknown_host(self) -> None:
        with self.open("http://no-such-host.invalid") as backend:
            with pytest.raises(UnavailableError, match="cannot connect to http://no-such-host") as caught:
                backend.get("k")
            assert not caught.value.reached

    def test_an_endpoint_that_never_answers_is_given_up_in_time(self) -> None:
        """With the time limits of the default, 5 s to connect and 15 s in all, in a tenth of the time."""
        retry = Retry(connect_s=1.5, first_s=0.02)
        with black_hole() as endpoint, RetryingBackend(self.hasty(endpoint, 0.5, 3), retry) as backend:
            began = time.monotonic()
            with pytest.raises(UnavailableError, match="cannot connect to"):
                backend.head("k")
            assert 0.5 < time.monotonic() - began < 2.9

    def test_an_answer_that_never_comes(self) -> None:
        with silence() as endpoint, self.hasty(endpoint, 1, 0.3) as backend:
            with pytest.raises(
                UnavailableError, match=r"did not answer (get_object in time|a get in time|within)"
            ) as caught:
                backend.get("k")
            assert caught.value.reached

    @pytest.mark.parametrize("verb", ["get", "head", "list", "put", "create", "delete"])
    def test_a_connection_that_breaks_is_not_used_again_in_secret(self, verb: str) -> None:
        """A create that was sent twice would be refused because of itself."""
        with stub([CLOSE]) as service, self.open(service.endpoint) as backend:
            with pytest.raises(UnavailableError) as caught:
                verbs(backend)[verb]()
            assert caught.value.reached
            assert len(service.requests) == 1
            assert sum(backend.stats.requests.values()) == 1

    def test_a_create_whose_answer_was_lost(self) -> None:
        """The retry is refused, the object is read back, and it is ours."""
        ours = answer(200, length=4, headers=["ETag: x", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"])
        part = answer(206, b"mine", headers=["Content-Range: bytes 0-3/4"])
        taken = answer(412, code="PreconditionFailed")
        with stub([CLOSE, taken, part, ours]) as service:
            with RetryingBackend(self.open(service.endpoint), Retry(sleep=lambda _: None)) as backend:
                backend.put("k", b"mine", if_absent=True)
            assert [line.split()[0] for line in service.requests] == ["PUT", "PUT", "GET", "HEAD"]
        part = answer(206, b"his!", headers=["Content-Range: bytes 0-3/4"])
        with (
            stub([CLOSE, taken, part]) as service,
            self.open(service.endpoint) as backend,
            pytest.raises(AlreadyExistsError),
        ):
            RetryingBackend(backend, Retry(sleep=lambda _: None)).put("k", b"mine", if_absent=True)

    def test_a_body_that_ends_too_early(self) -> None:
        short = answer(206, b"12345", length=9, headers=["Content-Range: bytes 0-8/9"])
        with (
            stub([short]) as service,
            self.open(service.endpoint) as backend,
            pytest.raises(UnavailableError, match=r"broke during (get_object|a get)"),
        ):
            backend.get("k", 0, 9)

    def test_a_service_without_ranges(self) -> None:
        with stub([answer(200, b"123456789")]) as service, self.open(service.endpoint) as backend:
            assert backend.get("k") == b"123456789"
            with pytest.raises(UnsupportedError):
                backend.get("k", 2, 4)

    @pytest.mark.parametrize(
        ("given", "kind", "says", "retry_after_s"),
        [
            (answer(503, code="SlowDown", headers=["Retry-After: 7"]), UnavailableError, "503 SlowDown", 7),
            (answer(500, code="InternalError"), UnavailableError, "500 InternalError", None),
            (answer(429, code="TooManyRequests"), UnavailableError, "429", None),
            (answer(502, b"<html>"), UnavailableError, "502", None),
            (answer(409, code="ConditionalRequestConflict"), UnavailableError, "409", None),
            (answer(409, code="OperationAborted"), UnavailableError, "409", None),
            (answer(400, code="RequestTimeout"), UnavailableError, "400 RequestTimeout", None),
            (answer(400, code="BadDigest"), UnavailableError, "400 BadDigest", None),
            (answer(412, code="PreconditionFailed"), AlreadyExistsError, "there is an object already", None),
            (answer(400, code="ExpiredToken"), PermissionDeniedError, "ExpiredToken.*fetch new", None),
            (answer(403, code="RequestTimeTooSkewed"), PermissionDeniedError, "clock of this machine", None),
            (answer(403, code="AccessDenied"), PermissionDeniedError, "s3:PutObject is needed", None),
            (answer(403), PermissionDeniedError, "403", None),
            (answer(501, code="NotImplemented"), UnsupportedError, "501 NotImplemented: scripted", None),
            (answer(400, code="KeyTooLongError"), ConfigError, "KeyTooLongError", None),
            (answer(400, code="InvalidStorageClass"), ConfigError, "InvalidStorageClass", None),
            (answer(400, code="EntityTooLarge"), BackendError, "400 EntityTooLarge: scripted", None),
            (answer(400, b"what is this"), BackendError, "400", None),
        ],
    )
    def test_answers(
        self, given: Answer, kind: type[BackendError], says: str, retry_after_s: float | None
    ) -> None:
        with stub([given]) as service, self.open(service.endpoint) as backend:
            with pytest.raises(kind, match=says) as caught:
                backend.put("k", b"x")
            assert type(caught.value) is kind
            assert caught.value.key == "k"
            known = retry_after_s if self.kind is S3Backend else None
            assert getattr(caught.value, "retry_after_s", None) == known
            assert SECRET not in shown(caught.value)
            assert len(service.requests) == 1

    def test_some_of_many_cannot_be_deleted(self) -> None:
        """The error names the first, a key that is gone already is fine, and the rest is asked for all the same."""
        faults = "".join(
            f"<Error><Key>app/{key}</Key><Code>{code}</Code><Message>no</Message></Error>"
            for key, code in (("0003", "NoSuchKey"), ("0005", "AccessDenied"), ("0007", "InternalError"))
        )
        body = f"<?xml version='1.0'?><DeleteResult>{faults}</DeleteResult>".encode()
        nothing = b"<?xml version='1.0'?><DeleteResult></DeleteResult>"
        with (
            stub([answer(200, body), answer(200, nothing)]) as service,
            self.open(service.endpoint) as backend,
        ):
            with pytest.raises(PermissionDeniedError, match="s3:DeleteObject") as caught:
                backend.delete(f"{number:04}" for number in range(1500))
            assert caught.value.key == "0005"
            assert len(service.requests) == 2


class TestObstoreBadDays(TestBadDays):
    """The same through obstore, which does not tell how long a service asks to wait."""

    kind = ObstoreS3Backend

    @pytest.fixture(autouse=True)
    def _patches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patches = monkeypatch

    def hasty(self, endpoint: str, connect_s: float, read_s: float) -> ObstoreS3Backend | S3Backend:
        self.patches.setattr(obstore, "CONNECT_TIMEOUT_S", connect_s)
        self.patches.setattr(obstore, "READ_TIMEOUT_S", read_s)
        return self.open(endpoint)


def test_time_limits() -> None:
    """The default has two tries in 15 s, either engine."""
    assert Retry().connect_s == 15
    assert s3_place.CONNECT_TIMEOUT_S == obstore.CONNECT_TIMEOUT_S == 5


class Resolver:
    """Finds what a test says, as fast as it says."""

    families: list[socket.AddressFamily]
    takes_s: float = 0

    async def resolve(self, host: str, port: int, family: int) -> list[dict[str, Any]]:
        await asyncio.sleep(self.takes_s)
        return [{"family": family, "host": str(number)} for number, family in enumerate(self.families)]


class TestLookingUp:
    """Each address costs a connect timeout, and a name a lookup, so both are bounded."""

    @pytest.fixture
    def found(self, monkeypatch: pytest.MonkeyPatch) -> Resolver:
        resolver = Resolver()
        monkeypatch.setattr(ThreadedResolver, "resolve", resolver.resolve)
        return resolver

    def test_one_address_a_family(self, found: Resolver) -> None:
        both = (socket.AF_INET6, socket.AF_INET)
        found.families = [both[0]] * 4 + [both[1]] * 4
        answer = asyncio.run(_BoundedResolver().resolve("host", 80))
        assert [(address["family"], address["host"]) for address in answer] == [
            (both[0], "0"),
            (both[1], "4"),
        ]

    def test_a_lookup_that_hangs(self, found: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
        found.takes_s = 5
        monkeypatch.setattr(s3_filesystem, "LOOKUP_TIMEOUT_S", 0.05)
        with pytest.raises(socket.gaierror, match="not found in time"):
            asyncio.run(_BoundedResolver().resolve("host", 80))

    def test_all_together_is_less_than_15_s(self) -> None:
        assert s3_filesystem.LOOKUP_TIMEOUT_S + 2 * s3_place.CONNECT_TIMEOUT_S < 15
