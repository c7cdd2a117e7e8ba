"""How long a service that has never answered is waited for: less than one that is known to be there."""

__all__ = ["FirstAnswer"]

FIRST_ANSWER_S = 10
"""Seconds for the first answer of all; a second such wait would end after the 15 s that `Retry` gives."""

_SLOWEST = 64 << 10
"""Bytes a second: what is slower has stalled."""


class FirstAnswer:
    """Whether a service has answered anything since it was first asked.

    Until then a wrong endpoint is likelier than a slow service: a port at which something else listens takes the
    connection, and says nothing. Afterwards a service that takes its time has it.
    """

    def __init__(self) -> None:
        self.heard = False

    def limit_s(self, usual_s: float, size: int = 0) -> float:
        """Return how long to wait for an answer.

        Args:
            usual_s: Seconds for a service that is known to be there.
            size: Bytes that go to and fro until then.
        """
        return usual_s if self.heard else min(usual_s, FIRST_ANSWER_S + size / _SLOWEST)
