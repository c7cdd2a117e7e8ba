"""A replica as queries see it: views of it, its pages, and how it is followed. Shared by all its connections."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from datetime import datetime
from typing import TypeVar
from weakref import WeakValueDictionary

from backends import NotFoundError, UnavailableError
from ltx import TXID, CorruptError, LTXFile, NoSnapshotError, NotReachableError, Replica, ReplicaError
from ltx.format import format_txid
from ltx.format.frame import decode_frame
from ltx.replica.apply import FileError
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import extend, make_plan, reach_of
from vfs.cache import PageCache
from vfs.errors import InterruptedQueryError
from vfs.open_files import FileOpener
from vfs.view import Run, View, build_view, extend_view

__all__ = ["DEFAULT_CACHE_SIZE", "DEFAULT_TIMEOUT_S", "Source", "open_source"]

DEFAULT_CACHE_SIZE = 64 << 20
DEFAULT_TIMEOUT_S = 60.0
"""How long one wait for the storage may take, its retries included."""

_NOTICE_S = 0.03
"""How soon a wait notices that its query was interrupted."""

_PLANS = 4
_THREADS = 4
_FIRST_RUN, _LONGEST_RUN = 2, 512
_RUN_SIZE = 1 << 20

_T = TypeVar("_T")
Interrupted = Callable[[], bool]


class Source:
    """One replica, open for queries. Safe to use from several threads, and in a forked child.

    Args:
        replica: The replica.
        cache_size: Bytes of pages to keep in memory.
        timeout_s: How long one wait for the storage may take.
    """

    def __init__(
        self, replica: Replica, *, cache_size: int = DEFAULT_CACHE_SIZE, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self.replica = replica
        self.cache = PageCache(cache_size)
        self.timeout_s = timeout_s
        self._files = FileOpener(replica, self.cache)
        self._views: WeakValueDictionary[int, View] = WeakValueDictionary()
        self._latest: View | None = None
        self._polled: float | None = None
        self._lock = threading.RLock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_owner = 0

    @property
    def lag_s(self) -> float:
        """Seconds since the latest view was last known to be the newest; -1 before it ever was."""
        return -1.0 if self._polled is None else time.monotonic() - self._polled

    def latest(self, max_age_s: float, interrupted: Interrupted) -> View:
        """Return the newest view, after a look at the storage if the last one is older than that.

        A storage that does not answer is no reason to refuse what is known: then `lag_s` grows. The TXID never
        goes back.

        Raises:
            NoSnapshotError: The replica is empty.
            UnavailableError: The storage did not answer at the first look.
            InterruptedQueryError: `interrupted` said so.
        """
        with self._lock:
            if self._latest is not None and 0 <= self.lag_s < max_age_s:
                return self._latest
            try:
                self._latest = self._wait(self._poll, interrupted)
            except UnavailableError:
                if self._latest is None:
                    raise
            else:
                self._polled = time.monotonic()
            return self._latest

    def at(
        self, interrupted: Interrupted, *, time: str | datetime | None = None, txid: int | str | None = None
    ) -> View:
        """Return the view of a time or a TXID.

        Raises:
            NotReachableError: It cannot be had; the error says what can.
            ValueError: It means no time, or no TXID.
        """
        with self._lock:
            return self._wait(lambda: self._at(time, txid), interrupted)

    def again(self, view: View, without: LTXFile, interrupted: Interrupted) -> View:
        """Return another view of the same TXID, made without a file that is gone or damaged.

        Raises:
            NotReachableError: No other files have what that one held.
        """
        with self._lock:
            known = self._views.get(view.txid)
            if known is not None and known is not view and all(each.file != without for each in known.files):
                return known
            found = self._wait(lambda: self._plan_again(view, without), interrupted)
            if self._latest is view:
                self._latest = found
            return found

    def page(self, view: View, pgno: int, ahead: int, interrupted: Interrupted) -> bytes:
        """Return a page of a view, and keep up to `ahead` of those that lie behind it.

        Raises:
            NotFoundError: The file that it lies in is gone.
            CorruptError: The file is damaged there; the message names it and the place.
        """
        if pgno == view.lock_page:
            return bytes(view.page_size)
        file = view.file_of(pgno)
        page = self.cache.get((file.number, pgno))
        if page is None:
            run = view.run_at(pgno, min(_LONGEST_RUN, max(_FIRST_RUN, ahead)), _RUN_SIZE)
            pages = self._wait(lambda: self._read_run(run, view.page_size), interrupted)
            self.cache.put(((file.number, number), data) for number, data in pages)
            page = pages[0][1]
        return page

    def close(self) -> None:
        """Release the storage's connections."""
        if self._pool is not None and self._pool_owner == os.getpid():
            self._pool.shutdown(wait=False, cancel_futures=True)
        self.replica.close()

    def _poll(self) -> View:
        files = self.replica.files()
        view = self._latest
        if view is None:
            if not files:
                raise NoSnapshotError(
                    f"no LTX files lie at {self.replica.url}: check the URL, or replicate a database to it"
                )
            return self._open(files, _newest(files))
        following = extend((file for file in files if file.level != SNAPSHOT_LEVEL), view.txid)
        newest = _newest(files)
        if newest is not None and newest > (following[-1].max_txid if following else view.txid):
            return self._open(files, newest)  # only a snapshot leads there
        if not following:
            return view
        try:
            opened = self._files.open(following)
        except (FileError, NotFoundError):
            fresh = self.replica.files()
            return self._open(fresh, _newest(fresh))
        if opened[-1].header.page_size != view.page_size:
            raise CorruptError(f"{following[-1].key} has pages of another size than the files before it")
        return self._keep(extend_view(view, opened, opened[-1].header.timestamp))

    def _at(self, time: str | datetime | None, txid: int | str | None) -> View:
        files = self.replica.files()
        plan = self.replica.plan(time, txid, files=files)
        return self._views.get(plan.txid) or self._open(files, plan.txid)

    def _plan_again(self, view: View, without: LTXFile) -> View:
        files = [file for file in self.replica.files() if file != without]
        try:
            return self._open(files, view.txid)
        except (ReplicaError, CorruptError) as error:
            raise NotReachableError(
                f"{without.key} is gone or damaged, and TXID {format_txid(view.txid)} cannot be had without it: {error}"
            ) from error

    def _open(self, files: Sequence[LTXFile], txid: TXID | None) -> View:
        """Open the view of a TXID, planning around files that vanish meanwhile or turn out to be damaged.

        Raises:
            CorruptError: A file is damaged, and no others have what it held.
            NotReachableError: Files are gone, and no others have what they held.
        """
        avoided: set[str] = set()
        for _ in range(_PLANS):
            plan = make_plan(files, txid)
            try:
                opened = self._files.open(plan.files)
                return self._keep(build_view(opened, self.replica.times([plan.txid], files)[0]))
            except FileError as error:
                avoided.add(error.file.key)
                files = [file for file in files if file.key not in avoided]
                if txid not in reach_of(files).txids:
                    raise error.public() from error
            except NotFoundError as error:
                avoided.add(error.key or "")
                files = [file for file in self.replica.files() if file.key not in avoided]
        raise UnavailableError(
            f"files of {self.replica.url} vanish faster than they can be opened: try again"
        )

    def _keep(self, view: View) -> View:
        self._views[view.txid] = view
        return view

    def _read_run(self, run: Run, page_size: int) -> list[tuple[int, bytes]]:
        """Read and check frames. Frames behind the first that are damaged are left for when they are asked for."""
        key = run.file.file.key
        data = memoryview(self.replica.backend.get(key, run.start, run.end))
        pages: list[tuple[int, bytes]] = []
        for pgno, start, size in run.frames:
            try:
                pages.append((pgno, decode_frame(data[start : start + size], pgno, page_size)))
            except CorruptError as error:
                if pages:
                    break
                raise CorruptError(
                    f"{key} is damaged: {error.args[0]}", offset=run.start + start + (error.offset or 0)
                ) from error
        return pages

    def _wait(self, work: Callable[[], _T], interrupted: Interrupted) -> _T:
        """Do something with the storage, in another thread, and notice an interrupt and the deadline meanwhile."""
        future: Future[_T] = self._executor().submit(work)
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                return future.result(timeout=_NOTICE_S)
            except NotYet:
                if future.done():
                    raise
            if interrupted():
                future.cancel()
                raise InterruptedQueryError("interrupted")
            if time.monotonic() > deadline:
                future.cancel()
                raise UnavailableError(f"{self.replica.url} did not answer within {self.timeout_s:g} s")

    def _executor(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool_owner != os.getpid():  # threads do not survive a fork
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="vfs")
            self._pool_owner = os.getpid()
        return self._pool


def _newest(files: Sequence[LTXFile]) -> TXID | None:
    """Return the newest TXID that can be reached: beyond a gap a reader waits."""
    reach = reach_of(files)
    return reach.txids[-1] if reach.txids else None


_sources: WeakValueDictionary[tuple[object, ...], Source] = WeakValueDictionary()
_sources_lock = threading.Lock()


def open_source(url: str, cache_size: int, timeout_s: float, options: dict[str, object]) -> Source:
    """Return the source of a replica; the same one for the same URL, options and limits while it is in use.

    Raises:
        backends.ConfigError: The URL or an option is wrong.
    """
    key = (url, cache_size, timeout_s, repr(sorted(options.items())))
    with _sources_lock:
        source = _sources.get(key)
        if source is None:
            source = Source(Replica.open(url, **options), cache_size=cache_size, timeout_s=timeout_s)
            _sources[key] = source
        return source
