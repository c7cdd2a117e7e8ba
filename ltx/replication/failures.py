"""What can go wrong with one database or replica while the others go on, and how it is told."""

import logging
import re

import apsw

from backends import BackendError
from ltx.errors import LTXError

__all__ = ["FAILURES", "describe", "log_failure"]

FAILURES = (LTXError, BackendError, OSError, apsw.Error)
"""What is foreseen; any other exception is a defect of ours, and is logged with where it came from."""

log = logging.getLogger("ltx")

_TEMPORARY = re.compile(r"/(?:[^/'\s]*[0-9a-f]{12}\.tmp|\.tmp-[0-9a-f]+)(?![^/'\s:;])")
"""Names that are others with every try: the folder says as much."""


def describe(error: Exception | None) -> str | None:
    """Return what a status says of an error, the same each time; some have no text."""
    return _TEMPORARY.sub("", str(error) or repr(error)) if error else None


def log_failure(message: str, error: Exception, **facts: str) -> None:
    """Log an error, with its traceback where nobody foresaw it.

    Args:
        message: What does not happen because of it.
        error: The error.
        facts: What it is about, such as `db` and `replica`.
    """
    unforeseen = None if isinstance(error, FAILURES) else error
    log.error(message, extra={**facts, "error": describe(error)}, exc_info=unforeseen)
