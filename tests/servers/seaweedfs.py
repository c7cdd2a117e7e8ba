"""SeaweedFS: a real S3 service that checks signatures, with one identity that may write and one that may not."""

import contextlib
import json
import secrets
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.servers.daemon import daemon, private_folder, program

__all__ = ["S3Server", "seaweedfs"]

_KEY, _SECRET = "testkey", "testsecret1234567890"
_READER_KEY, _READER_SECRET = "rokey", "rosecret123456"
_SERVICES = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True)
class S3Server:
    """A running service with one bucket.

    Attributes:
        endpoint: URL on loopback.
        bucket: A bucket that exists.
    """

    endpoint: str
    bucket: str = "bucket"

    @property
    def options(self) -> dict[str, object]:
        """Options of the identity that may do all."""
        return {"key": _KEY, "secret": _SECRET}

    @property
    def reader_options(self) -> dict[str, object]:
        """Options of the identity that may read and list."""
        return {"key": _READER_KEY, "secret": _READER_SECRET}

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program needs in its environment; with AWS_CA_BUNDLE beside it the real Litestream fails."""
        return {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET}

    def url(self, path: str = "") -> str:
        """Return the URL of a path in the bucket, of a new one where none is named."""
        return f"s3://{self.bucket}/{path or secrets.token_hex(6)}?endpoint={self.endpoint}&region=us-east-1"

    @cached_property
    def client(self) -> Any:
        """A client of another library, to look past ours."""
        import boto3  # takes a while, and most tests do without
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


@contextlib.contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """Start SeaweedFS with an empty bucket."""
    with private_folder() as folder, contextlib.ExitStack() as stack:
        ports = {
            f"{name}.port{kind}": port
            for (name, kind), port in zip(_listeners(), _free_ports(11), strict=True)
        }
        for name in _SERVICES:  # it leaves these behind, wherever TMPDIR points
            leftover = Path(tempfile.gettempdir(), f"seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock")
            stack.callback(leftover.unlink, missing_ok=True)
        (folder / "data").mkdir()
        (folder / "s3.json").write_text(json.dumps({"identities": list(_identities())}))
        arguments = [
            "-logtostderr=true", "mini", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-admin.ui=false", f"-filer.localSocket={folder}/filer.sock",
            f"-s3.localSocket={folder}/s3.sock", f"-s3.config={folder}/s3.json", "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        server = S3Server(f"http://127.0.0.1:{ports['s3.port']}")
        with daemon([program("weed"), *arguments], folder, port=ports["s3.port"], health="/healthz"):
            _wait_for_volume(ports["master.port"])
            server.client.create_bucket(Bucket=server.bucket)
            yield server
            server.client.close()


def _listeners() -> Iterator[tuple[str, str]]:
    for name in _SERVICES:
        yield name, ""
        yield name, ".grpc"
    yield "webdav", ""


def _identities() -> Iterator[dict[str, object]]:
    for name, key, secret, actions in (
        ("writer", _KEY, _SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
        ("reader", _READER_KEY, _READER_SECRET, ["Read", "List"]),
    ):
        yield {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens, no two the same."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_for_volume(port: int) -> None:
    """Wait until an object can be placed: the service answers a little earlier."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/dir/assign", timeout=2) as answer:
                if "fid" in json.load(answer):
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
