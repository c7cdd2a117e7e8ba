"""What S3 answers, in our terms, and how it lists: whatever library asked."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from itertools import takewhile

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

__all__ = ["CONTENT_TYPE", "TIMESTAMP_NAME", "begin_early", "of_answer"]

TIMESTAMP_NAME = "litestream-timestamp"
"""User metadata, where Litestream looks for it too."""

CONTENT_TYPE = "application/octet-stream"

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


def begin_early(start_after: str) -> str:
    """Return a name after which a service surely lists all that follows `start_after` in key order.

    A service that goes folder by folder takes `/` for the smallest character, so what follows is in its order only
    as far as the name has no character below `/`; and after `a` it leaves out `a/b`, hence one character less,
    which itself is above `/`.
    """
    safe = "".join(takewhile(lambda character: character >= "/", start_after))
    return safe if safe.endswith("/") else safe[:-1]
