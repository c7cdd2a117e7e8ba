"""One client of the helper process: the requests of one open database in the host, one after the other."""

import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import apsw

from vfs.disk_cache import DIR_VARIABLE
from vfs.errors import coded
from vfs.file import ReplicaFile
from vfs.hydration_place import PATH_VARIABLE
from vfs.serve.arena import Arena, Place, Segment, segment_of
from vfs.serve.places import Places, Scan
from vfs.serve.protocol import Operation, Reader, error_reply, frame, numbers, state
from vfs.serve.shared_cache import SharedCache
from vfs.source import Source
from vfs.sqlite import open_file

__all__ = ["Session"]

_FIRST_PLACES, _MOST_PLACES = 16, 4096
"""How many places of pages that are at hand go with an answer."""

_MOST_SCANS = 8
"""Scans whose next page is remembered: one of them, an interior page, another one, and the first goes on."""

_SKIPPED = 4
"""Pages that a scan may leave out: interior pages, which it read at another time."""

_LONG_WINDOW = 4 * _FIRST_PLACES
"""From which on a scan goes on while its client is busy; a look at a few pages needs nothing ahead."""

_kept: list[Source] = []


class Session:
    """Answers one client until it goes.

    Args:
        connection: To the client.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._file: ReplicaFile | None = None
        self._arena = Arena(0)
        self._known: dict[int, Segment] = {}
        self._scans: dict[int, Scan] = {}
        self._answers: dict[Operation, Callable[[Reader], tuple[bytes, list[int]]]] = {
            Operation.OPEN: self._open,
            Operation.LOCK: self._lock,
            Operation.READ: self._read,
            Operation.PRAGMA: self._pragma,
        }

    def serve(self) -> None:
        """Take requests until the client closes the connection, in order or not."""
        with self._connection, suppress(OSError):
            while request := self._receive():
                operation, payload = request
                if operation is Operation.UNLOCK and self._file is not None:
                    self._file.xUnlock(apsw.SQLITE_LOCK_NONE)
                if operation in self._answers:
                    self._send(*self._answer(operation, payload))
                if operation is Operation.READ and self._scans:
                    self._prepare()

    def _answer(self, operation: Operation, payload: Reader) -> tuple[bytes, list[int]]:
        try:
            body, fds = self._answers[operation](payload)
            return frame(0, body), fds
        except Exception as error:  # noqa: BLE001 - it is the client's, whatever it is
            return error_reply(coded(error)), []

    def _open(self, payload: Reader) -> tuple[bytes, list[int]]:
        txid, label, url = payload.u64(), payload.text() or "", payload.text() or ""
        here = payload.text() or "/"
        parameters: dict[str, str] = {}
        while payload.left:
            name = payload.text() or ""
            parameters[name] = payload.text() or ""
        parameters["replica_url"] = url
        path = parameters.get("hydration_path")
        if path is None and not parameters.get("cache_dir"):
            path = os.environ.get(PATH_VARIABLE)
        parameters["hydration_path"] = str(Path(here, path)) if path else ""
        folder = parameters.get("cache_dir", os.environ.get(DIR_VARIABLE, ""))
        parameters["cache_dir"] = str(Path(here, folder)) if folder else ""
        if txid:
            parameters.pop("at", None)
            parameters["txid"] = f"{txid:016x}"
        self._file = open_file(label, parameters, self._is_called_off, SharedCache)
        cache = self._file.source.cache
        assert isinstance(cache, SharedCache)
        self._arena, self._placed = cache.arena, Places(self._file, cache)
        _kept[:] = [self._file.source]  # whoever comes next finds its pages
        return state(self._file), []

    def _lock(self, _: Reader) -> tuple[bytes, list[int]]:
        self._opened.xLock(apsw.SQLITE_LOCK_SHARED)
        return state(self._opened), []

    def _pragma(self, payload: Reader) -> tuple[bytes, list[int]]:
        answer = self._opened.pragma((payload.text() or "").lower(), payload.text())
        told = b"\0" if answer is None else b"\1" + answer.encode()
        return state(self._opened) + told, []

    def _read(self, payload: Reader) -> tuple[bytes, list[int]]:
        first, places = payload.u32(), self._placed
        expected = next((each for each in self._scans if 0 <= first - each <= _SKIPPED), 0)
        scan = self._scans.pop(expected, None)
        if scan is None:
            scan = Scan(_FIRST_PLACES)
        else:
            scan.window = min(2 * scan.window, _MOST_PLACES)
            places.ask_ahead(scan, first)
        most = scan.window
        found = places.at_hand(first, most) or [places.one(first), *places.at_hand(first + 1, most - 1)]
        self._scans[first + len(found)] = scan
        if len(self._scans) > _MOST_SCANS:
            del self._scans[next(iter(self._scans))]
        return self._tell(first, found)

    def _prepare(self) -> None:
        """Have the pages read that follow, while the client is busy with those that it was told of."""
        first, scan = next(reversed(self._scans.items()))
        if scan.window >= _LONG_WINDOW:
            with suppress(Exception):  # whoever asks for a page is told what is wrong with it
                self._placed.ask_ahead(scan, first)

    def _tell(self, first: int, places: Sequence[Place]) -> tuple[bytes, list[int]]:
        """Tell where pages lie, and which segments are new to the client, or used no more."""
        gone = [each for each in self._known if self._arena.segment(each) is None]
        for each in gone:
            del self._known[each]
        new: list[Segment] = []
        for each in dict.fromkeys(map(segment_of, places)):
            if each in self._known:
                continue
            segment = self._arena.segment(each)
            if segment is None:  # others filled the memory just now: the client asks again for what was there
                places = [*takewhile(lambda place: segment_of(place) != each, places)]  # noqa: B023
                break
            new.append(segment)
            self._known[each] = segment
        words = [len(gone), *gone, len(new)]
        for segment in new:
            words += [segment.number, segment.size]
        words += [first, len(places)]
        return numbers("I", words) + numbers("Q", places), [segment.fd for segment in new]

    @property
    def _opened(self) -> ReplicaFile:
        assert self._file is not None, "a client opens first"
        return self._file

    def _is_called_off(self) -> bool:
        """Whether the client wants no answer any more: it says so, or it is gone."""
        return bool(self._poll.poll(0))

    def _receive(self) -> tuple[Operation, Reader] | None:
        head = self._exactly(5)
        if not head:
            return None
        payload = self._exactly(int.from_bytes(head[:4], Reader.ORDER))
        return Operation(head[4]), Reader(payload)

    def _exactly(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            more = self._connection.recv(size - len(read))
            if not more:
                return b""
            read += more
        return read

    def _send(self, data: bytes, fds: list[int]) -> None:
        sent = socket.send_fds(self._connection, [data], fds) if fds else 0
        self._connection.sendall(data[sent:])
