"""What Azure Blob Storage answers, in our terms: whatever library asked."""

from http import HTTPStatus

from backends.azure_place import AzurePlace
from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

__all__ = ["CONTENT_TYPE", "SET_CREDENTIALS", "TIMESTAMP_NAME", "of_answer"]

TIMESTAMP_NAME = "litestreamtimestamp"
"""Metadata, where Litestream looks for it too; Azure allows no hyphen in a name."""

CONTENT_TYPE = "application/octet-stream"

SET_CREDENTIALS = (
    "set account_key, sas_token or connection_string, or LITESTREAM_AZURE_ACCOUNT_KEY, LITESTREAM_AZURE_SAS_TOKEN or "
    "AZURE_STORAGE_CONNECTION_STRING, or log in with `az login`"
)

_KINDS: dict[str, type[BackendError]] = {
    "BlobNotFound": NotFoundError,
    "BlobAlreadyExists": AlreadyExistsError,
    "ConditionNotMet": AlreadyExistsError,
    "ContainerNotFound": ConfigError,
    "ContainerBeingDeleted": UnavailableError,
    "InvalidBlockList": UnavailableError,  # a second writer's commit dropped our blocks: the whole put may be tried again
    "InvalidResourceName": ConfigError,
    "ServerBusy": UnavailableError,
    "OperationTimedOut": UnavailableError,
    "AuthenticationFailed": PermissionDeniedError,
    "NoAuthenticationInformation": PermissionDeniedError,
}
_KINDS_BY_STATUS: dict[int, type[BackendError]] = {
    HTTPStatus.UNAUTHORIZED: PermissionDeniedError,
    HTTPStatus.FORBIDDEN: PermissionDeniedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: UnavailableError,
    HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
}


def of_answer(place: AzurePlace, key: str | None, status: int, code: str, wait: str = "") -> BackendError:
    """Say in our terms what the service answered.

    Args:
        place: What was asked.
        key: The object it was about; None where it was a listing.
        status: Of HTTP.
        code: The service's own, or words where it gave none.
        wait: Its header Retry-After.
    """
    kind = _KINDS.get(code) or _KINDS_BY_STATUS.get(status)
    kind = kind or (UnavailableError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else BackendError)
    said = f"{place.url}: {status} {code}".rstrip()
    if kind is NotFoundError and key is None:
        return ConfigError(f"{said}: no container is listed at {place.endpoint}: correct the endpoint")
    if kind is NotFoundError:
        return NotFoundError(f"{place.url} has no object {key}", key=key)
    if kind is AlreadyExistsError:
        return AlreadyExistsError(f"{place.url} has an object {key}", key=key)
    if kind is PermissionDeniedError:
        return PermissionDeniedError(f"{said}: {place.tried} was tried; {SET_CREDENTIALS}", key=key)
    if code == "ContainerNotFound":
        return ConfigError(f"{place.url}: there is no such container", key=key)
    if kind is UnavailableError:
        return UnavailableError(said, key=key, retry_after_s=float(wait) if wait.isdecimal() else None)
    return kind(said, key=key)
