"""From a URL to its backend: which class serves a scheme, imported when it is first used."""

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import NamedTuple

from backends.base import Backend
from backends.errors import ConfigError, MissingDependencyError, UnknownSchemeError, UnsupportedError

__all__ = ["ENTRY_POINT_GROUP", "open_backend", "register", "schemes"]

ENTRY_POINT_GROUP = "ltx.backends"
"""Other packages name their backends in this group: `scheme = "module:Class"`."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)(?=://|::)")
_CHAIN = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+::|::[a-zA-Z][a-zA-Z0-9+.-]+(?:://|::)")
_MISSPELT = r"(?s)([a-zA-Z][a-zA-Z0-9+.-]+):(?!//|:)(.*)"
_NO_COLON = r"(?s)([a-zA-Z][a-zA-Z0-9+.-]+)//(.*)"
_FSSPEC = "backends.fsspec:FsspecBackend"
_FAULTY = "faulty+"
"""Before any other scheme: that backend, some of whose calls fail, for tests (`backends.faulty`)."""


class _Entry(NamedTuple):
    target: str
    extra: str = ""
    fast: str = ""
    """The class that serves it where obstore is installed too, as far as obstore can."""


_AZURE = _Entry("backends.azure:AzureBackend", "azure", "backends.obstore_azure:ObstoreAzureBackend")
_GCS = _Entry("backends.gcs:GCSBackend", "gcs", "backends.obstore_gcs:ObstoreGCSBackend")
_S3 = _Entry("backends.s3:S3Backend", "s3", "backends.obstore_s3:ObstoreS3Backend")
_LIBRARIES = {"azure": "adlfs", "gcs": "gcsfs", "s3": "s3fs"}
"""What the extras bring that obstore does not replace."""

_entries: dict[str, _Entry] = {
    "abfs": _AZURE,
    "abs": _AZURE,
    "az": _AZURE,
    "file": _Entry("backends.local:LocalBackend"),
    "gcs": _GCS,
    "gs": _GCS,
    "memory": _Entry("backends.memory:MemoryBackend"),
    "s3": _S3,
    "sftp": _Entry("backends.sftp:SFTPBackend", "sftp"),
    "webdav": _Entry("backends.webdav:WebDAVBackend", "webdav"),
    "webdavs": _Entry("backends.webdav:WebDAVBackend", "webdav"),
}


def schemes() -> Mapping[str, str]:
    """Return every registered scheme and the `module:Class` that serves it, other packages' included."""
    from importlib.metadata import entry_points  # which takes a tenth of what it takes to load this project

    found = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return MappingProxyType(found | {scheme: entry.target for scheme, entry in _entries.items()})


def register(scheme: str, target: str, *, extra: str = "") -> None:
    """Serve a scheme by a class, which is imported when the first URL with that scheme is opened.

    Args:
        scheme: Such as `ftp`, without `://`.
        target: `module:Class`, a subclass of `Backend`.
        extra: The extra of this package that installs what the module imports; "" where nothing does.

    Raises:
        ConfigError: The scheme is taken by another class, or a name is malformed.
    """
    if not re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme):
        raise ConfigError(f"not a URL scheme: {scheme!r}")
    if not re.fullmatch(r"[\w.]+:\w+", target):
        raise ConfigError(f"a backend is named 'module:Class', not {target!r}")
    known = schemes().get(scheme)
    if known not in (None, target):
        raise ConfigError(f"{scheme}:// is served by {known} already, so not by {target}")
    _entries[scheme] = _Entry(target, extra)


def open_backend(url: str, **options: object) -> Backend:
    """Open the backend that a URL names; a plain path is a local folder. Nothing is sent yet.

    S3, Google and Azure are asked through obstore where it is installed and can do what is asked for. A scheme that is
    not registered goes to fsspec where fsspec knows it, chained URLs included. `faulty+` before a scheme opens its
    backend with faults.

    Args:
        url: Such as `s3://bucket/app?region=eu-west-1`, `file:///backups/app` or `backups/app`.
        options: Handed to the backend as they are; they win over the URL.

    Raises:
        UnknownSchemeError: Neither we nor fsspec know the scheme.
        MissingDependencyError: The scheme's library is not installed; the message says what to install.
        ConfigError: The URL or an option is wrong.
    """
    match = _SCHEME.match(url)
    if match is None:
        _check_spelling(url)
    scheme = match[1].lower() if match else "file"
    entry = _entry(scheme, chained=bool(match and _CHAIN.search(url)))
    if entry.fast and _installed("obstore") and _installed(_LIBRARIES[entry.extra]):
        with suppress(UnsupportedError):  # what obstore cannot do is for the library alone
            return _load(scheme, entry.fast, entry.extra).from_url(url, **options)
    return _load(scheme, entry.target, entry.extra).from_url(url, **options)


def _check_spelling(url: str) -> None:
    """Refuse `s3:/bucket` and `s3//bucket`, which would quietly be folders."""
    missing = re.match(_NO_COLON, url)
    if missing and missing[1].lower() in schemes():
        raise ConfigError(
            f"a URL has a colon: did you mean {missing[1]}://{missing[2]}? Write ./{url} for a folder of that name"
        )
    found = re.match(_MISSPELT, url)
    if found and found[1].lower() in schemes():
        place = found[2] if found[1] == "file" else found[2].lstrip("/")
        raise ConfigError(
            f"a URL has two slashes: write {found[1]}://{place}, or ./{url} for a folder of that name"
        )


def _installed(name: str) -> bool:
    return sys.modules.get(name) is not None or find_spec(name) is not None


def _load(scheme: str, target: str, extra: str) -> type[Backend]:
    module_name, _, class_name = target.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not extra or missing == module_name.partition(".")[0]:
            raise  # our own import is broken: that is no missing library
        raise MissingDependencyError(
            f"{scheme}:// needs the package {missing}: pip install 'ltx[{extra}]'"
        ) from error
    if not hasattr(module, class_name):
        raise ConfigError(f"{scheme}:// is registered as {target}, but there is no such class")
    found: type[Backend] = getattr(module, class_name)
    return found


def _entry(scheme: str, *, chained: bool) -> _Entry:
    if scheme.startswith(_FAULTY):
        return _Entry("backends.faulty:FaultyBackend")
    if chained:
        return _Entry(_FSSPEC)
    if scheme in _entries:
        return _entries[scheme]
    known = schemes()
    if scheme in known:
        return _Entry(known[scheme])
    from fsspec.registry import known_implementations, registry

    if scheme in known_implementations or scheme in registry:
        return _Entry(_FSSPEC)
    raise UnknownSchemeError(
        f"no backend for {scheme}://; there is {', '.join(sorted(known))}, and whatever fsspec knows"
    )
