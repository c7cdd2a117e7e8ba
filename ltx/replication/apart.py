"""No two databases write to one replica: each would take what the other one wrote for its own past."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from backends import ConfigError

__all__ = ["Apart"]

_FILES = re.compile("ltx|000[0-9]", re.ASCII)
"""Folders in which a replica keeps its files."""


class Apart:
    """Who has which replica."""

    def __init__(self) -> None:
        self._owners: dict[str, Path] = {}
        self._around: dict[str, Path] = {}
        """Places that would have their files where somebody's replica is."""

    def take(self, database: Path, urls: Iterable[str]) -> None:
        """Give a database its replicas, all or none.

        Raises:
            backends.ConfigError: One of them is another database's, or lies among its files, or is named twice.
        """
        owners: dict[str, Path] = {}
        around: dict[str, Path] = {}
        for url in urls:
            place = _place(url)
            if place in owners:
                raise ConfigError(f"{database} has the replica {url} twice: name it once")
            if place in self._owners:
                raise ConfigError(
                    f"{url} is the replica of {self._owners[place]}, and cannot be that of {database}, too: "
                    "every database needs one of its own"
                )
            above = list(_around(place))
            other = next(
                (found[each] for found in (self._owners, owners) for each in above if each in found), None
            )
            other = other or self._around.get(place) or around.get(place)
            if other is not None:
                raise ConfigError(
                    f"of {url}, the replica of {database}, and that of {other} one lies among the other one's files: "
                    "every replica needs a folder of its own"
                )
            owners[place] = database
            around |= dict.fromkeys(above, database)
        self._owners |= owners
        self._around |= around


def _place(url: str) -> str:
    """Return a URL so that two for one place are equal: what follows `?` goes first, and tells services apart."""
    if url.startswith("file://"):
        return f"file://{os.path.realpath(unquote(urlsplit(url).path))}".rstrip("/")
    base, _, query = url.partition("?")
    return f"{query}?{base.rstrip('/')}"


def _around(place: str) -> Iterator[str]:
    parts = place.split("/")
    for number, part in enumerate(parts):
        if _FILES.fullmatch(part):
            yield "/".join(parts[:number])
