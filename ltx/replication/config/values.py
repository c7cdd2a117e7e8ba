"""What a configuration comes to, whoever wrote it: the command line, or a file."""

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from backends import ConfigError
from ltx.errors import ConfigFileError
from ltx.replica.lineage import meta_folder
from ltx.replica.replica import Replica
from ltx.replication.database import Settings

__all__ = [
    "SAFE_IN_PATH",
    "Configuration",
    "FileLine",
    "Folder",
    "Heartbeat",
    "Logging",
    "Place",
    "Replicated",
    "pattern_as_regex",
]

SAFE_IN_PATH = "$&+,/:;=@"
"""What Go leaves in a URL's path as it is, beside letters, digits and `-_.~`."""

_META_SUFFIX = "-litestream"


@dataclass(frozen=True, slots=True)
class FileLine:
    """Where in a file something is said.

    Attributes:
        path: The file.
        number: The line, from 1; None where it is not known.
    """

    path: str
    number: int | None

    def error(self, message: object) -> ConfigFileError:
        """Return the error for what is wrong there."""
        return ConfigFileError(str(message), path=self.path, line=self.number)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica is. URL and options may hold secrets: only an opened replica's own URL is to be shown.

    Attributes:
        url: Its URL, or a path.
        options: What a URL cannot hold.
        line: Where it is said; None where it was typed. Two places that differ in it alone are equal.
    """

    url: str = field(repr=False)
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    line: FileLine | None = field(default=None, compare=False)

    def open(self) -> Replica:
        """Open the replica; nothing is sent.

        Raises:
            ConfigFileError: The URL or an option is wrong, and a file said it.
            backends.ConfigError: The same, and it was typed.
        """
        try:
            return Replica.open(self.url, **self.options)
        except ConfigError as error:
            if self.line is None:
                raise
            raise self.line.error(error) from error

    def below(self, relative: str) -> "Place":
        """Return the place of one of many databases: its path is put behind."""
        if "://" not in self.url:
            return replace(self, url=os.path.join(self.url, relative))
        if "root" in self.options:
            base = str(self.options["root"]).removesuffix("/")
            joined = posixpath.normpath(f"{base}/{relative}" if base else relative)
            root = f"{re.sub('^/+', '/', joined)}/"
            return replace(self, options={**self.options, "root": root})
        if self.url.startswith("file://"):  # the real one quotes a file URL, and never takes that back
            relative = quote(relative, safe=SAFE_IN_PATH)
        base, sign, query = self.url.partition("?")
        return replace(self, url=f"{base.rstrip('/')}/{quote(posixpath.normpath(relative))}{sign}{query}")


@dataclass(frozen=True, slots=True)
class Replicated:
    """A database to replicate.

    Attributes:
        path: The database.
        places: Its replicas.
        settings: How.
    """

    path: Path
    places: tuple[Place, ...]
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class Folder:
    """Databases that are found in a folder, each with replicas of its own below the places given.

    Attributes:
        path: The folder.
        pattern: What a database's name matches, as Go's `filepath.Match` has it.
        recursive: Whether folders in it are looked into.
        watch: Whether databases that appear later are taken up, and those that vanish let go of.
        places: Below which the replicas lie, by the database's path in the folder.
        settings: How.
        meta_path: Where the state of all of them is kept; None for beside each.
        hidden_meta: Whether names there begin with a dot, as beside a database.
        line: Where it is said.
    """

    path: Path
    pattern: str
    recursive: bool
    watch: bool
    places: tuple[Place, ...]
    settings: Settings = field(default_factory=Settings)
    meta_path: Path | None = None
    hidden_meta: bool = True
    line: FileLine = field(default=FileLine("", None), compare=False)

    def matches(self, name: str) -> bool:
        """Say whether a file of this name may be one of the databases."""
        return re.fullmatch(pattern_as_regex(self.pattern), name, re.DOTALL) is not None

    def replicated(self, path: Path) -> Replicated:
        """Return what to do with a database that was found in the folder."""
        relative = path.relative_to(self.path)
        settings = self.settings
        if self.meta_path is not None:
            name = meta_folder(path).name if self.hidden_meta else f"{path.name}{_META_SUFFIX}"
            settings = replace(settings, folder=self.meta_path / relative.parent / name)
        return Replicated(path, tuple(place.below(relative.as_posix()) for place in self.places), settings)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """An address that is asked now and then while all is well, so that somebody notices when it is not.

    Attributes:
        url: The address; it often is a secret.
        interval_s: Seconds from one call to the next.
    """

    url: str = field(repr=False)
    interval_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Logging:
    """What is logged, and how.

    Attributes:
        level: The lowest level, as the module `logging` has it.
        as_json: Whether lines are JSON.
        source: Whether lines say which line of this program they come from.
    """

    level: int = 20
    as_json: bool = False
    source: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a running replicator is told.

    Attributes:
        databases: The databases that are named.
        folders: Where others are found.
        address: Where metrics are served, `host:port`; "" for nowhere.
        command: A program to run meanwhile.
        socket: Where to answer `ltx status`; None for where it looks.
        heartbeat: Whom to tell that all is well.
        logging: What is logged.
        flush_s: For how many seconds the end tries to upload what is left.
        flush_pause_s: Seconds between two tries.
        warnings: What is odd about the file it comes from, and does not stop anything.
    """

    databases: tuple[Replicated, ...] = ()
    folders: tuple[Folder, ...] = ()
    address: str = ""
    command: tuple[str, ...] = ()
    socket: Path | None = None
    heartbeat: Heartbeat | None = None
    logging: Logging = field(default_factory=Logging)
    flush_s: float = 30.0
    flush_pause_s: float = 0.5
    warnings: tuple[str, ...] = ()

    def named(self, database: str | os.PathLike[str]) -> Replicated | None:
        """Return what to do with a database, whether it is there or not; None for one that is not ours."""
        path = Path(os.path.abspath(os.path.expanduser(os.fspath(database))))
        found = [each for each in self.databases if each.path == path]
        found += (
            folder.replicated(path)
            for folder in self.folders
            if folder.matches(path.name)
            and (folder.path == path.parent or (folder.recursive and path.is_relative_to(folder.path)))
        )
        return found[0] if found else None


