"""The errors of botocore, aiohttp and s3fs, turned into ours: the one place where that is done for S3."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from botocore import exceptions as boto

from backends.errors import BackendError, ConfigError, PermissionDeniedError, UnavailableError
from backends.s3_place import S3Place
from backends.s3_protocol import of_answer

__all__ = ["client_error", "status_of", "translated"]

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
