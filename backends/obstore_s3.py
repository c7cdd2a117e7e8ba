"""S3 through obstore: reads, looks, listings of folders and small writes; s3fs does the rest.

Cost in requests: as of `backends.s3`. Pages of a listing are counted as S3 has them, 1,000 keys each: obstore does not
tell.
"""

import builtins
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from backends.base import Backend, ObjectInfo, Page
from backends.errors import BackendError, UnsupportedError
from backends.keys import check_prefix, is_key
from backends.obstore import AskLibraryError, ObstoreBackend, client_options
from backends.obstore_errors import Failure
from backends.per_process import PerProcess
from backends.s3_place import S3Place, parse, usual_config
from backends.s3_protocol import TIMESTAMP_NAME, begin_early, of_answer

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore, S3Credential

__all__ = ["ObstoreS3Backend"]

_PAGE = 1000
_OPERATIONS = {
    "get": "get_object",
    "head": "head_object",
    "put": "put_object",
    "list": "list_objects_v2",
}
_WHAT_OBSTORE_WOULD_TAKE = (
    "AWS_CHECKSUM_ALGORITHM", "AWS_REQUEST_PAYER", "AWS_S3_EXPRESS", "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_BUCKET_KEY_ENABLED", "AWS_SSE_CUSTOMER_KEY_BASE64", "AWS_SSE_KMS_KEY_ID",
)  # fmt: skip
"""From the environment, where s3fs would not."""

_WHAT_OBSTORE_WOULD_MISS = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT",
)  # fmt: skip
"""From the environment, where no endpoint is named."""

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_HARMLESS = {
    "region", "output", "cli_pager", "role_arn", "source_profile", "credential_source", "credential_process",
    "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "role_session_name", "external_id",
    "mfa_serial", "duration_seconds", "web_identity_token_file", "sso_session", "sso_start_url", "sso_region",
    "sso_account_id", "sso_role_name", "cli_auto_prompt", "cli_history", "retry_mode", "max_attempts",
}  # fmt: skip
"""What a section of the AWS configuration may say without changing where or how a bucket is asked."""


class ObstoreS3Backend(ObstoreBackend):
    """A bucket, or what lies below a path in it."""

    timestamp_name = TIMESTAMP_NAME

    def __init__(self, place: S3Place) -> None:
        """Prepare; nothing is sent.

        Raises:
            UnsupportedError: obstore cannot do what the URL, the options or the environment ask for.
        """
        super().__init__("s3", place.url, place.root, place.shown)
        self.place = place
        self.region = _region(place)
        self._logins = PerProcess(lambda: _Login(place))

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open the URL as `backends.s3.S3Backend` does."""
        return cls(parse(url, options))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key begins with `prefix`, in key order; all of them are held in memory.

        obstore lists folders, and takes a slash at the end off a name: with such names in it, s3fs lists.
        """
        folder = self.root + check_prefix(prefix)
        if folder and not folder.endswith("/"):
            return self.library.list(prefix, start_after=start_after)
        found = self._run(
            lambda: self._list(folder, start_after, pages=None).objects,
            lambda library: [*library.list(prefix, start_after=start_after)],
        )
        return iter(found)

    def list_page(self, prefix: str = "", *, start_after: str = "") -> Page:
        """List what comes in one request; that there may be more is all that obstore tells of 1,000 objects."""
        folder = self.root + check_prefix(prefix)
        if folder and not folder.endswith("/"):
            return self.library.list_page(prefix, start_after=start_after)
        return self._run(
            lambda: self._list(folder, start_after, pages=1),
            lambda library: library.list_page(prefix, start_after=start_after),
        )

    def _list(self, folder: str, start_after: str, *, pages: int | None) -> Page:
        begin = begin_early(start_after)
        while begin.endswith("/"):  # obstore would take it off, and some services leave out what is below
            begin = begin_early(begin[:-1])
        offset = self.root + begin if begin else ""
        items = self._send("list", None, lambda store: _collect(store, folder, offset, pages))
        for _ in range(_PAGE, len(items), _PAGE):
            self.stats.count("list")
        if not all(item["size"] for item in items):
            raise AskLibraryError  # a folder's marker is empty, and cannot be told from an empty object
        infos = []
        for item in items:
            key = item["path"].removeprefix(self.root)
            if key > start_after and is_key(key):
                infos.append(ObjectInfo(key, item["size"], item["last_modified"], None, item["e_tag"] or ""))
        is_last = pages is None or len(items) < pages * _PAGE
        return Page(tuple(sorted(infos, key=lambda info: info.key)), is_last)

    def _log_in(self) -> None:
        self._logins.get().renew()

    def _open_store(self) -> "ObjectStore":
        from obstore.store import S3Store

        place = self.place
        options = client_options(place.endpoint)
        if _mapping(place.filesystem["client_kwargs"]).get("verify") is False:
            options["allow_invalid_certificates"] = True
        elif (bundle := os.environ.get("AWS_CA_BUNDLE")) and not place.endpoint.startswith("http://"):
            with open(bundle, "rb") as file:
                options["root_certificate"] = file.read()
        where: dict[str, Any] = {}
        if place.endpoint:
            where = {"endpoint": place.endpoint, "aws_endpoint_url_s3": place.endpoint}
        return S3Store(
            place.bucket,
            **where,
            region=self.region,
            virtual_hosted_style_request=not place.endpoint and "." not in place.bucket,
            skip_signature=bool(place.filesystem.get("anon")),
            client_options=options,
            retry_config={"max_retries": 0},  # a retry is a wrapper's business
            credential_provider=None if place.filesystem.get("anon") else self._logins.get(),
        )

    def _open_library(self) -> Backend:
        from backends.s3 import S3Backend

        return S3Backend(self.place, stats=self.stats)

    def _of_answer(self, kind: str, key: str | None, failed: Failure) -> BackendError:
        said = {"Code": failed.code, "Message": failed.message}
        return of_answer(self.place, key, _OPERATIONS[kind], failed.status, said)


