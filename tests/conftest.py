"""Hypothesis profiles and the servers that several test folders share."""

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("backends.testing")

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=500, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
