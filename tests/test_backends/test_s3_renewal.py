"""Session tokens that end while a backend is open: the next request carries new ones, and none is refused."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.credentials import RefreshableCredentials

from backends import Backend
from backends.errors import PermissionDeniedError
from backends.obstore_s3 import ObstoreS3Backend
from backends.s3 import S3Backend
from tests.support.temporary_keys import TemporaryKeys, temporary_keys
from tests.support.verbs import shown

engines = pytest.mark.parametrize("engine", [S3Backend, ObstoreS3Backend])


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TemporaryKeys]:
    """Keys for 3 s, renewed as botocore renews those of hours: a little before they end (half a second, not 15 minutes)."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "LITESTREAM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(RefreshableCredentials, "_advisory_refresh_timeout", 0.5)
    monkeypatch.setattr(RefreshableCredentials, "_mandatory_refresh_timeout", 0.25)
    with temporary_keys(3) as services:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{services.port}/keys")
        yield services


@engines
def test_renewed_while_open(engine: type[Backend], keys: TemporaryKeys) -> None:
    url = f"s3://bucket/app?endpoint=http://127.0.0.1:{keys.port}&region=eu-west-1"
    with engine.from_url(url) as backend:
        backend.put("k", b"12345")
        assert backend.get("k") == b"12345"
        assert keys.used == ["ASIAKEY0"] * 2
        time.sleep(3.1)
        assert backend.get("k") == b"12345"
        backend.put("k", b"later")
        assert backend.get("k") == b"later"
    assert keys.used == ["ASIAKEY0"] * 2 + ["ASIAKEY1"] * 3
    assert keys.refused == []


@engines
def test_not_renewable_any_more(
    engine: type[Backend], keys: TemporaryKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of the environment stay what they are: when they end, one line says so, without them."""
    keys.give()
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAKEY0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret of ASIAKEY0")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token of ASIAKEY0")
    url = f"s3://bucket/app?endpoint=http://127.0.0.1:{keys.port}&region=eu-west-1"
    with engine.from_url(url) as backend:
        backend.put("k", b"12345")
        time.sleep(3.1)
        with pytest.raises(
            PermissionDeniedError, match=r"ExpiredToken.*the session token has expired"
        ) as caught:
            backend.get("k")
    assert keys.refused == ["ExpiredToken"]
    assert "secret of" not in shown(caught.value)
    assert "token of" not in shown(caught.value)
