"""From an error to one line: what happened; what to do."""

import errno
import re

import apsw

from backends import (
    BackendError,
    ConfigError,
    MissingDependencyError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from ltx.errors import (
    ConflictError,
    CorruptError,
    DatabaseError,
    GapError,
    LTXError,
    NoSnapshotError,
    NotReachableError,
    OutputExistsError,
    UnsupportedVersionError,
)
from ltx.format import format_txid

__all__ = ["describe"]

_VERIFY = "run 'ltx verify' to see what the replica can give"

_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (ConflictError, ""),
    (OutputExistsError, ""),
    (NoSnapshotError, _VERIFY),
    (NotReachableError, _VERIFY),
    (UnsupportedVersionError, "a newer version of this program may know it"),
    (CorruptError, _VERIFY),
    (DatabaseError, "nothing was changed"),
    (LTXError, ""),
    (PermissionDeniedError, "check the credentials, and what they allow"),
    (NotFoundError, "check the URL, then run it again"),
    (UnavailableError, "check the address and the network, then run it again"),
    (UnsupportedError, "use another storage for this"),
    (MissingDependencyError, "install it, then run it again"),
    (ConfigError, "check the URL and what is typed for the storage"),
    (BackendError, "look at the storage, then run it again"),
    (apsw.FullError, "free some space, then run it again"),
    (apsw.Error, "check the database file, and who may read and write it"),
)
"""What to do about an error whose own message does not say it; the first class that fits."""

_SYSTEM_ADVICE = {
    errno.ENOSPC: "free some space, then run it again",
    errno.EDQUOT: "free some space, then run it again",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "choose a place that can be written",
    errno.EMFILE: "raise the limit of open files, then run it again",
}


_ADVISES = re.compile(r"; |: (?:check|choose|find|install|make|name|pip install|set|stop|try|use|write) ")

_ERRNO = re.compile(r"\[Errno -?\d+\] ")


def describe(error: BaseException) -> str:
    """Return one line that says what happened, and what to do."""
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return _line(_spoken(error), advice)
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        place = f": {error.filename}" if error.filename else ""
        return _line(f"{text}{place}", _SYSTEM_ADVICE.get(error.errno or 0, "look at it, then run it again"))
    if isinstance(error, MemoryError):
        return "out of memory; give it more, or report this: it should not need much"
    name = type(error).__name__
    return _line(
        f"an error in this program, {name}: {error}", "set LTX_DEBUG=1 to see where, and please report it"
    )


def _line(text: str, advice: str) -> str:
    """Put text and advice in one line, unless the text says itself what to do."""
    line = " ".join(text.split())
    return line if not advice or _ADVISES.search(line) else f"{line}; {advice}"


def _spoken(error: BaseException) -> str:
    """Name options as they are typed here, not as they are called in Python."""
    text = _ERRNO.sub("", str(error).replace(" (force=True)", ""))
    if isinstance(error, GapError) and error.after:
        text = (
            text.removesuffix(": ask for it by its TXID")
            + f"; --txid {format_txid(error.after)} restores that"
        )
    return text
