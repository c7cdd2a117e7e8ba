"""From a URL to its backend: which class serves a scheme, imported when it is first used."""

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import NamedTuple

from backends.base import Backend
from backends.errors import ConfigError, MissingDependencyError, UnknownSchemeError

__all__ = ["ENTRY_POINT_GROUP", "open_backend", "register", "schemes"]

ENTRY_POINT_GROUP = "ltx.backends"
"""Other packages name their backends in this group: `scheme = "module:Class"`."""

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)(?=://|::)")
_MISSPELT = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):(?!//|:)(.*)", re.DOTALL)
_CHAIN = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+::|::[a-zA-Z][a-zA-Z0-9+.-]+(?:://|::)")
_FSSPEC = "backends.fsspec:FsspecBackend"
_FAULTY = "faulty+"
"""Before any other scheme: that backend, some of whose calls fail, for tests (`backends.faulty`)."""


class _Entry(NamedTuple):
    target: str
    extra: str = ""


_entries: dict[str, _Entry] = {
    "abfs": _Entry("backends.azure:AzureBackend", "azure"),
    "abs": _Entry("backends.azure:AzureBackend", "azure"),
    "az": _Entry("backends.azure:AzureBackend", "azure"),
    "file": _Entry("backends.local:LocalBackend"),
    "gcs": _Entry("backends.gcs:GCSBackend", "gcs"),
    "gs": _Entry("backends.gcs:GCSBackend", "gcs"),
    "memory": _Entry("backends.memory:MemoryBackend"),
    "s3": _Entry("backends.s3:S3Backend", "s3"),
    "sftp": _Entry("backends.sftp:SFTPBackend", "sftp"),
    "webdav": _Entry("backends.webdav:WebDAVBackend", "webdav"),
    "webdavs": _Entry("backends.webdav:WebDAVBackend", "webdav"),
}


def schemes() -> Mapping[str, str]:
    """Return every registered scheme and the `module:Class` that serves it, other packages' included."""
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

    A scheme that is not registered goes to fsspec where fsspec knows it, chained URLs included. `faulty+` before a
    scheme opens its backend with faults.

    Args:
        url: Such as `s3://bucket/app?region=eu-west-1`, `file:///backups/app` or `backups/app`.
        options: Handed to the backend as they are; they win over the URL.

    Raises:
        UnknownSchemeError: Neither we nor fsspec know the scheme.
        MissingDependencyError: The scheme's library is not installed; the message says what to install.
        ConfigError: The URL or an option is wrong.
    """
    match = _SCHEME.match(url)
    _check_spelling(url)
    scheme = match[1].lower() if match else "file"
    entry = _entry(scheme, chained=bool(match and _CHAIN.search(url)))
    module_name, _, class_name = entry.target.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not entry.extra or missing == module_name.partition(".")[0]:
            raise  # our own import is broken: that is no missing library
        raise MissingDependencyError(
            f"{scheme}:// needs the package {missing}: pip install 'ltx[{entry.extra}]'"
        ) from error
    if not hasattr(module, class_name):
        raise ConfigError(f"{scheme}:// is registered as {entry.target}, but there is no such class")
    backend: Backend = getattr(module, class_name).from_url(url, **options)
    return backend


def _check_spelling(url: str) -> None:
    """Refuse `s3:/bucket`, which would quietly be a folder."""
    found = _MISSPELT.match(url)
    if found and found[1].lower() in schemes():
        place = found[2] if found[1] == "file" else found[2].lstrip("/")
        raise ConfigError(
            f"a URL has two slashes: write {found[1]}://{place}, or ./{url} for a folder of that name"
        )


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
