"""What the replicas of one database have, asked at the same time: one that does not answer keeps nobody waiting for long."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple
from urllib.parse import urlsplit

from backends import BackendError, UnavailableError
from ltx.errors import ConflictError
from ltx.replica.files import LTXFile
from ltx.replication.line import Line
from ltx.replication.upload import Uploader

__all__ = ["Look", "look_at_all", "most_ahead", "service_of"]

_GRACE_S, _SHORT_GRACE_S = 5.0, 0.2
"""For how long the others are waited for once one has answered; less where they were silent just now."""

_SILENT_S = 60.0
_silent: dict[str, float] = {}
"""When services were silent last, by the monotonic clock: what is so for one database is so for all of this process."""


class Look(NamedTuple):
    """What one replica has.

    Attributes:
        uploader: The replica's.
        files: All its files.
        newest: The file of the lowest level that ends with its newest transaction; None where there are no files.
        checksum: What that ends with.
    """

    uploader: Uploader
    files: list[LTXFile]
    newest: LTXFile | None
    checksum: int


def service_of(uploader: Uploader) -> str:
    """Return what a replica has in common with others that are there or not there together with it."""
    return "{0.scheme}://{0.netloc}".format(urlsplit(uploader.replica.url))


def look_at_all(uploaders: Sequence[Uploader]) -> tuple[list[Look], BackendError | None]:
    """Ask all replicas what they have, at the same time.

    Whoever does not answer, or not soon after another one did, is `late` and has an `error`: its next push looks again.

    Returns:
        The answers, and an error where there is none.
    """
    answers: SimpleQueue[tuple[Uploader, Look | Exception]] = SimpleQueue()
    if len(uploaders) == 1:
        _ask(uploaders[0], answers)
    else:
        for uploader in uploaders:
            threading.Thread(target=_ask, args=(uploader, answers), name="look", daemon=True).start()
    waiting, found = list(uploaders), list[Look]()
    until: float | None = None
    while waiting:
        try:
            uploader, answer = answers.get(timeout=until and max(0.0, until - time.monotonic()))
        except Empty:
            break
        waiting.remove(uploader)
        if isinstance(answer, Look):
            found.append(answer)
            _silent.pop(service_of(uploader), None)
            until = until or time.monotonic() + (
                _SHORT_GRACE_S if all(map(_is_silent, waiting)) else _GRACE_S
            )
        elif isinstance(answer, BackendError):
            uploader.error, uploader.late = answer, True
            if isinstance(answer, UnavailableError):
                _silent[service_of(uploader)] = time.monotonic()
        else:
            raise answer
    for uploader in waiting:
        uploader.error = UnavailableError(f"{uploader.replica.url} did not answer at once; it is asked again")
        uploader.late = True
        _silent[service_of(uploader)] = time.monotonic()
    errors = [uploader.error for uploader in uploaders if isinstance(uploader.error, BackendError)]
    return found, None if found else next(iter(errors), None)


def most_ahead(found: list[Look], line: Line, check: Callable[[Look], None], *, are_all: bool) -> Look | None:
    """Return the replica that has most, where that is more than a line has, or something else.

    Another database's is taken out, with its error, and the others go on.

    Args:
        found: What the replicas have.
        line: What is known here.
        check: Raises `ConflictError` where somebody else wrote there.
        are_all: Whether there are no others, that may answer later.

    Raises:
        ConflictError: All of them are, and there are no others.
    """
    refused: list[tuple[Look, ConflictError]] = []
    ahead = None
    for look in sorted(found, key=lambda each: each.newest.max_txid if each.newest else 0, reverse=True):
        if not line.is_behind(look.uploader.replica, look.newest, look.checksum):
            break
        try:
            check(look)
        except ConflictError as conflict:
            refused.append((look, conflict))
        else:
            ahead = look
            break
    if are_all and len(refused) == len(found):
        raise refused[0][1]
    for look, error in refused:
        found.remove(look)
        look.uploader.error, look.uploader.late = error, False
    return ahead


def _ask(uploader: Uploader, answers: "SimpleQueue[tuple[Uploader, Look | Exception]]") -> None:
    try:
        answers.put((uploader, Look(uploader, *uploader.look())))
    except Exception as error:  # noqa: BLE001 - raised again by who waits
        answers.put((uploader, error))


def _is_silent(uploader: Uploader) -> bool:
    return time.monotonic() - _silent.get(service_of(uploader), -_SILENT_S) < _SILENT_S
