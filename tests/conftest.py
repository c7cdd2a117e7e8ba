"""Hypothesis profiles and the servers that several test folders share."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers.seaweedfs import S3Server, seaweedfs

pytest.register_assert_rewrite("backends.testing")

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
