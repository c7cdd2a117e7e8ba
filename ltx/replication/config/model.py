"""The settings of `litestream.yml`, one class a section (docs/guide/configuration.md). Loads pydantic.

Every setting of Litestream 0.5.17 is here, and `wal`, which is ours. One that is `not_served` is refused where it is set; one that there is `no_need` for
may be set, and changes nothing, since what it asks for always is so or has no meaning here.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ltx.replica.durations import parse_duration
from ltx.replication.config.values import pattern_as_regex

__all__ = [
    "BARE_NUMBER",
    "DatabaseSection",
    "File",
    "ReplicaSection",
    "Section",
    "SnapshotSection",
    "SocketSection",
    "StorageSettings",
    "UpkeepSettings",
    "not_served",
]

BARE_NUMBER = "bare_number"
"""The type of the error for a time without a unit."""

_MIN_HEARTBEAT = timedelta(minutes=1)
_SIZE = re.compile(r"\s*([0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgtpe]?)(i?)(b?)\s*", re.IGNORECASE)


def _not_served(why: str) -> Any:
    return Field(default=None, json_schema_extra={"not_served": why})


def _secret() -> Any:
    return Field(default=None, repr=False, json_schema_extra={"secret": True})


def _no_need() -> Any:
    return Field(default=None, json_schema_extra={"no_need": True})


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value != "0" and re.fullmatch(r"[-+]?[0-9]+", value):
        raise PydanticCustomError(BARE_NUMBER, "{value} without a unit is nanoseconds: write 10s, 5m or 24h", {"value": value})  # fmt: skip
    return parse_duration(value)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0")
    return value


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta(0):
        raise ValueError("must not be negative")
    return value


def _size(value: object) -> object:
    """Read a size as go-humanize does: `5MB` is 5,000,000, `5MiB` 5 times 1024 squared."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is a size such as 5MB, 5MiB or 1.5GB")
    count, unit, binary, _ = match.groups()
    power = "kmgtpe".index(unit.lower()) + 1 if unit else 0
    return int(Decimal(count.replace(",", "")) * (1024 if binary else 1000) ** power)


def _octal(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"(0o?)?[0-7]{1,4}", value):
        return int(value.removeprefix("0o"), 8)
    raise ValueError("is the mode of a file, such as 0600")


def _http(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value


def _address(value: str) -> str:
    if value and not re.fullmatch(r"(\[[^\]]*\]|[^:]*):[0-9]{1,5}", value):
        raise ValueError("is a host and a port, such as 127.0.0.1:9090, or :9090 for all addresses")
    return value


def _pattern(value: str) -> str:
    pattern_as_regex(value)
    return value


def _long_enough(value: timedelta) -> timedelta:
    if value < _MIN_HEARTBEAT:
        raise ValueError("must be at least a minute")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_not_negative)]
Positive = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_positive)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]


