"""Which calls of a `FaultyBackend` fail, and how: at random by a seed, or one by one by a script."""

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from backends.errors import ConfigError

__all__ = ["KINDS", "TRANSIENT", "Call", "Fault", "Faults", "RandomFaults", "ScriptedFaults", "split_url"]

TRANSIENT = ("error", "unreachable", "timeout", "throttle", "lost", "partial", "slow")
"""Kinds that asking again heals."""

KINDS = (*TRANSIENT, "short", "late", "duplicate", "forgotten", "stale")
"""All kinds; `backends.faulty` says what they are."""

VERBS = ("get", "put", "head", "list", "delete", "mark", "unmark")

_PREFIX = "faulty+"
_OPTIONS = ("seed", "rate", "kinds", "slow")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a backend.

    Attributes:
        verb: `get`, `put` or another method.
        key: Of the object; the first of several; of a listing the prefix.
        start: Of a read.
        end: Of a read.
        number: Which one it is of those that are otherwise the same, from 1.
    """

    verb: str
    key: str
    start: int = 0
    end: int | None = None
    number: int = 0


class Faults(ABC):
    """Decides what becomes of a call."""

    @abstractmethod
    def kind_of(self, call: Call, fitting: Collection[str]) -> str | None:
        """Return the kind of fault for this call, one of those that fit it; None for none."""


class RandomFaults(Faults):
    """Faults by a seed: the same calls have the same faults, in whatever order threads make them.

    Args:
        seed: Any whole number.
        rate: The share of calls that fail, from 0 to 1.
        kinds: The kinds to choose from; each call takes one that fits it.
    """

    def __init__(self, seed: int, rate: float, kinds: Collection[str] = KINDS) -> None:
        if not 0 <= rate <= 1:
            raise ConfigError(f"a rate of faults is from 0 to 1, not {rate}")
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ConfigError(f"no kind of fault: {unknown[0]!r}; there is {', '.join(KINDS)}")
        self.seed, self.rate, self.kinds = seed, rate, tuple(kinds)

    def kind_of(self, call: Call, fitting: Collection[str]) -> str | None:
        """Return the kind of fault for this call."""
        kinds = [kind for kind in self.kinds if kind in fitting]
        text = f"{self.seed} {call.verb} {call.key} {call.start} {call.end} {call.number}"
        chance = random.Random(text.encode(errors="backslashreplace"))
        return chance.choice(kinds) if chance.random() < self.rate and kinds else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} seed={self.seed} rate={self.rate:g}>"


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of a script: the n-th call of a verb fails.

    Attributes:
        verb: `get`, `put` or another method.
        number: Which of the calls that match, from 1; 0 for every one.
        kind: What becomes of it.
        part: Only calls whose key has this in it match.
    """

    verb: str
    number: int
    kind: str
    part: str = ""


class ScriptedFaults(Faults):
    """Faults one by one.

    Args:
        script: Of several lines that match a call the first one counts.
    """

    def __init__(self, *script: Fault) -> None:
        for fault in script:
            if fault.verb not in VERBS or fault.kind not in KINDS:
                raise ConfigError(
                    f"no fault: {fault.verb} {fault.kind}; verbs are {', '.join(VERBS)}, kinds {', '.join(KINDS)}"
                )
        self.script = script
        self._seen: Counter[Fault] = Counter()

    def kind_of(self, call: Call, fitting: Collection[str]) -> str | None:
        """Return the kind of fault for this call."""
        found = None
        for fault in self.script:
            if fault.verb == call.verb and fault.part in call.key:
                self._seen[fault] += 1
                if found is None and fault.number in (0, self._seen[fault]):
                    found = fault.kind
        if found is not None and found not in fitting:
            raise ConfigError(f"{call.verb} has no fault of kind {found}")
        return found


def split_url(url: str, options: dict[str, object]) -> tuple[str, int, float, tuple[str, ...], float]:
    """Take what is about faults out of a URL and its options.

    Returns:
        The wrapped backend's URL, the seed, the rate, the kinds, and seconds that slow answers take.

    Raises:
        ConfigError: A value is none.
    """
    inner, _, query = url[len(_PREFIX) :].partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    ours = {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name in _OPTIONS}
    rest = "&".join(pair for pair in pairs if pair.partition("=")[0] not in _OPTIONS)
    for name in _OPTIONS:
        if name in options:
            ours[name] = str(options.pop(name))
    try:
        seed, rate = int(ours.get("seed", "0")), float(ours.get("rate", "0.1"))
        slow_s = float(ours.get("slow", "0.05"))
    except ValueError as error:
        raise ConfigError(
            f"faults take seed=<whole number>, rate=<0 to 1>, slow=<seconds>: {error}"
        ) from error
    if not 0 <= slow_s < 3600:
        raise ConfigError(f"slow is a number of seconds, not {slow_s:g}")
    kinds = tuple(filter(None, ours["kinds"].split(","))) if "kinds" in ours else KINDS
    return f"{inner}?{rest}" if rest else inner, seed, rate, kinds, slow_s
