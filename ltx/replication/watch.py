"""File events: which of some files were written to, and what comes and goes beside them."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchfiles import Change

__all__ = ["Watch"]

_SIDES = ("-wal", "-shm", "-journal")
_STEP_MS, _DEBOUNCE_MS = 5, 20
_AGAIN_S = 60.0
log = logging.getLogger("ltx")


class Watch:
    """Tells of events, in the thread of `run`, until `end`. All else may be called from any thread.

    Attributes:
        noticed: Is called with the path of a file that is none of those added, and came, changed or went in one of the
            folders of `look_into`; and with each such folder whenever events may have been missed.

    Args:
        changed: Is called with the path of a file that was added, and was written to.
        missed: Is called where events of any of them may have been missed.
    """

    def __init__(self, changed: Callable[[str], None], missed: Callable[[], None]) -> None:
        self.noticed: Callable[[str], None] | None = None
        self._changed, self._missed = changed, missed
        self._paths: frozenset[str] = frozenset()
        self._looked_into: frozenset[Path] = frozenset()
        self._anew = threading.Event()
        self._ended = False
        self._lock = threading.Lock()

    def add(self, paths: Iterable[str]) -> None:
        """Watch more files; they need not be there."""
        with self._lock:
            self._paths |= frozenset(paths)
        self._anew.set()

    def remove(self, paths: Iterable[str]) -> None:
        """Watch some files no longer."""
        with self._lock:
            self._paths -= frozenset(paths)
        self._anew.set()

    def look_into(self, folders: Iterable[Path]) -> None:
        """Say in which folders other files matter, too, in place of what was said."""
        self._looked_into = frozenset(folders)
        self._anew.set()

    def end(self) -> None:
        """Let `run` return."""
        self._ended = True
        self._anew.set()

    def run(self) -> None:
        """Tell of events until the end; where there can be none, that is logged."""
        while True:
            self._anew.clear()
            if self._ended:
                return
            folders = {Path(path).parent for path in self._paths} | self._looked_into
            try:
                self._follow([folder for folder in folders if folder.is_dir()])
            except (OSError, RuntimeError) as error:
                log.warning(
                    "no file events; databases are looked at now and then", extra={"error": str(error)}
                )
                self._anew.wait(_AGAIN_S)

    def _follow(self, folders: Sequence[Path]) -> None:
        """Follow the events of folders until others are to be followed, too, or all ends."""
        if not folders:
            self._anew.wait()
            return
        from watchfiles import watch

        events = watch(
            *folders,
            watch_filter=lambda change, path: path in self._paths or self._is_strange(change, path),
            step=_STEP_MS,
            debounce=_DEBOUNCE_MS,
            stop_event=self._anew,
            rust_timeout=500,
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=False,
        )
        fresh = True
        for changes in events:
            for change, path in changes:
                if path in self._paths:
                    self._changed(path)
                if self._is_strange(change, path):
                    self._notice(path)
            if fresh:  # what happened between two watches had no event
                self._missed()
                for folder in self._looked_into:
                    self._notice(str(folder))
            fresh = False

    def _is_strange(self, change: "Change", path: str) -> bool:
        if Path(path).parent not in self._looked_into or path.endswith(_SIDES):
            return False
        return path not in self._paths or change.name != "modified"

    def _notice(self, path: str) -> None:
        if self.noticed is not None:
            self.noticed(path)
