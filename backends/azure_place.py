"""Which Azure storage account a URL means, and how to log in to it."""

import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from backends.errors import ConfigError

__all__ = ["CONNECT_TIMEOUT_S", "READ_TIMEOUT_S", "AzurePlace"]

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""Seconds without a byte of the answer."""

_OPTIONS = (
    "account_name",
    "account_key",
    "sas_token",
    "connection_string",
    "credential",
    "client_id",
    "client_secret",
    "tenant_id",
    "anon",
    "endpoint",
)
_LOGINS = ("account_key", "sas_token", "connection_string", "credential", "client_id", "anon")
_ENVIRONMENT = (
    ("sas_token", "LITESTREAM_AZURE_SAS_TOKEN"),
    ("account_key", "LITESTREAM_AZURE_ACCOUNT_KEY"),
    ("connection_string", "AZURE_STORAGE_CONNECTION_STRING"),
    ("sas_token", "AZURE_STORAGE_SAS_TOKEN"),
    ("account_key", "AZURE_STORAGE_ACCOUNT_KEY"),
)
_HOST = "blob.core.windows.net"


@dataclass(frozen=True, slots=True)
class AzurePlace:
    """A container, a path in it, and the account that holds it.

    Attributes:
        scheme: Of the URL.
        container: Its name.
        root: Path in it, with a slash at its end; "" for the container itself.
        account: Its name; "" where only the connection string knows.
        endpoint: URL of the account's blob service.
        login: One of the ways to log in, as options of adlfs; empty for the default credential chain.
    """

    scheme: str
    container: str
    root: str
    account: str
    endpoint: str
    login: Mapping[str, Any] = field(repr=False)

    @property
    def url(self) -> str:
        """Where it is, without a secret."""
        account = f"{self.account}@" if self.account else ""
        return f"{self.scheme}://{account}{self.container}/{self.root}".rstrip("/")

    @property
    def fields(self) -> Mapping[str, str]:
        """The parts of the connection string, their names in lower case; empty where there is none."""
        return _fields(str(self.login.get("connection_string", "")))

    @property
    def tried(self) -> str:
        """How we log in, in words."""
        names = {"account_key": "an account key", "sas_token": "a SAS token", "anon": "no login"}
        names |= {"connection_string": "a connection string", "client_id": "a service principal"}
        return next(
            (names[name] for name in self.login if name in names), "a credential of the default chain"
        )

    @classmethod
    def parse(cls, url: str, options: Mapping[str, object]) -> Self:
        """Read `abs://[account@]container/path` or `abfs://container@account.dfs.core.windows.net/path`.

        Options, also in the query, are those of adlfs: `account_name`; to log in `account_key`, `sas_token`,
        `connection_string`, `credential`, `client_id` with `client_secret` and `tenant_id`, or `anon`; and `endpoint`.
        Environment: LITESTREAM_AZURE_SAS_TOKEN, LITESTREAM_AZURE_ACCOUNT_KEY, AZURE_STORAGE_CONNECTION_STRING,
        AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_ACCOUNT_NAME; without any of them the
        default credential chain.

        Raises:
            ConfigError: The URL or an option is wrong, or no account is named.
        """
        parts = urlsplit(url)
        given = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **options}
        if unknown := sorted(set(given) - set(_OPTIONS)):
            raise ConfigError(f"{parts.scheme}:// takes {', '.join(_OPTIONS)}, not {', '.join(unknown)}")
        account, container, host = _names(parts.netloc)
        if not container:
            raise ConfigError(f"the URL names no container: write {parts.scheme}://account@container/path")
        account = str(given.get("account_name") or account)
        login = {
            name: given[name] for name in given if name not in ("account_name", "endpoint") and given[name]
        }
        if not any(name in login for name in _LOGINS):
            login |= _from_environment(account)
        fields = _fields(str(login.get("connection_string", "")))
        known = fields.get("accountname", "")
        if account and known and account != known:
            raise ConfigError(f"the URL names the account {account}, the connection string {known}")
        account = account or known or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        if not account and "connection_string" not in login:
            raise ConfigError(
                f"no account is named: write {parts.scheme}://account@{container}, or set AZURE_STORAGE_ACCOUNT_NAME"
            )
        _check_key(str(login.get("account_key") or fields.get("accountkey", "")))
        root = unquote(parts.path).strip("/")
        endpoint = str(given.get("endpoint") or f"https://{host or f'{account}.{_HOST}'}").rstrip("/")
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"an endpoint begins with http:// or https://, unlike {endpoint}")
        return cls(parts.scheme, container, f"{root}/" if root else "", account, endpoint, login)


def _names(netloc: str) -> tuple[str, str, str]:
    """Return account, container and host: before and after the `@` Litestream and Hadoop have them the other way."""
    before, _, after = netloc.rpartition("@")
    if "." in after:
        account = after.partition(".")[0]
        return account, before, after.replace(".dfs.", ".blob.")
    return before, after, ""


def _fields(connection_string: str) -> dict[str, str]:
    """Return the parts of a connection string, their names in lower case."""
    if not connection_string:
        return {}
    parts = [part.partition("=") for part in connection_string.rstrip(";").split(";")]
    if not all(name and equals for name, equals, _ in parts):
        raise ConfigError("the connection string is not of the form AccountName=...;AccountKey=...;")
    return {name.strip().lower(): value for name, _, value in parts}


def _from_environment(account: str) -> dict[str, str]:
    for name, variable in _ENVIRONMENT:
        value = os.environ.get(variable, "")
        known = _fields(value).get("accountname", "") if name == "connection_string" else ""
        if value and (not account or not known or known == account):
            return {name: value}
    return {}


def _check_key(key: str) -> None:
    try:
        binascii.a2b_base64(key, strict_mode=bool(key))
    except ValueError as error:
        raise ConfigError("the account key is not base64: take it from the account's access keys") from error
