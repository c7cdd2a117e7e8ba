"""The single checks of `backends.probe`, in the order in which one needs the other."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backends.base import Backend
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["STEPS", "Place", "Problem", "Step"]

_WRITERS, _RACES = 8, 3
_REPLACEMENTS = 8
_BIG = 300_000
_TIMESTAMP_MS = 1_700_000_000_123
_SIZE = 10_000


class Problem(Exception):
    """The storage answered, but not as it must."""


@dataclass
class Place:
    """Where a probe writes, and what it knows so far.

    Attributes:
        backend: The storage.
        prefix: Begins every key that is written.
        keys: All that may be there.
        markers: Markers that may be there.
        written: Before and after a write by our clock, and between them by the storage's.
    """

    backend: Backend
    prefix: str
    keys: set[str] = field(default_factory=set)
    markers: set[str] = field(default_factory=set)
    written: tuple[datetime, datetime, datetime] | None = None
    _took: list[float] = field(default_factory=list)

    def key(self, name: str) -> str:
        """Return a key, which is deleted in the end."""
        key = f"{self.prefix}{name}"
        self.keys.add(key)
        return key

    def begin(self) -> None:
        """Begin to measure anew."""
        self._took = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure one call."""
        began = time.perf_counter()
        yield
        self._took.append(time.perf_counter() - began)

    @property
    def median_ms(self) -> float | None:
        """How long the calls measured took."""
        return round(statistics.median(self._took) * 1000, 2) if self._took else None

    def found(self) -> list[tuple[str, int]]:
        """List what lies here, without the prefix, and sizes."""
        return [(info.key[len(self.prefix) :], info.size) for info in self.backend.list(self.prefix)]


@dataclass(frozen=True, slots=True)
class Step:
    """One check.

    Attributes:
        name: What is tried.
        do: Does it; returns what is worth saying, or raises `Problem` or a `BackendError`.
        needed: Whether replication needs it.
        broken: What it means that it does not work, and what to do.
        denied: The same where permission is missing.
        without: What it means that the backend does not offer it.
        is_first: Whether nothing else can be tried where it fails.
    """

    name: str
    do: Callable[[Place], str]
    needed: bool
    broken: str
    denied: str = "these credentials may not do all that replication does here; allow listing, reading, writing and deleting"
    without: str = ""
    is_first: bool = False


