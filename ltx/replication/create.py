"""Creating an object of a replica: once, by one writer."""

from typing import BinaryIO

from backends import AlreadyExistsError, NotFoundError
from ltx.errors import ConflictError
from ltx.replica.replica import Replica
from ltx.replication.baseline import checksum_at

__all__ = ["create_object"]


def create_object(
    replica: Replica, key: str, staged: BinaryIO, file_checksum: int, timestamp_ms: int
) -> None:
    """Create the object, or find that a try of our own created it.

    Where the storage keeps no second writer out, it is looked at before and after: of two that write at the same moment
    the first one finds the other's object.

    Raises:
        ConflictError: Somebody else's object is there.
    """
    backend = replica.backend
    exclusive = backend.capabilities.put_if_absent
    try:
        if not exclusive and _exists(replica, key):
            raise AlreadyExistsError(f"{key} exists", key=key)
        staged.seek(0)
        backend.put(key, staged, if_absent=exclusive, timestamp_ms=timestamp_ms)
        if not exclusive and checksum_at(replica, key) != file_checksum:
            raise AlreadyExistsError(f"{key} was written over", key=key)
    except AlreadyExistsError as error:
        if checksum_at(replica, key) == file_checksum:
            return
        raise ConflictError(
            f"{replica.url}/{key} was written by somebody else just now; one database has one writer: "
            "find the other one, then run this again",
            key=key,
        ) from error


def _exists(replica: Replica, key: str) -> bool:
    try:
        replica.backend.head(key)
    except NotFoundError:
        return False
    return True
