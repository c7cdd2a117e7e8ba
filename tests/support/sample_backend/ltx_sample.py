"""Somebody else's package: a backend that this project has never heard of, found by its entry point."""

from backends.memory import MemoryBackend

__all__ = ["SampleBackend"]


class SampleBackend(MemoryBackend):
    """Objects in memory, under a scheme of its own."""

    scheme = "sample"