def _data(number: int, size: int = _SIZE) -> bytes:
    return (number.to_bytes(4, "big") + b"ltx doctor; can go") * (size // 22 + 1)


def _check_same(got: bytes, wanted: bytes, what: str) -> None:
    if got != wanted:
        how = f"{len(got)} bytes for {len(wanted)}" if len(got) != len(wanted) else "other bytes"
        raise Problem(f"{what} gave {how}")


def _list(place: Place) -> str:
    for _ in range(3):
        with place.timed():
            next(iter(place.backend.list(place.prefix)), None)
    next(iter(place.backend.list()), None)  # the root itself
    return ""


def _write(place: Place) -> str:
    for number in range(3):
        before = datetime.now(UTC)
        key = place.key(f"object-{number}")
        with place.timed():
            place.backend.put(key, _data(number))
        after = datetime.now(UTC)
    modified = place.backend.head(key).modified
    if modified is not None:
        place.written = (before, modified, after)
    return ""


def _read(place: Place) -> str:
    for number in range(3):
        with place.timed():
            got = place.backend.get(place.key(f"object-{number}"))
        _check_same(got, _data(number), "an object just written")
    if (size := place.backend.head(place.key("object-1")).size) != len(_data(1)):
        raise Problem(f"an object of {len(_data(1))} bytes is said to have {size}")
    try:
        place.backend.get(place.key("missing"))
    except NotFoundError:
        return ""
    raise Problem("an object that was never written can be read")


def _range(place: Place) -> str:
    key, data = place.key("object-1"), _data(1)
    for start in range(0, 5000, 1000):
        with place.timed():
            got = place.backend.get(key, start, start + 4096)
        _check_same(got, data[start : start + 4096], f"bytes {start} to {start + 4096}")
    _check_same(place.backend.get(key, -16), data[-16:], "the last 16 bytes")
    _check_same(place.backend.get(key, len(data) - 5, len(data) + 5), data[-5:], "a range over the end")
    return ""


def _list_written(place: Place) -> str:
    wanted = [(f"object-{number}", len(_data(number))) for number in range(3)]
    with place.timed():
        found = place.found()
    if missing := [name for name, _ in wanted if name not in dict(found)]:
        raise Problem(f"{len(missing)} of 3 objects just written are not listed")
    if found != wanted:
        raise Problem("objects are not listed in the order of their keys, or with other sizes than they have")
    return ""


def _replace(place: Place) -> str:
    key = place.key("replaced")
    for number in range(4):
        with place.timed():
            place.backend.put(key, _data(number))
        _check_same(place.backend.get(key), _data(number), "an object just replaced")
    return ""


def _atomic(place: Place) -> str:
    key = place.key("atomic")
    versions = [_data(1, _BIG), _data(2, _BIG + 40_000)]
    place.backend.put(key, versions[0])
    done = threading.Event()

    def torn() -> int:
        count = 0
        while not done.is_set():
            try:
                count += place.backend.get(key) not in versions
            except UnavailableError:
                continue
            except BackendError:  # it was not there, or the server got into a muddle with its two versions
                count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(torn) for _ in range(2)]
        try:
            for number in range(_REPLACEMENTS):
                with place.timed():
                    place.backend.put(key, versions[number % 2])
        finally:
            done.set()
    seen = sum(reader.result() for reader in readers)
    if not place.backend.capabilities.atomic_put:
        raise UnsupportedError("not offered", key=key)
    if seen:
        raise Problem(f"while an object was replaced, {seen} reads saw a part of it or none")
    return "readers saw the old or the new"


def _create(place: Place) -> str:
    key = place.key("created")
    with place.timed():
        place.backend.put(key, _data(1), if_absent=True)
    try:
        place.backend.put(key, _data(2), if_absent=True)
    except AlreadyExistsError:
        _check_same(place.backend.get(key), _data(1), "an object whose second creation was refused")
    else:
        raise Problem("a second creation of an object was not refused: the condition is ignored")
    for race in range(_RACES):
        _race(place, race)
    return f"one of {_WRITERS} writers won, {_RACES} times"


def _race(place: Place, race: int) -> None:
    key = place.key(f"raced-{race}")
    answers = _at_once(lambda number: place.backend.put(key, _data(number), if_absent=True))
    winners = [number for number, error in enumerate(answers) if error is None]
    unknown = [number for number, error in enumerate(answers) if isinstance(error, UnavailableError)]
    for error in answers:
        if error is not None and not isinstance(error, AlreadyExistsError | UnavailableError):
            raise error
    if len(winners) > 1:
        raise Problem(f"{len(winners)} of {_WRITERS} writers at once were told that they created an object")
    if not winners and not unknown:
        raise Problem(f"each of {_WRITERS} writers at once was told that another one created an object")
    if place.backend.get(key) not in [_data(number) for number in (winners or unknown)]:
        raise Problem("the object is that of a writer who was refused")


def _mark(place: Place) -> str:
    marker = f"{place.prefix}marker"
    place.markers.add(marker)
    if not place.backend.capabilities.exclusive_marker:
        raise UnsupportedError("not offered", key=marker)
    answers = _at_once(lambda _: place.backend.mark(marker))
    for error in answers:
        if error is not None and not isinstance(error, AlreadyExistsError | UnavailableError):
            raise error
    if (winners := answers.count(None)) > 1:
        raise Problem(f"{winners} of {_WRITERS} callers at once got the same marker")
    with place.timed():
        place.backend.unmark(marker)
    return f"one of {_WRITERS} callers won"


