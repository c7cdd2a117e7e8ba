"""The whole database on disk, fetched in the background while queries go on: hydration.

One thread for each replica of a process, as long as a connection that asked for it is open. It goes through the files
of what these connections show, oldest first, and reads each whole, in big pieces, as a restore does. What a look at the
storage brings anyway costs nothing again. No query waits for it or gets its errors; `status` tells them
(docs/design/0015-hydration.md).
"""

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import ParamSpec, Protocol, TypeVar
from weakref import WeakMethod, finalize, ref

from backends import BackendError
from ltx import LTXError, LTXFile, Replica
from ltx.format.index import PageIndex
from ltx.replica.apply import FileError
from vfs.disk_cache import DiskCache, FileName
from vfs.errors import InterruptedQueryError
from vfs.hydration_files import DiskError, FileKeeper, frames_of
from vfs.hydration_place import UNBOUNDED, turn_of
from vfs.hydration_pragmas import OFF
from vfs.hydration_store import FullError, HydrationStore
from vfs.hydration_targets import Holder, Targets
from vfs.kept_files import KeptFiles
from vfs.meter import Meter
from vfs.view import OpenFile, View
from vfs.waiting import ForkedLock, Interrupted, Waiter

__all__ = ["Hydrator"]

_YIELD_S = 0.25
"""How long one request waits at most until no query waits for the storage."""

_STEP_S = 0.005
_TURN_S = 0.5
"""Between looks whether another process has done what this one would do."""

_BACK_OFF_S = (1.0, 60.0)
"""How long it rests after an error: at first, doubled each time, and at most."""

_MOST_OFFERED = 64 << 20
"""Bytes of small files that wait to be written."""

_TRIM_SIZE, _TRIM_PART = 16 << 20, 4
"""Bytes that are written, and the part of all, before what no view needs any more is looked for."""

_MOST_AVOIDED = 8
_FOREVER_S = threading.TIMEOUT_MAX


class Hydrated(Protocol):
    """A replica that is hydrated: `vfs.source.Source` is one."""

    replica: Replica

    @property
    def newest(self) -> View | None:
        """The newest view that is known."""

    @property
    def is_awaited(self) -> bool:
        """Whether a query has a request for pages under way."""

    def again(
        self, view: View, without: Collection[LTXFile], interrupted: Interrupted, *, keep: bool = False
    ) -> View:
        """Return another view of the same TXID, made without some files."""


class _OthersTurnError(Exception):
    """Another process hydrates the same replica into the same place."""


