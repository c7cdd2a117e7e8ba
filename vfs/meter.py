"""What the queries of one connection cost: requests, bytes, pages and waiting."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import apsw

from backends import Stats

__all__ = ["Cost", "Meter"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What was spent.

    Attributes:
        requests: How many of each kind went out.
        received: Bytes of objects read.
        hits: Pages that SQLite asked for and that were there.
        misses: Pages that it had to wait for.
        waited_s: Seconds that it waited for the storage, for pages and for looks.
    """

    requests: dict[str, int]
    received: int
    hits: int
    misses: int
    waited_s: float

    def since(self, before: "Cost") -> "Cost":
        """Return what was spent after another reading."""
        return Cost(
            dict(Counter(self.requests) - Counter(before.requests)),
            self.received - before.received,
            self.hits - before.hits,
            self.misses - before.misses,
            self.waited_s - before.waited_s,
        )

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        import json  # most queries do without

        return json.dumps(
            {
                "requests": sum(self.requests.values()),
                "requests_by_kind": dict(sorted(self.requests.items())),
                "bytes": self.received,
                "cache_hits": self.hits,
                "cache_misses": self.misses,
                "waited_s": round(self.waited_s, 3),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Cost":
        """Read what `to_json` wrote."""
        import json

        fields = json.loads(text)
        return cls(
            fields["requests_by_kind"],
            fields["bytes"],
            fields["cache_hits"],
            fields["cache_misses"],
            fields["waited_s"],
        )

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.requests.items()))
        requests = f"{sum(self.requests.values())} requests" + (f" ({kinds})" if kinds else "")
        pages = f"{self.hits} pages from the cache, {self.misses} fetched"
        return f"{requests}, {self.received:,} bytes, {pages}, waited {self.waited_s:.3f} s"


class Meter:
    """Counts what one connection causes, and says whether it was interrupted when it is called.

    Attributes:
        stats: Requests and bytes.
        hits: Pages that were there.
        misses: Pages that were waited for.
        waits: How often the storage was waited for.
        waited_s: Seconds.
        database_pointer: The `sqlite3` object of the connection; 0 while it is not known.

    Args:
        interrupted: Says whether to give up waiting; by default whether the connection was interrupted.
    """

    def __init__(self, interrupted: Callable[[], bool] | None = None) -> None:
        self._interrupted = interrupted
        self.stats = Stats()
        self.hits = self.misses = self.waits = 0
        self.waited_s = 0.0
        self.database_pointer = 0

    def __call__(self) -> bool:
        """Whether `interrupt()` was called on the connection, or whoever was named says so."""
        if self._interrupted is not None:
            return self._interrupted()
        if not self.database_pointer:
            return False
        for connection in apsw.connections():
            with suppress(apsw.Error):
                if connection.sqlite3_pointer() == self.database_pointer:
                    return connection.is_interrupted
        return False

    @property
    def cost(self) -> Cost:
        """What was spent so far."""
        return Cost(dict(self.stats.requests), self.stats.received, self.hits, self.misses, self.waited_s)