class _Login:
    """The credentials as botocore finds and renews them, for one process; obstore asks for them at every request."""

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._source: Any = None
        self._key = self._secret = ""
        self._token: str | None = None
        given = place.filesystem
        self._is_fixed = bool(given.get("anon") or given.get("key"))
        environment = [os.environ.get(name, "") for name in _KEYS]
        if given.get("key"):
            self._keep(str(given["key"]), str(given["secret"]), given.get("token"))
        elif not self._is_fixed and all(environment[:2]) and not place.profile:
            self._keep(*environment)

    def _keep(self, key: str, secret: str, token: object = None) -> None:
        self._key, self._secret, self._token = key, secret, str(token) if token else None
        self._is_fixed = True

    def renew(self) -> None:
        """Look for credentials, and renew them where they run out soon.

        Raises:
            BackendError: There are none, or they cannot be renewed.
        """
        if self._is_fixed:
            return
        from backends.s3_errors import translated

        with translated(self._place, None, "get_object"):
            if self._source is None:
                self._source = _session(self._place.profile).get_credentials()
            if self._source is None:
                from botocore.exceptions import NoCredentialsError

                raise NoCredentialsError
            frozen = self._source.get_frozen_credentials()
        self._key, self._secret, self._token = frozen.access_key, frozen.secret_key, frozen.token

    def __call__(self) -> "S3Credential":
        """Return what is valid now; obstore is to ask again soon, since `renew` knows better when they end."""
        soon = datetime.now(UTC) + timedelta(seconds=1)
        return {
            "access_key_id": self._key, "secret_access_key": self._secret, "token": self._token, "expires_at": soon
        }  # fmt: skip


def _session(profile: str | None) -> Any:
    from botocore.session import Session

    return Session(profile=profile)


def _collect(
    store: "ObjectStore", folder: str, start_after: str, pages: int | None
) -> builtins.list["ObjectMeta"]:
    import obstore

    found = obstore.list(store, folder.rstrip("/") or None, offset=start_after or None, chunk_size=_PAGE)
    return [item for page in islice(found, pages) for item in page]


def _region(place: S3Place) -> str:
    """Return the region to sign for, if obstore can serve this place.

    Raises:
        UnsupportedError: It cannot, or would not do exactly what s3fs does.
    """
    given = place.filesystem
    client, config = (_mapping(given[name]) for name in ("client_kwargs", "config_kwargs"))
    settings = _configuration(place)
    region = client.get("region_name") or os.environ.get("AWS_DEFAULT_REGION") or settings.get("region")
    obstacles = {
        "options of S3": {**config, "s3": {}} != usual_config(place.endpoint)
        or _mapping(config["s3"]) not in ({}, {"addressing_style": "path" if place.endpoint else "virtual"})
        or client.get("verify", False) is not False
        or not client.keys() <= {"region_name", "verify"}
        or bool(given["s3_additional_kwargs"]),
        "an access point": ":" in place.bucket,
        "the AWS configuration": not settings.keys() <= _HARMLESS,
        "the environment": any(os.environ.get(name) for name in _WHAT_OBSTORE_WOULD_TAKE)
        or (not place.endpoint and any(os.environ.get(name) for name in _WHAT_OBSTORE_WOULD_MISS)),
        "the region": not place.endpoint and (not region or str(region).startswith(("cn-", "us-iso"))),
    }
    for what, stands in obstacles.items():
        if stands:
            raise UnsupportedError(f"obstore cannot do what {what} asks for: {place.url}")
    return str(region or "us-east-1")


def _configuration(place: S3Place) -> Mapping[str, object]:
    """Return what the AWS configuration says in the section that counts."""
    file = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    if not os.path.exists(os.path.expanduser(file)):
        return {}
    from backends.s3_errors import translated

    with translated(place, None, "get_object"):
        found: Mapping[str, object] = _session(place.profile).get_scoped_config()
    return found


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value
