"""Log lines of a replicator on stderr: text for people, JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["log_to_stderr"]

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool, source: bool) -> None:
        super().__init__()
        self._as_json, self._source = as_json, source

    def format(self, record: logging.LogRecord) -> str:
        """Return one line: time, level, message, and what was given with it."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": " ".join(record.getMessage().split()),
            **{name: value for name, value in vars(record).items() if name not in _KNOWN},
        }
        if self._source:
            line["source"] = f"{record.module}.py:{record.lineno}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(line, default=str, ensure_ascii=False)
        rest = (f"{name}={_quoted(value)}" for name, value in list(line.items())[3:])
        return " ".join((str(line["time"]), str(line["level"]).upper(), str(line["msg"]), *rest))


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(sign in text for sign in ' "\n') else text


def log_to_stderr(*, as_json: bool = False, level: int = logging.INFO, source: bool = False) -> None:
    """Send what the replicator logs to stderr, in place of where it went before.

    Args:
        as_json: Whether lines are JSON.
        level: The lowest level that is logged.
        source: Whether lines say which line of this program they come from.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json=as_json, source=source))
    logger = logging.getLogger("ltx")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