class Hydrator:
    """Hydrates one replica of a process. Safe to use from several threads; a forked child goes on without it.

    Args:
        source: The replica.
        disk: Where its pages are kept.
        kept: The replica's files there.
        timeout_s: How long one wait for the storage may take.
    """

    def __init__(self, source: Hydrated, disk: DiskCache, kept: KeptFiles, timeout_s: float) -> None:
        self._source = ref(source)
        self._kept = kept
        self._store = HydrationStore(disk.path, disk.max_size, kept.prefix)
        self._turn = turn_of(disk, kept.prefix)
        self._process = os.getpid()
        self._meter = Meter(_weakly(self._is_left, True))
        self._waiter = Waiter(source.replica.url, timeout_s)
        self._files = FileKeeper(
            source.replica.backend,
            self._store,
            self._waiter,
            self._meter,
            _weakly(self._before, None),
            _weakly(self._advance, None),
        )
        self._targets = Targets(_weakly(self._newest, None))
        self._avoided: list[LTXFile] = []
        self._offered: dict[int, tuple[bytes, PageIndex]] = {}
        self._is_expected = True
        self._written = 0
        self._tried: list[View] = []
        self._is_full = False
        self._error = ""
        self._state = "running"
        self._pause_s = 0.0
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = ForkedLock()
        kept.on_whole = _weakly(self._offer, None)
        finalize(self, self._woken.set)

    # What connections call

    def expect(self) -> None:
        """Take what is read while a connection is opened that is going to join."""
        self._is_expected = True

    def join(self, holder: Holder) -> None:
        """Hydrate what this one shows, until it leaves or is gone."""
        if self._is_forked:
            return
        with self._lock.now:
            self._targets.add(holder)
            self._is_expected = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_run, args=(ref(self), self._woken), name="vfs-hydration", daemon=True
                )
                self._thread.start()
        self._woken.set()

    def leave(self, holder: Holder) -> None:
        """Do no more for this one."""
        with self._lock.now:
            self._targets.remove(holder)
            if not self._targets:
                self._is_expected = False
                self._offered.clear()
        self._woken.set()

    def wake(self) -> None:
        """Look at what there is to do: there is a new view."""
        self._woken.set()

    @property
    def file(self) -> str:
        """The file that the pages are in."""
        return str(self._store.path)

    @property
    def progress(self) -> str:
        """How many percent of the files' bytes are there, with one decimal: 100.0 when all of them are."""
        if self._is_forked:
            return OFF
        if self._targets.is_complete:
            return "100.0"
        done, total = self._targets.bytes()
        return f"{min(99.9, 100 * done / total if total else 0):.1f}"

    @property
    def status(self) -> str:
        """What it does, as one line of JSON."""
        done, total = self._targets.bytes()
        cost = self._meter.cost
        state = "off" if self._is_forked else "complete" if self._targets.is_complete else self._state
        error = "the process forked: open the replica in this one" if self._is_forked else self._error
        return json.dumps(
            {
                "state": state,
                "bytes": done,
                "bytes_of_all": total,
                "requests": sum(cost.requests.values()),
                "bytes_fetched": cost.received,
                "error": error or None,
            }
        )

    @property
    def _is_forked(self) -> bool:
        return os.getpid() != self._process

    def _is_left(self) -> bool:
        return not self._targets or self._is_forked

    def _newest(self) -> View | None:
        source = self._source()
        return None if source is None else source.newest

    def _offer(self, number: int, data: bytes, index: PageIndex) -> None:
        """Take a small file that was read whole for another reason."""
        with self._lock.now:
            size = sum(len(each) for each, _ in self._offered.values())
            if self._is_expected and size + len(data) <= _MOST_OFFERED and not self._is_forked:
                self._offered[number] = (data, index)

    # What the thread does

    def step(self) -> float | None:
        """Do what there is to do; return how long to rest, or None when nobody is left to do it for."""
        rest_s = _FOREVER_S
        try:
            self._work()
            self._error, self._pause_s = "", 0.0
        except InterruptedQueryError:
            pass
        except _OthersTurnError:
            self._state, rest_s = "waiting for another process", _TURN_S
        except FileError as error:
            rest_s = 0.0 if self._plan_around(error) else self._fail(str(error.public()))
        except FullError:
            rest_s = self._make_room()
        except (DiskError, BackendError, LTXError, OSError, ValueError) as error:
            rest_s = self._fail(str(error))
        finally:
            self._targets.current = (0, 0)
            self._turn.release()
        with self._lock.now:
            if self._is_left():
                self._thread = None
                return None
        return rest_s

    def _fail(self, error: str) -> float:
        """Take note of an error; return how long to rest."""
        first_s, most_s = _BACK_OFF_S
        self._state, self._error = "failed", error
        self._pause_s = min(max(first_s, 2 * self._pause_s), most_s)
        return self._pause_s

    def _work(self) -> None:
        self._state = "running"
        views = self._targets.views()
        self._check_room(views)
        for view in views:
            for file in view.files:
                if not self._targets.is_done(view, file):
                    self._hydrate(view, file)
                    self._targets.set_done(view, file)
            view.trust_all()
            self._targets.set_complete(view)
        self._avoided.clear()
        if self._written >= max(_TRIM_SIZE, self._targets.bytes()[1] // _TRIM_PART):
            self._trim(views)

    def _hydrate(self, view: View, file: OpenFile) -> None:
        name = self._kept.named(file.number)
        self._store.need(name)
        with self._lock.now:
            offered = self._offered.pop(file.number, None)
        if offered and self._take(name, *offered):
            return
        self._targets.current = (file.number, 0)
        index = self._index_of(file)
        if self._store.is_verified(name) or (self._take_turn() and self._store.is_verified(name)):
            self._files.keep_some(file, index, name, view.pages_in(file, index))
        else:
            self._files.keep_all(file, index, name)
            self._written += file.file.size

    def _take(self, name: FileName, data: bytes, index: PageIndex) -> bool:
        """Keep a file that is there; return whether that worked."""
        self._written += len(data)
        return self._store.put(name, frames_of(index, data)) and self._store.set_verified(name)

    def _index_of(self, file: OpenFile) -> PageIndex:
        if isinstance(file.index, PageIndex):
            return file.index
        return self._waiter.wait(file.whole_index, self._meter)

    def _before(self) -> None:
        """Let queries go first, and other processes that are at it; stop where nobody is left."""
        if self._is_left():
            raise InterruptedQueryError("nobody is left to hydrate it for")
        self._take_turn()
        deadline = time.monotonic() + _YIELD_S
        source = self._source()
        while source and source.is_awaited and time.monotonic() < deadline and not self._is_left():
            time.sleep(_STEP_S)

    def _take_turn(self) -> bool:
        if not self._turn.take():
            raise _OthersTurnError
        return True

    def _advance(self, done: int) -> None:
        self._targets.current = (self._targets.current[0], done)

    def _plan_around(self, error: FileError) -> bool:
        """Do without a file that is gone or damaged; return whether that is possible."""
        source = self._source()
        self._avoided.append(error.file)
        if source is None or len(self._avoided) > _MOST_AVOIDED:
            self._avoided.clear()
            return False
        for view in self._targets.views():
            if any(each.file == error.file for each in view.files):
                try:
                    found = source.again(view, self._avoided, self._meter, keep=True)
                except (BackendError, LTXError):
                    return False
                if found is not source.newest:
                    self._targets.replace(view, found)
        return True

    def _check_room(self, views: Sequence[View]) -> None:
        """See that what is to be kept can be kept, before anything is fetched in vain.

        Raises:
            FullError: It cannot.
        """
        if self._targets.bytes()[1] > self._store.room or (self._is_full and self._tried == views):
            raise FullError

    def _make_room(self) -> float:
        """Remove what no view needs; where that was done for the same views before, give up. Return how long to rest."""
        views = self._targets.views()
        if self._tried != views:
            self._tried, self._is_full = views, False
            with suppress(BackendError, LTXError):
                self._trim(views)
            return 0.0
        self._is_full = True
        size = self._targets.bytes()[1]
        self._fail(
            f"{self._store.max_size} bytes are too few for this database in {self._store.path.parent}: its files have "
            f"{size}, and take up to a quarter more there; let cache_dir_size be more"
        )
        return _FOREVER_S

    def _trim(self, views: Sequence[View]) -> None:
        """Remove from the disk what no view needs any more: the older versions of pages that were written again."""
        pages = self._targets.wanted(views, self._index_of)
        wanted = {self._kept.named(number): pgnos for number, pgnos in pages.items()}
        self._store.trim(wanted, others=self._store.max_size >= UNBOUNDED)
        self._written = 0


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _weakly(method: Callable[_P, _T], otherwise: _T) -> Callable[_P, _T]:
    """Return a method that does not keep its object, or circles would keep replicas open."""
    weak = WeakMethod(method)

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        alive = weak()
        return otherwise if alive is None else alive(*args, **kwargs)

    return call


def _run(weak: "ref[Hydrator]", woken: threading.Event) -> None:
    while (hydrator := weak()) is not None:
        rest_s = hydrator.step()
        del hydrator
        if rest_s is None:
            return
        woken.wait(rest_s)
        woken.clear()
