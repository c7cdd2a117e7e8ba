"""The errors of this package, by what a caller would do about them.

LTXError
├── CorruptError (ValueError)          the bytes contradict the LTX format
│   ├── TruncatedError                 they end too early
│   └── ChecksumError                  a checksum does not match them
├── UnsupportedVersionError            an LTX file of a version that we do not know
├── NonContiguousError                 files that do not follow each other cannot be merged
├── ReplicaError                       a replica does not give what was asked of it
│   ├── NoSnapshotError                it holds nothing that can be restored
│   ├── GapError                       files between others are missing
│   ├── NotReachableError              it does not hold this TXID or time, others it does
│   ├── ConflictError                  somebody else wrote where we write
│   └── OutputExistsError (FileExistsError)  a restore would overwrite a file
├── DatabaseError                      the database to replicate cannot be read as it must be
└── ConfigFileError (ValueError)       a configuration file is wrong, or asks for what is not here yet

Storage errors are `backends.BackendError`: a tree of its own, since a leaf cannot import the other.
"""

__all__ = [
    "ChecksumError",
    "ConfigFileError",
    "ConflictError",
    "CorruptError",
    "DatabaseError",
    "GapError",
    "LTXError",
    "NoSnapshotError",
    "NonContiguousError",
    "NotReachableError",
    "OutputExistsError",
    "ReplicaError",
    "TruncatedError",
    "UnsupportedVersionError",
]


class LTXError(Exception):
    """What this package raises, storage errors apart."""


class CorruptError(LTXError, ValueError):
    """The bytes contradict the LTX format.

    Attributes:
        offset: Where in the file, in bytes from its start; None where it is not known.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.offset is None else f"{text} (at byte {self.offset:,})"


class TruncatedError(CorruptError):
    """The file ends before its format allows it to."""


class ChecksumError(CorruptError):
    """A checksum in the file does not match its bytes."""


class UnsupportedVersionError(LTXError):
    """The magic is that of another version of LTX."""


class NonContiguousError(LTXError):
    """Two files were to be merged, and the second does not follow the first.

    Attributes:
        after: The last TXID of the first file.
        before: The first TXID of the second file.
    """

    def __init__(self, message: str, *, after: int | None = None, before: int | None = None) -> None:
        super().__init__(message)
        self.after = after
        self.before = before


class ReplicaError(LTXError):
    """A replica does not give what was asked of it."""


class NoSnapshotError(ReplicaError):
    """The replica holds no chain of files from TXID 1: nothing can be restored."""


class GapError(ReplicaError):
    """Files in the middle of a replica are missing.

    Attributes:
        after: The last TXID before the gap, which can be restored; None where nothing can.
        before: The first TXID after it.
    """

    def __init__(self, message: str, *, after: int | None = None, before: int | None = None) -> None:
        super().__init__(message)
        self.after = after
        self.before = before


class NotReachableError(ReplicaError):
    """The replica does not hold the state asked for.

    Attributes:
        before: The nearest TXID below that can be restored; None where there is none.
        after: The nearest TXID above that can be restored; None where there is none.
    """

    def __init__(self, message: str, *, before: int | None = None, after: int | None = None) -> None:
        super().__init__(message)
        self.before = before
        self.after = after


class ConflictError(ReplicaError):
    """Another writer published under a TXID that we were about to use. We stopped; its file is untouched.

    Attributes:
        key: The object that both wanted to create.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class OutputExistsError(ReplicaError, FileExistsError):
    """A restore would overwrite a file, and was not told to."""

    def __str__(self) -> str:
        return str(self.args[0])


class DatabaseError(LTXError):
    """The database cannot be read as replication must read it: it is locked, empty, or no database."""


class ConfigFileError(LTXError, ValueError):
    """A configuration file is wrong, or asks for something that is not here yet. Nothing was begun.

    Attributes:
        path: The file.
        line: Where in it, from 1; None where it is about the file as a whole.
    """

    def __init__(self, message: str, *, path: str = "", line: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.line = line

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line) if part)
        return f"{place}: {super().__str__()}" if place else super().__str__()
