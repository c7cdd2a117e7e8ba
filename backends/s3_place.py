"""Where an S3 URL points, and with which credentials: the URL, the options and the environment put together.

The forms are Litestream's: `s3://bucket/path?endpoint=http://127.0.0.1:9000&region=us-east-1`, the host names of AWS
and of some other providers (`s3://bucket.s3.eu-west-1.amazonaws.com/path`), `s3://bucket.host:port/path`, and the ARN
of an access point. An option wins over the query, the query over the environment.
"""

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from backends.errors import ConfigError
from backends.keys import check_key

__all__ = ["READS", "S3Place", "parse", "usual_config"]

PART_SIZE = 8 << 20
"""Bytes of one part of an upload. 10,000 of them are 78 GiB; larger files get larger parts."""

SMALLEST_PART = 5 << 20
"""Bytes: S3 refuses smaller parts, the last one excepted."""

UPLOADS = 4
"""Parts of one object under way at once, so memory holds at most one more than that."""

READS = 32
"""Ranges under way at once, each on a connection."""

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30

_HOSTS = (
    (r"(?P<bucket>.+)\.s3[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com(?:\.cn)?", ""),
    (r"(?P<bucket>.+)\.s3\.amazonaws\.com", ""),
    (r"(?P<bucket>.+)\.s3\.(?P<region>[^.]+)\.backblazeb2\.com", "s3.{region}.backblazeb2.com"),
    (r"(?P<bucket>.+)\.s3\.(?P<region>[^.]+)\.scw\.cloud", "s3.{region}.scw.cloud"),
    (r"(?P<bucket>.+)\.s3\.filebase\.com", "s3.filebase.com"),
    (r"(?P<bucket>.+)\.(?P<region>[^.]+)\.digitaloceanspaces\.com", "{region}.digitaloceanspaces.com"),
    (r"(?P<bucket>.+)\.(?P<region>[^.]+)\.linodeobjects\.com", "{region}.linodeobjects.com"),
    (r"(?P<bucket>[^.:]+)\.(?P<host>[^:]+:\d+)", "{host}"),
)
"""Host names that hold a bucket, and the endpoint they stand for; "" is AWS itself."""