def _timestamp(place: Place) -> str:
    key = place.key("timed")
    with place.timed():
        place.backend.put(key, _data(1), timestamp_ms=_TIMESTAMP_MS)
    capabilities = place.backend.capabilities
    kept = place.backend.head(key).timestamp_ms
    if not capabilities.timestamps:
        raise UnsupportedError("not offered", key=key)
    step = capabilities.timestamp_step_ms
    if kept != _TIMESTAMP_MS // step * step:
        raise Problem(f"a timestamp of {_TIMESTAMP_MS} ms came back as {kept}")
    return "in milliseconds" if step == 1 else f"in steps of {step} ms"


def _delete(place: Place) -> str:
    keys = [place.key(f"object-{number}") for number in range(3)]
    for wanted in (keys[:1], keys[1:2], keys):  # of the last ones two are gone already
        with place.timed():
            place.backend.delete(wanted)
        for key in wanted:
            try:
                place.backend.head(key)
            except NotFoundError:
                continue
            raise Problem("an object that was deleted is still there")
    if [name for name, _ in place.found() if name.startswith("object-")]:
        raise Problem("objects that were deleted are still listed")
    return ""


def _at_once(call: Callable[[int], object]) -> list[BackendError | None]:
    together = threading.Barrier(_WRITERS)

    def run(number: int) -> BackendError | None:
        together.wait(60)
        try:
            call(number)
        except BackendError as error:
            return error
        return None

    with ThreadPoolExecutor(_WRITERS) as pool:
        return list(pool.map(run, range(_WRITERS)))


STEPS = (
    Step(
        "list", _list, True,
        "it cannot be listed, so nothing can be replicated, restored or queried here; check the URL and the network",
        "these rights do not allow listing, so nothing can be replicated or restored here; check the credentials or the "
        "folder's mode, or allow listing",
        is_first=True,
    ),
    Step(
        "write", _write, True,
        "it cannot be written, so nothing can be replicated to it; check the URL and that there is space",
        "it can be listed but not written with these rights: restore and query work, replication does not; "
        "allow writing",
        is_first=True,
    ),
    Step(
        "read after write", _read, True,
        "what is written cannot be read back at once as it was; do not replicate to it",
        "it can be written but not read with these rights; allow reading",
    ),
    Step(
        "read a range", _range, True,
        "ranges of objects cannot be read, which every restore and query does; do not replicate to it",
    ),
    Step(
        "list after write", _list_written, True,
        "a listing does not show at once what was written, so a run may take the replica for older than it is; "
        "turn off caches between here and there",
    ),
    Step("replace", _replace, True, "what was replaced is read as it was before; turn off caches between here and there"),
    Step(
        "replace at once", _atomic, True,
        "a reader can see half an object, so a restore during replication can fail; do not replicate to it",
        without="readers may see a part of an object while it is written: they verify it, and try again",
    ),
    Step(
        "create exclusively", _create, True,
        "two writers can overwrite each other's files unnoticed, though the backend says otherwise; see to it yourself "
        "that only one process replicates here, and update the server",
        without="there is no exclusive create: that a second writer is found out is a best effort, not a promise",
    ),
    Step(
        "mark exclusively", _mark, False,
        "markers are not exclusive, though the backend says so; see to it yourself that only one process replicates here",
        without="",
    ),
    Step(
        "keep a timestamp", _timestamp, False,
        "times of objects are not kept: ours read them from the files, Litestream restores by time from the upload's",
        without="times of objects are not kept: ours read them from the files, Litestream takes the upload's",
    ),
    Step(
        "delete", _delete, True,
        "nothing can be deleted, so the replica only grows; allow deleting, or replicate without retention",
        "these credentials may not delete, so the replica only grows; allow deleting, or replicate without retention",
    ),
)  # fmt: skip
"""All checks."""
