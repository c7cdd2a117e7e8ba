"""From a file `litestream.yml` to a `Configuration`; whatever is wrong with it is said with its line."""

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ltx.errors import ConfigFileError
from ltx.replica.levels import LevelPolicy
from ltx.replica.retention import RetentionPolicy
from ltx.replication.checkpoint import Limits
from ltx.replication.config import document
from ltx.replication.config.document import Document
from ltx.replication.config.model import (
    BARE_NUMBER,
    DatabaseSection,
    File,
    LoggingSection,
    Section,
    SnapshotSection,
    UpkeepSettings,
    not_served,
)
from ltx.replication.config.places import local_path, place_of
from ltx.replication.config.values import (
    Configuration,
    FileLine,
    Folder,
    Heartbeat,
    Logging,
    Place,
    Replicated,
)
from ltx.replication.database import Settings
from ltx.replication.maintenance import Upkeep

__all__ = ["DEFAULT_PATH", "default_path", "read_config"]

DEFAULT_PATH = "/etc/litestream.yml"
_MEANT: Mapping[document.Path, list[str]] = {(name,): ["dbs"] for name in ("databases", "database")}
"""What people write at the top for settings whose names are not like it."""

_KINDS = {
    "list_type": "must be a list: begin each entry on a line of its own, with '- '",
    "string_type": "must be a single value, not a list or a mapping",
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("int_parsing", "int_type"), "must be a whole number"),
}
_FIRST = {"dbs": "path", "replica": "url", "replicas": "url"}
"""How the value of a setting that has settings of its own usually begins."""

_PREDICATE = re.compile("(?:is|has|needs|must|should) ")

_LEVELS = {"trace": 10, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}


def default_path(environment: Mapping[str, str] = os.environ) -> str:
    """Return where the configuration is unless something else is said: `LITESTREAM_CONFIG`, else `/etc`."""
    return environment.get("LITESTREAM_CONFIG") or DEFAULT_PATH


