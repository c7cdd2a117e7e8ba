"""Telling somebody, now and then, that all is well: they notice when they are not told."""

import logging
import time
from urllib.parse import urlsplit

from ltx.replication.config.values import Heartbeat
from ltx.replication.daemon import Daemon

__all__ = ["Heart", "is_healthy"]

_LOOK_S, _FIRST_LOOK_S = 15.0, 1.0
_TIMEOUT_S = 30.0
log = logging.getLogger("ltx")


class Heart:
    """Asks an address with GET, at most once an interval, and only while every replica is as current as that.

    A call that fails is not made again before the next interval.

    Attributes:
        settings: Whom to tell; None for nobody. It may change at any time.

    Args:
        daemon: What is to be well.
        settings: Whom to tell.
    """

    def __init__(self, daemon: Daemon, settings: Heartbeat | None) -> None:
        self.settings = settings
        self._daemon = daemon
        self._last: float | None = None
        self._look_s = _FIRST_LOOK_S

    def beat(self) -> float:
        """Call where it is time to; return in how many seconds to come again."""
        settings, now = self.settings, time.monotonic()
        if settings is None:
            return _LOOK_S
        if self._last is not None and now - self._last < settings.interval_s:
            return min(_LOOK_S, settings.interval_s - (now - self._last))
        if not is_healthy(self._daemon, settings.interval_s):
            self._look_s = min(_LOOK_S, self._look_s * 2)
            return self._look_s
        self._last, self._look_s = now, _FIRST_LOOK_S
        _call(settings.url)
        return min(_LOOK_S, settings.interval_s)


def is_healthy(daemon: Daemon, interval_s: float) -> bool:
    """Say whether every database is read and every replica has all that is older than the interval."""
    for database in daemon.databases:
        if database.error is not None or not database.is_open:
            return False
        for uploader in database.uploaders:
            lag_s = uploader.status["lag_s"]
            assert isinstance(lag_s, float)
            if uploader.error is not None or uploader.txid is None or lag_s > interval_s:
                return False
    return True


def _call(url: str) -> None:
    import urllib.request  # and with it ssl, which hardly anybody needs

    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - http or https, as was checked
            answer.read(1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "code", None) or getattr(error, "reason", None) or type(error).__name__
        # The rest of the URL often is a secret.
        log.warning(
            "the heartbeat was not taken", extra={"host": urlsplit(url).hostname, "error": str(reason)}
        )