_UNREADABLE = (
    "what stands between s3:// and the next '/' is not a bucket; write s3://bucket/path, "
    "and in a secret write '/' as %2F, '+' as %2B and '@' as %40"
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ARN = re.compile(r"arn:aws[a-z-]*:s3[a-z-]*:[a-z0-9-]*:\d{12}:accesspoint")
_SIZE = re.compile(r"(\d+)\s*([KMG]?)(I?B?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_PUBLIC = (
    "endpoint", "region", "profile", "forcePathStyle", "skipVerify", "signPayload", "requireContentMD5",
    "storageClass", "partSize", "concurrency", "sseCustomerAlgorithm", "sseKmsKeyId", "anon",
)  # fmt: skip
_SECRET = ("accessKeyId", "secretAccessKey", "sessionToken", "sseCustomerKey", "sseCustomerKeyMD5")
_QUERY = {name.lower(): name for name in (*_PUBLIC, *_SECRET)}
_OPTIONS: dict[str, type] = {
    "key": str, "secret": str, "token": str, "profile": str, "anon": bool, "endpoint_url": str,
    "client_kwargs": Mapping, "config_kwargs": Mapping, "s3_additional_kwargs": Mapping,
    "part_size": int, "concurrency": int, "root": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, a root in it, and what it takes to speak to it.

    Attributes:
        url: What can be shown: the place without anything secret.
        bucket: Its name, or the ARN of an access point.
        root: Begins every key; empty, or with a `/` at its end.
        endpoint: URL of a service other than AWS; "" is AWS, or what its configuration says.
        part_size: Bytes of one part of an upload.
        concurrency: Parts of one object under way at once.
        content_md5: Send Content-MD5 with DeleteObjects, as services before 2024 demand.
        profile: Section of the AWS configuration; None is the default one.
        filesystem: Options of `s3fs.S3FileSystem`, secrets included.
    """

    url: str
    bucket: str
    root: str
    endpoint: str
    part_size: int
    concurrency: int
    content_md5: bool
    profile: str | None = field(repr=False)
    filesystem: Mapping[str, object] = field(repr=False)

    @property
    def shown(self) -> str:
        """How errors name the service."""
        return self.endpoint or "AWS"


def parse(url: str, options: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> S3Place:
    """Put together what the URL, the options and the environment say.

    Raises:
        ConfigError: One of them is wrong. No message shows a secret.
    """
    _check_options(options)
    parts = _split(url)
    query = _query(parts)
    login, _, host = parts.netloc.rpartition("@")
    bucket, region, endpoint, path = _host(host, unquote(parts.path).strip("/"))
    of_aws = endpoint == "" and bucket != host
    endpoint = _text(options, "endpoint_url") or query.get("endpoint") or endpoint
    if not endpoint and not of_aws:
        names = ("LITESTREAM_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        endpoint = next(filter(None, map(environment.get, names)), "")
    endpoint = _endpoint(endpoint) if endpoint else ""
    region = query.get("region") or region or environment.get("AWS_REGION", "")
    root = f"{path}/" if path else ""
    if "root" in options:
        root = str(options["root"])
        path = root.removesuffix("/")
    elif path:
        check_key(path)
    public = {name: query[name] for name in _PUBLIC if name in query}
    public |= {"endpoint": endpoint} if endpoint else {}
    part_size = _size(str(options.get("part_size") or query.get("partSize") or PART_SIZE))
    return S3Place(
        url=f"s3://{bucket}{'/' if path else ''}{quote(path)}"
        + (f"?{urlencode(public, safe=':/')}" if public else ""),
        bucket=bucket,
        root=root,
        endpoint=endpoint,
        part_size=part_size,
        concurrency=_count(str(options.get("concurrency") or query.get("concurrency") or UPLOADS)),
        content_md5=_truth(query, "requireContentMD5") is not False,
        profile=_text(options, "profile") or query.get("profile"),
        filesystem=_filesystem(options, query, environment, login, endpoint, region),
    )


def _check_options(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ConfigError(f"S3 has no option {name!r}; there is {', '.join(sorted(_OPTIONS))}")
        if value is not None and not isinstance(value, _OPTIONS[name]):
            raise ConfigError(
                f"the S3 option {name!r} is a {_OPTIONS[name].__name__}, not a {type(value).__name__}"
            )


def _split(url: str) -> SplitResult:
    """Split the URL; what cannot be split may hold a secret anywhere, so it is not shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(_UNREADABLE) from None
    if "#" in url:
        raise ConfigError("an S3 URL has no fragment: write '#' as %23")
    host = parts.netloc.rpartition("@")[2]
    with_port = re.fullmatch(r"[^:@]+:\d+", host) and "@" not in parts.path
    if ":" in host and not with_port and not _ARN.fullmatch(host):
        raise ConfigError(_UNREADABLE)
    return parts


def _query(parts: SplitResult) -> dict[str, str]:
    """Return the query under Litestream's camel-case names; kebab and snake case are the same."""
    query: dict[str, str] = {}
    for given, value in parse_qsl(parts.query, keep_blank_values=True):
        name = _QUERY.get(re.sub("[-_]", "", given).lower())
        if name is None:
            raise ConfigError(
                f"an S3 URL has no parameter {given!r}; there is {', '.join(sorted(_QUERY.values()))}"
            )
        if name in query:
            raise ConfigError(f"the parameter {name} is given twice")
        query[name] = value
    return query


def _host(host: str, path: str) -> tuple[str, str, str, str]:
    """Return bucket, region, endpoint and path."""
    if _ARN.fullmatch(host):
        point, _, path = path.partition("/")
        return f"{host}/{point}", host.split(":")[3], "", path
    for pattern, endpoint in _HOSTS:
        if match := re.fullmatch(pattern, host):
            found = match.groupdict()
            if not found["bucket"].isdigit():  # else an IP address
                return found["bucket"], found.get("region") or "", endpoint.format(**found), path
    if ":" in host:
        raise ConfigError(f"{host!r} is no bucket; write s3://bucket/path?endpoint=http://{host}")
    if not _BUCKET.fullmatch(host):
        raise ConfigError(f"not the name of a bucket: {host!r}; write s3://bucket/path")
    return host, "", "", path


def _endpoint(text: str) -> str:
    """Return the endpoint as a URL: without a scheme it is http on this machine and in private networks."""
    if "://" not in text:
        host = (urlsplit(f"//{text}").hostname or "").lower()
        text = f"{'http' if _is_private(host) else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
        port = parts.port
    except ValueError:
        wrong, port = True, None
    if wrong or port == 0:
        raise ConfigError("the endpoint is not a URL such as http://127.0.0.1:9000")
    if "@" in parts.netloc:
        raise ConfigError("an endpoint holds no credentials: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return text.rstrip("/")


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local"))


def _filesystem(
    options: Mapping[str, object],
    query: Mapping[str, str],
    environment: Mapping[str, str],
    login: str,
    endpoint: str,
    region: str,
) -> dict[str, object]:
    s3: dict[str, object] = {}
    path_style = _truth(query, "forcePathStyle")
    if path_style is not None or endpoint:
        s3["addressing_style"] = "virtual" if path_style is False else "path"
    if (signed := _truth(query, "signPayload")) is not None:
        s3["payload_signing_enabled"] = signed
    config = usual_config(endpoint)
    given = _mapping(options, "config_kwargs")
    config |= given | {"s3": s3 | _mapping(given, "s3")}
    client: dict[str, object] = {"region_name": region} if region else {}
    if _truth(query, "skipVerify"):
        client["verify"] = False
    return {
        **_credentials(options, query, environment, login),
        "endpoint_url": endpoint or None,
        "client_kwargs": client | _mapping(options, "client_kwargs"),
        "config_kwargs": config,
        "s3_additional_kwargs": _object_options(query) | _mapping(options, "s3_additional_kwargs"),
    }


def usual_config(endpoint: str) -> dict[str, object]:
    """Return the configuration of botocore's client for an endpoint, where nobody asks for another."""
    config: dict[str, object] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"max_attempts": 0},  # a retry is a wrapper's business
        "max_pool_connections": READS,
        "s3": {},
    }
    if endpoint:  # checksums that not every service knows
        config |= {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    return config


def _credentials(
    options: Mapping[str, object], query: Mapping[str, str], environment: Mapping[str, str], login: str
) -> dict[str, object]:
    """Return what was given explicitly; without it botocore looks in the environment, the profile and the role."""
    if options.get("anon") or _truth(query, "anon"):
        return {"anon": True}
    user, _, password = login.partition(":")
    key = _text(options, "key") or unquote(user) or query.get("accessKeyId")
    secret = _text(options, "secret") or unquote(password) or query.get("secretAccessKey")
    token = _text(options, "token") or query.get("sessionToken")
    profile = options.get("profile") or query.get("profile") or environment.get("AWS_PROFILE")
    if not (key or secret or profile or environment.get("AWS_ACCESS_KEY_ID")):
        key = environment.get("LITESTREAM_ACCESS_KEY_ID")
        secret = environment.get("LITESTREAM_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        raise ConfigError(
            f"an access key and its secret go together; the {'secret' if key else 'key'} is missing"
        )
    return {"key": key, "secret": secret, "token": token} if key else {}


def _object_options(query: Mapping[str, str]) -> dict[str, object]:
    """Return what goes with every request about an object: its storage class and its encryption."""
    found: dict[str, object] = {}
    if "storageClass" in query:
        found["StorageClass"] = query["storageClass"]
    if "sseKmsKeyId" in query:
        found |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": query["sseKmsKeyId"]}
    if "sseCustomerKey" in query:
        try:
            key = base64.b64decode(query["sseCustomerKey"], validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32 or "sseKmsKeyId" in query:
            raise ConfigError("sseCustomerKey is 32 bytes in base64, and excludes sseKmsKeyId")
        found |= {"SSECustomerAlgorithm": query.get("sseCustomerAlgorithm", "AES256"), "SSECustomerKey": key}
    return found


def _mapping(options: Mapping[str, object], name: str) -> dict[str, object]:
    value = options.get(name) or {}
    return dict(value) if isinstance(value, Mapping) else {}


def _text(options: Mapping[str, object], name: str) -> str | None:
    value = options.get(name)
    return value if isinstance(value, str) else None


def _truth(query: Mapping[str, str], name: str) -> bool | None:
    if name not in query:
        return None
    value = _TRUTHS.get(query[name].lower())
    if value is None:
        raise ConfigError(f"{name} is true or false, not {query[name]!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise ConfigError(f"concurrency is a number from 1 to 100, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    if not (match := _SIZE.fullmatch(text)):
        raise ConfigError(f"partSize is a size such as 8388608 or 8MiB, not {text!r}")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size < SMALLEST_PART:
        raise ConfigError(f"partSize is at least {SMALLEST_PART} bytes, as S3 wants it, not {text!r}")
    return size