@lru_cache
def pattern_as_regex(pattern: str) -> str:
    r"""Return Go's file pattern as a regular expression: `*`, `?`, `[a-z]`, `[^a-z]`, and a `\` before any of them.

    Raises:
        ValueError: A bracket is not closed, a range is empty, or the last character is a backslash.
    """
    found, rest = "", pattern
    while rest:
        sign, rest = rest[0], rest[1:]
        if sign == "*":
            found += "[^/]*"
        elif sign == "?":
            found += "[^/]"
        elif sign == "[":
            match = _CLASS.match(rest)
            if match is None:
                raise ValueError(f"a '[' in the pattern is not closed, or holds nothing: {pattern!r}")
            found += f"[{match[1] or ''}{_class(match[2], pattern)}]"
            rest = rest[match.end() :]
        else:
            if sign == "\\":
                if not rest:
                    raise ValueError(f"the pattern ends with a backslash: {pattern!r}")
                sign, rest = rest[0], rest[1:]
            found += re.escape(sign)
    return found


_CLASS = re.compile(r"(\^)?+((?:(?:\\.|[^\]\\-])(?:-(?:\\.|[^\]\\-]))?)+)\]", re.DOTALL)
_RANGE = re.compile(r"\\?(.)(?:-\\?(.))?", re.DOTALL)


def _class(text: str, pattern: str) -> str:
    ranges = [(match[1], match[2] or match[1]) for match in _RANGE.finditer(text)]
    if any(low > high for low, high in ranges):
        raise ValueError(f"a range in the pattern ends before it begins: {pattern!r}")
    return "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in ranges)
