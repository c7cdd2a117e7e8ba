"""The errors of botocore, aiohttp and s3fs, turned into ours: the one place where that is done for S3."""

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

import aiohttp
from botocore import exceptions as boto

from backends.errors import (
    AlreadyExistsError,
    BackendError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    UnsupportedError,
)
from backends.s3_place import S3Place

__all__ = ["client_error", "of_answer", "status_of", "translated"]

_SET_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile, or the options key and secret"
_REFUSED = {
    "InvalidAccessKeyId": _SET_KEYS,
    "InvalidClientTokenId": _SET_KEYS,
    "SignatureDoesNotMatch": _SET_KEYS,
    "AuthorizationHeaderMalformed": "check the region",
    "ExpiredToken": "the session token has expired: fetch new credentials",
    "InvalidToken": "the session token is wrong: fetch new credentials",
    "TokenRefreshRequired": "the session token has expired: fetch new credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}
_KINDS: dict[str, type[BackendError]] = {
    "NoSuchKey": NotFoundError,
    "NoSuchVersion": NotFoundError,
    "PreconditionFailed": AlreadyExistsError,
    "NoSuchUpload": UnavailableError,  # somebody aborted it: the whole put may be tried again
    "ConditionalRequestConflict": UnavailableError,
    "OperationAborted": UnavailableError,
    "RequestTimeout": UnavailableError,
    "IncompleteBody": UnavailableError,
    "BadDigest": UnavailableError,  # the bytes were damaged on their way
    "XAmzContentSHA256Mismatch": UnavailableError,
    "SlowDown": UnavailableError,
    "Throttling": UnavailableError,
    "ThrottlingException": UnavailableError,
    "NotImplemented": UnsupportedError,
    "KeyTooLongError": ConfigError,
    "InvalidBucketName": ConfigError,
    "InvalidStorageClass": ConfigError,
    "PermanentRedirect": ConfigError,
    "IllegalLocationConstraintException": ConfigError,
}
_KINDS_BY_STATUS: dict[int, type[BackendError]] = {
    HTTPStatus.MOVED_PERMANENTLY: ConfigError,
    HTTPStatus.UNAUTHORIZED: PermissionDeniedError,
    HTTPStatus.FORBIDDEN: PermissionDeniedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: UnavailableError,
    HTTPStatus.CONFLICT: UnavailableError,
    HTTPStatus.PRECONDITION_FAILED: AlreadyExistsError,
    HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
    HTTPStatus.NOT_IMPLEMENTED: UnsupportedError,
}
_RIGHTS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "delete_objects": "s3:DeleteObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_WRONG = (
    boto.ProfileNotFound,
    boto.ParamValidationError,
    boto.ConfigParseError,
    boto.InvalidRegionError,
    ValueError,
)
_NOT_REACHED = (boto.ConnectTimeoutError, boto.ProxyConnectionError)
_BROKEN = (
    boto.EndpointConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    aiohttp.ClientError,
    OSError,
)


def client_error(error: BaseException) -> boto.ClientError | None:
    """Return the service's answer where the error is one; s3fs hides it as the cause of others."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, boto.ClientError):
        found = found.__cause__
    return found


def status_of(error: BaseException) -> int:
    """Return the HTTP status of the service's answer, 0 where there was none."""
    answer = client_error(error)
    return int(answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if answer else 0


def of_answer(
    place: S3Place, key: str | None, operation: str, status: int, error: Mapping[str, str], wait: str = ""
) -> BackendError:
    """Say in our terms what the service answered: for a request, or for one key of many."""
    code = error.get("Code", "")
    said = f"{status or ''} {code if not code.isdecimal() else ''}".strip()
    where = f"s3://{place.bucket}/{place.root}{key or ''} at {place.shown}"
    if code == "NoSuchBucket":
        return ConfigError(
            f"the bucket {place.bucket} does not exist at {place.shown}: create it or correct the URL"
        )
    if code in _REFUSED:
        return PermissionDeniedError(
            f"credentials were refused ({said}) by {place.shown}: {_REFUSED[code]}", key=key
        )
    kind = _KINDS.get(code) or _KINDS_BY_STATUS.get(status)
    if kind is PermissionDeniedError or code == "AccessDenied":
        needed = _RIGHTS.get(operation, "s3:PutObject")
        return PermissionDeniedError(f"not allowed ({said}): {needed} is needed on {where}", key=key)
    if kind is NotFoundError:
        return NotFoundError(f"there is no object {where}", key=key)
    if kind is AlreadyExistsError:
        return AlreadyExistsError(f"there is an object already: {where}", key=key)
    message = f"{operation} was answered with {said}: {error.get('Message') or 'no reason given'}: {where}"
    if kind is UnavailableError or (kind is None and status >= HTTPStatus.INTERNAL_SERVER_ERROR):
        seconds = float(wait) if re.fullmatch(r"\d{1,6}", wait) else None
        return UnavailableError(message, key=key, retry_after_s=seconds)
    return (kind or BackendError)(message, key=key)


@contextmanager
def translated(place: S3Place, key: str | None, operation: str) -> Iterator[None]:
    """Turn what botocore, aiohttp and s3fs raise into ours."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        found = _error(place, key, operation, error)
        if found is None:
            raise
        raise found from error


def _is_refused(error: Exception) -> bool:
    """Say whether there was no connection at all; aiobotocore gives a broken one the same class."""
    if not isinstance(error, boto.EndpointConnectionError):
        return False
    return isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorError | socket.gaierror)


def _error(place: S3Place, key: str | None, operation: str, error: Exception) -> BackendError | None:
    if answer := client_error(error):
        about = answer.response.get("ResponseMetadata", {})
        wait = about.get("HTTPHeaders", {}).get("retry-after", "")
        return of_answer(place, key, operation, status_of(answer), answer.response.get("Error", {}), wait)
    if isinstance(error, _NO_CREDENTIALS):
        return PermissionDeniedError(
            f"no credentials were found for s3://{place.bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"a profile, or anon=true for a public bucket ({type(error).__name__})",
            key=key,
        )
    if isinstance(error, boto.SSLError):
        return ConfigError(
            f"no trusted connection to {place.shown}: {error.kwargs.get('error')}; "
            "name the file of its CA in AWS_CA_BUNDLE, or write skipVerify=true"
        )
    if isinstance(error, _NOT_REACHED) or _is_refused(error):
        return UnavailableError(
            f"cannot connect to {place.shown} for s3://{place.bucket}", key=key, reached=False
        )
    if isinstance(error, boto.ReadTimeoutError | TimeoutError):
        return UnavailableError(
            f"{place.shown} did not answer {operation} in time: s3://{place.bucket}", key=key
        )
    if isinstance(error, boto.ProfileNotFound):
        return ConfigError(str(error))
    if isinstance(error, _WRONG):
        return ConfigError(
            f"botocore refuses the configuration of s3://{place.bucket}: {type(error).__name__}"
        )
    if isinstance(error, _BROKEN):
        return UnavailableError(f"the connection to {place.shown} broke during {operation}", key=key)
    if isinstance(error, boto.BotoCoreError):
        return BackendError(f"{operation} on s3://{place.bucket} failed: {type(error).__name__}", key=key)
    return None
