"""Actions that may end in a refusal, and in nothing worse."""

from collections.abc import Callable
from typing import TypeVar

from ltx.errors import CorruptError

__all__ = ["tried"]

_T = TypeVar("_T")


def tried(action: Callable[[], _T]) -> tuple[_T | None, CorruptError | None]:
    """Return what an action gives, or the error with which it refused; any other error passes through."""
    try:
        return action(), None
    except CorruptError as error:
        return None, error
