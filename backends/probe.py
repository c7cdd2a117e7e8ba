"""Trying a storage out before someone relies on it: what it really does, beside what its capabilities say.

`probe(backend)` writes a few small objects below a name of its own, `.ltx-doctor-<random>/`, and deletes them again,
also when it fails or is interrupted in the middle.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Literal

from backends.base import Backend, Capabilities
from backends.errors import BackendError, PermissionDeniedError, UnsupportedError
from backends.local import LocalBackend
from backends.probe_steps import STEPS, Place, Problem, Step
from backends.retrying import Retry, RetryingBackend

__all__ = ["Check", "ProbeReport", "probe"]

Result = Literal["ok", "no", "failed", "skipped"]

_FOLDER = ".ltx-doctor"
_TOLERATED_S = 60
_LAST_TRIES = Retry(tries=3, total_s=10)


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check.

    Attributes:
        name: What was tried.
        result: `ok`; `no` where the backend does not offer it and says so; `failed`; `skipped` since an earlier one
            failed.
        needed: Whether replication needs it; for what a backend need not offer, that it keeps its word.
        took_ms: How long one call takes, the median of a few; None where none was done.
        detail: What was seen.
        meaning: What it means that it failed, and what to do; "" where it did not.
    """

    name: str
    result: Result
    needed: bool
    took_ms: float | None = None
    detail: str = ""
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What came of all checks.

    Attributes:
        url: The storage, without secrets.
        checks: In the order in which they were done.
        capabilities: What the backend says of itself at the end.
        quirks: What is not as it was said, or good to know.
        clock_difference_s: The storage's clock minus ours; 0 where they agree as far as can be seen, None where the
            storage does not say when it wrote.
        left: Keys that could not be deleted again.
    """

    url: str
    checks: Sequence[Check]
    capabilities: Capabilities
    quirks: Sequence[str] = ()
    clock_difference_s: float | None = None
    left: Sequence[str] = ()

    @property
    def is_usable(self) -> bool:
        """Whether everything that replication needs works."""
        return not any(check.needed and check.result == "failed" for check in self.checks)

    @property
    def verdict(self) -> str:
        """What it all means, in one line."""
        for check in self.checks:
            if check.needed and check.result == "failed":
                return check.meaning
        return "everything that replication needs works here"

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "url": self.url,
            "usable": self.is_usable,
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
            "capabilities": asdict(self.capabilities),
            "quirks": list(self.quirks),
            "clock_difference_s": self.clock_difference_s,
            "left": list(self.left),
        }


@dataclass
class _Probe:
    backend: Backend
    place: Place
    checks: list[Check] = field(default_factory=list)
    quirks: list[str] = field(default_factory=list)

    def run(self) -> None:
        stopped = False
        for step in STEPS:
            if stopped:
                self.checks.append(Check(step.name, "skipped", step.needed))
                continue
            check = self._do(step)
            self.checks.append(check)
            stopped = check.result == "failed" and step.is_first

    def _do(self, step: Step) -> Check:
        self.place.begin()
        try:
            detail = step.do(self.place)
        except UnsupportedError:
            if step.without:
                self.quirks.append(step.without)
            return Check(step.name, "no", step.needed, self.place.median_ms, "not offered")
        except (Problem, BackendError) as error:
            if isinstance(error, Problem):
                self.quirks.append(f"{step.name}: {error}")
            meaning = _meaning(step, error)
            return Check(step.name, "failed", step.needed, self.place.median_ms, str(error), meaning)
        return Check(step.name, "ok", step.needed, self.place.median_ms, detail)


def _meaning(step: Step, error: Problem | BackendError) -> str:
    if isinstance(error, PermissionDeniedError):
        return step.denied
    if isinstance(error, Problem):
        return step.broken
    return f"{step.broken}; it said: {error}"


def probe(backend: Backend) -> ProbeReport:
    """Try a storage out, and clean up.

    Nothing is asked again where it fails: what a storage does at the first try is what is wanted. No other object of
    the storage is read or changed.

    Args:
        backend: The storage; it stays the caller's.
    """
    claimed = backend.capabilities
    token = os.urandom(6).hex()
    alone = claimed.exclusive_marker or isinstance(backend, LocalBackend)
    # Where an emptied folder cannot be removed it has the same name each time.
    place = Place(backend, f"{_FOLDER}-{token}/" if alone else f"{_FOLDER}/{token}-")
    done = _Probe(backend, place)
    try:
        done.run()
    finally:
        left = _clean_up(place)
    quirks = [*_differences(claimed, backend.capabilities), *done.quirks]
    difference_s = _clock_difference_s(place)
    if difference_s is not None and abs(difference_s) > _TOLERATED_S:
        quirks.append(
            f"its clock is {abs(difference_s):.0f} s {'ahead of' if difference_s > 0 else 'behind'} ours: "
            "set the one that is wrong"
        )
    return ProbeReport(backend.url, done.checks, backend.capabilities, quirks, difference_s, left)


def _differences(claimed: Capabilities, seen: Capabilities) -> list[str]:
    """Say what a backend took back, or found out, while it was used."""
    before, after = asdict(claimed), asdict(seen)
    return [
        f"{name} was {value} at first, and {after[name]} after the first writes"
        for name, value in before.items()
        if after[name] != value
    ]


def _clock_difference_s(place: Place) -> float | None:
    if place.written is None:
        return None
    before, modified, after = place.written
    if modified > after:
        return (modified - after).total_seconds()
    behind_s = (before - modified).total_seconds()
    return -behind_s if behind_s >= 1 else 0.0  # some storages keep whole seconds


def _clean_up(place: Place) -> Sequence[str]:
    """Delete all that was written, and return what is still there."""
    if not place.keys:
        return ()
    backend = RetryingBackend(place.backend, _LAST_TRIES)
    keys = tuple(sorted(place.keys))
    try:
        backend.delete(keys)
    except BackendError:
        for key in keys:  # one that cannot be deleted must not keep the others
            with suppress(BackendError):
                place.backend.delete([key])
    for marker in place.markers:
        with suppress(BackendError):
            backend.unmark(marker)
    try:
        left = tuple(info.key for info in backend.list(place.prefix))
    except BackendError:
        left = keys
    if not left:
        _remove_folder(place)
    return left


def _remove_folder(place: Place) -> None:
    folder = place.prefix.rstrip("/")
    if isinstance(place.backend, LocalBackend):
        with suppress(OSError):
            (place.backend.root / folder).rmdir()
    elif place.prefix.endswith("/"):
        with suppress(BackendError):
            place.backend.unmark(folder)
