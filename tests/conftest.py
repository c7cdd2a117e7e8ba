"""Hypothesis profiles and the servers that several test folders share."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers.seaweedfs import S3Server, seaweedfs

pytest.register_assert_rewrite("backends.testing")

# A suite that a shell runs in the background ignores Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=500, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 service with one bucket."""
    with seaweedfs() as server:
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server) -> str:
    """A place on it that nobody used before; it is opened with `s3_server.options`."""
    return s3_server.url()