class Section(BaseModel):
    """A mapping of the file. Names are in kebab case there; None is what the file does not say."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=False,
    )


def not_served(section: type[Section], name: str) -> str | None:
    """Return why a setting is refused; None where it is not."""
    extra = section.model_fields[name].json_schema_extra
    return str(extra["not_served"]) if isinstance(extra, Mapping) and "not_served" in extra else None


class AgeSection(Section):
    """`age`: encryption that Litestream 0.3 had."""

    identities: list[str] | None = None
    recipients: list[str] | None = None


_NATS = "replicas on NATS are not here yet"
_AGE = (
    "encryption with age is not here yet, and not in Litestream 0.5: what is written would not be encrypted"
)


class StorageSettings(Section):
    """What may stand at a replica, and at the top for all replicas."""

    sync_interval: Positive | None = None
    validation_interval: Duration | None = _no_need()
    max_sync_ltx_files: int | None = _no_need()
    auto_recover: bool | None = _no_need()

    access_key_id: str | None = _secret()
    secret_access_key: str | None = _secret()
    region: str | None = None
    bucket: str | None = None
    endpoint: str | None = None
    force_path_style: bool | None = None
    sign_payload: bool | None = None
    require_content_md5: bool | None = None
    skip_verify: bool | None = None
    storage_class: str | None = None
    part_size: Size | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    sse_customer_algorithm: str | None = None
    sse_customer_key: str | None = _secret()
    sse_customer_key_path: str | None = None
    sse_kms_key_id: str | None = None

    account_name: str | None = None
    account_key: str | None = _secret()
    sas_token: str | None = _secret()

    host: str | None = None
    user: str | None = None
    password: str | None = _secret()
    key_path: str | None = None
    host_key: str | None = None
    concurrent_writes: bool | None = _no_need()

    webdav_url: str | None = _secret()
    webdav_username: str | None = None
    webdav_password: str | None = _secret()

    jwt: str | None = _not_served(_NATS)
    seed: str | None = _not_served(_NATS)
    creds: str | None = _not_served(_NATS)
    nkey: str | None = _not_served(_NATS)
    username: str | None = _not_served(_NATS)
    token: str | None = _not_served(_NATS)
    tls: bool | None = _not_served(_NATS)
    root_cas: list[str] | None = _not_served(_NATS)
    client_cert: str | None = _not_served(_NATS)
    client_key: str | None = _not_served(_NATS)
    max_reconnects: int | None = _not_served(_NATS)
    reconnect_wait: Duration | None = _not_served(_NATS)
    timeout: Duration | None = _not_served(_NATS)
    age: AgeSection | None = _not_served(_AGE)


class ReplicaSection(StorageSettings):
    """`replica`, or one of `replicas`."""

    type: Literal["file", "s3", "gs", "abs", "sftp", "webdav", "nats", "oss"] | None = None
    name: str | None = _no_need()
    path: str | None = None
    url: str | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.path and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", self.path):
            raise ValueError("'path' is no URL: call it 'url'")
        names = [name for name in ("path", "bucket", "host", "webdav_url") if getattr(self, name)]
        if self.url and names:
            raise ValueError(f"'url' says it all: leave out {names[0].replace('_', '-')!r}")
        return self


class LevelSection(Section):
    """One of `levels`."""

    interval: Positive


class SnapshotSection(Section):
    """`snapshot`."""

    interval: Positive | None = None
    retention: Positive | None = None


class RetentionSection(Section):
    """`retention`."""

    enabled: bool | None = None


class ValidationSection(Section):
    """`validation`."""

    interval: Duration | None = _not_served(
        "nothing looks for gaps by itself yet: run 'ltx verify' now and then"
    )


class SocketSection(Section):
    """`socket`."""

    enabled: bool | None = None
    path: str | None = None
    permissions: Annotated[int, BeforeValidator(_octal)] | None = None

    @model_validator(mode="after")
    def _private(self) -> Self:
        if self.permissions is not None and self.permissions & 0o077:
            raise ValueError("the socket is its user's alone: 'permissions' can only be 0600")
        return self


class LoggingSection(Section):
    """`logging`."""

    level: str | None = None
    type: Literal["text", "json", "pretty", ""] | None = None
    stderr: bool | None = _no_need()
    source: bool | None = None


class UpkeepSettings(Section):
    """How a replica is kept small: at the top for all databases, at a database for it alone."""

    levels: Annotated[list[LevelSection], Field(min_length=1, max_length=8)] | None = None
    snapshot: SnapshotSection | None = None
    retention: RetentionSection | None = None
    l0_retention: Duration | None = None
    l0_retention_check_interval: Positive | None = None


class DatabaseSection(UpkeepSettings):
    """One of `dbs`."""

    path: str | None = None
    dir: str | None = None
    pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    recursive: bool | None = None
    watch: bool | None = None
    meta_path: str | None = None
    meta_dir: str | None = None
    monitor_interval: Positive | None = None
    checkpoint_interval: Duration | None = None
    busy_timeout: Duration | None = _no_need()
    min_checkpoint_page_count: Annotated[int, Field(ge=1)] | None = None
    truncate_page_n: Annotated[int, Field(ge=0)] | None = None
    max_sync_wal_bytes: int | None = _no_need()
    restore_if_db_not_exists: bool | None = None
    wal: bool | None = None
    replica: ReplicaSection | None = None
    replicas: list[ReplicaSection] | None = None

    @model_validator(mode="after")
    def _what_and_where(self) -> Self:
        if bool(self.path) == bool(self.dir):
            raise ValueError("needs either 'path', a database, or 'dir', a folder of them")
        if self.dir and not self.pattern:
            raise ValueError("a 'dir' needs a 'pattern' for the names of its databases, such as '*.db'")
        for name in ("pattern", "recursive", "watch", "meta_dir"):
            if self.path and getattr(self, name):
                raise ValueError(f"{name.replace('_', '-')!r} goes with 'dir', not with 'path'")
        if self.replica and self.replicas:
            raise ValueError("has 'replica' and 'replicas': put all of them into 'replicas'")
        if not self.replica and not self.replicas:
            raise ValueError("needs a 'replica'")
        return self


class File(StorageSettings, UpkeepSettings):
    """The whole file."""

    addr: Annotated[str, AfterValidator(_address)] | None = None
    mcp_addr: str | None = _not_served("there is no MCP server here yet")
    socket: SocketSection | None = None
    validation: ValidationSection | None = None
    verify_compaction: bool | None = _no_need()
    heartbeat_url: Annotated[str, AfterValidator(_http)] | None = _secret()
    heartbeat_interval: Annotated[Duration, AfterValidator(_long_enough)] | None = None
    dbs: list[DatabaseSection] = Field(default_factory=list)
    exec: str | None = None
    logging: LoggingSection | None = None
    shutdown_sync_timeout: Duration | None = None
    shutdown_sync_interval: Positive | None = None
