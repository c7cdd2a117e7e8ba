"""Every way to ask a backend for something, and what an error shows of itself."""

import traceback
from collections.abc import Callable

from backends.base import Backend

__all__ = ["shown", "verbs"]


def verbs(backend: Backend) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: backend.get("k"),
        "range": lambda: backend.get("k", 0, 5),
        "head": lambda: backend.head("k"),
        "list": lambda: list(backend.list()),
        "put": lambda: backend.put("k", b"x"),
        "create": lambda: backend.put("k", b"x", if_absent=True),
        "parts": lambda: backend.put("k", bytes(9 << 20)),
        "delete": lambda: backend.delete(["k"]),
    }


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=0)) + repr(error)