def read_config(
    path: str | os.PathLike[str],
    *,
    expand: bool = True,
    strict: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Configuration:
    """Read a configuration. Nothing is opened or sent.

    Args:
        path: The file.
        expand: Whether `$NAME` and `${NAME}` in it stand for variables of the environment.
        strict: Whether what would be a warning is an error.
        environment: The variables.

    Raises:
        ConfigFileError: It is not there or wrong, or asks for something that is not here yet.
    """
    return _Reader(os.fspath(path), strict).read(expand, environment)


class _Reader:
    def __init__(self, path: str, strict: bool) -> None:
        self._path, self._strict = os.path.expanduser(path), strict
        self._document = Document()
        self._warnings: list[str] = []

    def read(self, expand: bool, environment: Mapping[str, str]) -> Configuration:
        self._load(expand, {"PID": str(os.getpid()), **environment})
        try:
            return self._read(environment)
        except ConfigFileError as error:
            if not self._warnings:
                raise
            besides = "; ".join(warning.removeprefix(f"{self._path}:") for warning in self._warnings)
            text = f"{error.args[0]} (and what is odd: line {besides})"
            raise ConfigFileError(text, path=error.path, line=error.line) from None

    def _read(self, environment: Mapping[str, str]) -> Configuration:
        file = self._validated()
        for where, why in _refused(file, ()):
            raise self._error(f"{self._named(where)} is refused: {why}", where)
        level = environment.get("LOG_LEVEL") or (file.logging.level if file.logging else None)
        databases, folders = self._databases(file)
        heartbeat = None
        if file.heartbeat_url:
            heartbeat = Heartbeat(file.heartbeat_url, _seconds(file.heartbeat_interval, 300.0))
        try:
            command = tuple(shlex.split(file.exec or ""))
        except ValueError as error:
            raise self._error(f"'exec': {error}", ("exec",)) from error
        socket = file.socket if file.socket and file.socket.enabled else None
        return Configuration(
            databases=databases,
            folders=folders,
            address=file.addr or "",
            command=command,
            socket=Path(local_path(socket.path)) if socket and socket.path else None,
            heartbeat=heartbeat,
            logging=_logging(file.logging or LoggingSection(), level),
            flush_s=_seconds(file.shutdown_sync_timeout, 30.0),
            flush_pause_s=_seconds(file.shutdown_sync_interval, 0.5),
            warnings=tuple(self._warnings),
        )

    def _load(self, expand: bool, variables: Mapping[str, str]) -> None:
        try:
            text = Path(self._path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigFileError(f"there is no configuration {self._path}: name one with --config") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigFileError(f"cannot be read: {reason}", path=self._path) from error
        lines: Sequence[int] = range(1, text.count("\n") + 2)
        missing: Mapping[str, int] = {}
        if expand:
            text, lines, missing = document.expanded(text, variables.get)
        try:
            self._document = document.parse(text, lines)
        except yaml.MarkedYAMLError as error:  # its text shows the line, where a secret may be
            mark = document.mark_of(error)
            line = lines[min(mark.line, len(lines) - 1)] if mark else None
            problem = document.problem(error)
            raise ConfigFileError(f"is no YAML: {problem}", path=self._path, line=line) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            text = str(error).splitlines()[0]
            raise ConfigFileError(f"is no YAML that we read: {text}", path=self._path) from None
        for name, line in missing.items():
            self._warn(f"the environment has no {name}: nothing stands in its place", line)
        for where in self._document.repeated:
            self._warn(f"{where[-1]!r} stands here twice: the last one holds", self._document.line(where))

    def _validated(self) -> File:
        root = {} if self._document.root is None else self._document.root
        if not isinstance(root, dict):
            raise self._error("is no mapping of settings: begin with 'dbs:'", ())
        while True:
            try:
                return File.model_validate(root)
            except ValidationError as error:
                found = error.errors(include_url=False, include_input=False)
            found.sort(key=lambda each: self._document.line(each["loc"]) or 0)
            wrong = [each for each in found if not self._repaired(root, each)]
            if wrong:
                more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                raise self._error(f"{self._spoken(wrong[0])}{more}", wrong[0]["loc"])

    def _repaired(self, root: dict[str, Any], error: ErrorDetails) -> bool:
        """Take what is odd for what the real Litestream takes it for, and warn."""
        where = error["loc"]
        holder: Any = root
        for step in where[:-1]:
            holder = holder[step]
        if error["type"] == "extra_forbidden":
            known = list(_known(File, where[:-1]))
            near = _MEANT.get(where, difflib.get_close_matches(str(where[-1]), known, 1, 0.7))
            hint = f": did you mean {near[0]!r}?" if near else "; it has no effect"
            del holder[where[-1]]
            self._warn(f"there is no setting {self._named(where)}{hint}", self._document.line(where))
        elif error["type"] == BARE_NUMBER:
            holder[where[-1]] += "ns"
            self._warn(f"{self._named(where)}: {error['msg']}", self._document.line(where))
        else:
            return False
        return True

    def _databases(self, file: File) -> tuple[tuple[Replicated, ...], tuple[Folder, ...]]:
        databases: dict[
            str, Replicated
        ] = {}  # by the path without symbolic links: no file is replicated twice
        folders: list[Folder] = []
        for number, section in enumerate(file.dbs):
            where = ("dbs", number)
            settings = self._settings(file, section, where)
            places = tuple(self._places(file, section, where))
            if section.dir:
                base = section.meta_dir or section.meta_path
                folders.append(
                    Folder(
                        Path(local_path(section.dir)),
                        section.pattern or "",
                        bool(section.recursive),
                        bool(section.watch),
                        places,
                        settings,
                        Path(local_path(base)) if base else None,
                        hidden_meta=not section.meta_dir,
                        line=self._line((*where, "dir")),
                    )
                )
                continue
            path = Path(local_path(section.path or ""))
            before = databases.get(real := os.path.realpath(path))
            if before is not None:
                name = path if before.path == path else f"{path}, which is {before.path},"
                raise self._error(f"{name} stands here twice: put all its replicas in one place", where)
            databases[real] = Replicated(path, places, settings)
        return tuple(databases.values()), tuple(folders)

    def _places(self, file: File, section: DatabaseSection, where: document.Path) -> Iterator[Place]:
        replicas = [(section.replica, (*where, "replica"))] if section.replica else []
        replicas += [
            (each, (*where, "replicas", number)) for number, each in enumerate(section.replicas or ())
        ]
        for replica, here in replicas:
            try:
                yield replace(place_of(replica, file), line=self._line((*here, "url")))
            except (ValueError, OSError) as error:
                raise self._error(f"{self._named(here)}: {error}", here) from None

    def _settings(self, file: File, section: DatabaseSection, where: document.Path) -> Settings:
        replicas = [section.replica] if section.replica else section.replicas or []
        intervals = [
            found for each in replicas for found in [each.sync_interval or file.sync_interval] if found
        ]
        limits = Limits()
        if section.meta_path and not section.dir:
            meta: Path | None = Path(local_path(section.meta_path))
        else:
            meta = None
        try:
            upkeep = _upkeep(section, file)
        except ValueError as error:
            raise self._error(str(error), where) from error
        return Settings(
            sync_interval_s=_seconds(min(intervals, default=None), 1.0),
            limits=Limits(
                min_pages=section.min_checkpoint_page_count or limits.min_pages,
                interval_s=_seconds(section.checkpoint_interval, limits.interval_s),
                truncate_pages=section.truncate_page_n or limits.truncate_pages,
            ),
            upkeep=upkeep,
            look_s=_seconds(section.monitor_interval, Settings().look_s),
            folder=meta,
            restore=bool(section.restore_if_db_not_exists) and not section.dir,
            wal=bool(section.wal),
        )

    def _warn(self, message: str, line: int | None) -> None:
        error = ConfigFileError(message, path=self._path, line=line)
        if self._strict:
            raise error
        self._warnings.append(str(error))

    def _error(self, message: str, where: document.Path) -> ConfigFileError:
        return self._line(where).error(message)

    def _line(self, where: document.Path) -> FileLine:
        return FileLine(self._path, self._document.line(where))

    def _named(self, where: document.Path) -> str:
        """Return how a setting is spoken of, beside the number of its line: `'replica.url' of the database /a.db`."""
        steps, of = where, ""
        if where[:1] == ("dbs",) and len(where) > 1:
            steps, of = where[2:], self._database(where[1])
        name = ".".join(step for step in steps if isinstance(step, str))
        return " of ".join(part for part in (name and repr(name), of) if part)

    def _database(self, number: str | int) -> str:
        """Return how one of `dbs` is spoken of."""
        found: Any = self._document.root
        section = found["dbs"][number]
        for setting, what in (("path", "the database"), ("dir", "the folder")):
            name = section.get(setting) if isinstance(section, dict) else None
            if isinstance(name, str):
                return f"{what} {name}"
        return "this database"

    def _spoken(self, error: ErrorDetails) -> str:
        text = error["msg"].removeprefix("Value error, ")
        text = re.sub("^input should ", "should ", text[:1].lower() + text[1:])
        text = _KINDS.get(error["type"], text)
        if error["type"] == "model_type":
            steps = [step for step in error["loc"] if isinstance(step, str)]
            first = _FIRST.get(steps[-1]) or next(_known(File, error["loc"]))
            text = f"must have settings of its own: write {f'{first}:'!r} and a value on a line below it"
        if not (named := self._named(error["loc"])):
            return text
        return f"{named} {text}" if _PREDICATE.match(text) else f"{named}: {text}"


def _upkeep(section: UpkeepSettings, file: UpkeepSettings) -> Upkeep:
    """Return how a replica is kept small: what the database says, else what the file says, else what is usual."""
    plain = Upkeep()
    levels = section.levels or file.levels
    ours, theirs = section.snapshot or SnapshotSection(), file.snapshot or SnapshotSection()
    level0 = file.l0_retention if section.l0_retention is None else section.l0_retention
    check = section.l0_retention_check_interval or file.l0_retention_check_interval
    retention = section.retention or file.retention
    if level0 is None:
        level0 = plain.retention.level0
    return Upkeep(
        levels=LevelPolicy(
            tuple(level.interval for level in levels) if levels else plain.levels.intervals,
            ours.interval or theirs.interval or plain.levels.snapshot_interval,
        ),
        retention=RetentionPolicy(
            ours.retention or theirs.retention or plain.retention.window,
            level0 or None,  # 0 says that they are kept
        ),
        check_s=_seconds(check, plain.check_s),
        deletes=retention is None or retention.enabled is not False,
    )


def _logging(section: LoggingSection, level: str | None) -> Logging:
    return Logging(_LEVELS.get((level or "info").lower(), 20), section.type == "json", bool(section.source))


def _seconds(length: timedelta | None, usual: float) -> float:
    return usual if length is None else length.total_seconds()


def _refused(section: Section, where: document.Path) -> Iterator[tuple[document.Path, str]]:
    """Yield the settings that are set and not served, with the reason."""
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*where, field.alias or name)
        why = not_served(type(section), name)
        if why and value not in (None, False, "", timedelta(0)):
            yield here, why
        elif isinstance(value, Section):
            yield from _refused(value, here)
        elif isinstance(value, list):
            for number, each in enumerate(value):
                if isinstance(each, Section):
                    yield from _refused(each, (*here, number))


def _known(section: type[BaseModel], where: document.Path) -> Iterator[str]:
    """Yield the names of the settings at a place of the file."""
    for step in where:
        if isinstance(step, str):
            field = next(each for each in section.model_fields.values() if each.alias == step)
            section = next(_sections(field.annotation))
    yield from (field.alias or name for name, field in section.model_fields.items())


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
