"""The errors of a storage backend, by what a caller would do about them.

BackendError
├── NotFoundError (FileNotFoundError)        the key does not exist
├── AlreadyExistsError (FileExistsError)     an exclusive create found the key taken
├── PermissionDeniedError (PermissionError)  credentials are missing, wrong, or do not allow it
├── UnavailableError                         the service did not answer; a retry may help
├── UnsupportedError                         this backend has no such capability
└── ConfigError (ValueError)                 a URL or an option is wrong
    ├── UnknownSchemeError                   no backend has this scheme
    └── MissingDependencyError (ImportError) the scheme's library is not installed

No secret is in a message: a backend names itself by its redacted URL.
"""

__all__ = [
    "AlreadyExistsError",
    "BackendError",
    "ConfigError",
    "MissingDependencyError",
    "NotFoundError",
    "PermissionDeniedError",
    "UnavailableError",
    "UnknownSchemeError",
    "UnsupportedError",
]


class BackendError(Exception):
    """The storage did not do what was asked.

    Attributes:
        key: The object it was about; None where it was none in particular.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return self.message  # FileNotFoundError and its like would print an errno


class NotFoundError(BackendError, FileNotFoundError):
    """No object has this key."""


class AlreadyExistsError(BackendError, FileExistsError):
    """An exclusive create found that the key is taken; the object there is unchanged."""


class PermissionDeniedError(BackendError, PermissionError):
    """The credentials are missing, wrong or expired, or they do not allow this."""


class UnavailableError(BackendError):
    """The service did not answer, or answered that it cannot now: a retry may help.

    Attributes:
        retry_after_s: Seconds the service asked to wait; None where it named none.
        reached: False where no connection could be made, so that nothing was sent.
        silent: The service did not answer in time and has never answered before: it may not be one.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        retry_after_s: float | None = None,
        reached: bool = True,
        silent: bool = False,
    ) -> None:
        super().__init__(message, key=key)
        self.retry_after_s = retry_after_s
        self.reached = reached
        self.silent = silent


class UnsupportedError(BackendError):
    """This backend lacks the capability that the call needs (`Backend.capabilities`)."""


class ConfigError(BackendError, ValueError):
    """A URL, an option or a key is wrong, or names a place that is not there, such as a bucket."""


class UnknownSchemeError(ConfigError):
    """No backend is registered for the URL's scheme."""


class MissingDependencyError(ConfigError, ImportError):
    """The library behind a scheme is not installed; the message names the extra that brings it."""
