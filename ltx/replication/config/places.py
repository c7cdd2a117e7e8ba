"""From the settings of a replica to its URL and options, so that it lies where the real Litestream puts it.

A setting of the file wins over the same one in the URL's query, and both over the environment, as in Litestream; what
the top of the file says holds where a replica says nothing.
"""

import os
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ltx.replication.config.model import ReplicaSection, StorageSettings
from ltx.replication.config.values import SAFE_IN_PATH, Place

__all__ = ["local_path", "place_of"]

_S3_QUERY = {
    "endpoint": "endpoint",
    "region": "region",
    "force_path_style": "forcePathStyle",
    "sign_payload": "signPayload",
    "require_content_md5": "requireContentMD5",
    "skip_verify": "skipVerify",
    "storage_class": "storageClass",
    "sse_customer_algorithm": "sseCustomerAlgorithm",
    "sse_customer_key": "sseCustomerKey",
    "sse_kms_key_id": "sseKmsKeyId",
}
_S3_OPTIONS = {"part_size": "part_size", "concurrency": "concurrency"}
_NOT_HERE = {"nats": "NATS", "oss": "Alibaba Cloud OSS"}

Get = Callable[[str], object]


def local_path(text: str) -> str:
    """Return a path of this machine as an absolute one; `~/` is the home folder, `sqlite://` before it is taken off."""
    text = re.sub(r"^sqlite3?://", "", text)
    return os.path.abspath(os.path.expanduser(text) if text == "~" or text.startswith("~/") else text)


def place_of(replica: ReplicaSection, defaults: StorageSettings) -> Place:
    """Return where a replica is.

    Raises:
        ValueError: Something is missing, does not fit, or is not here yet. No message shows a secret.
        OSError: A file with a key cannot be read.
    """
    scheme = (urlsplit(replica.url).scheme or "file").lower() if replica.url else replica.type or "file"
    if scheme in _NOT_HERE:
        raise ValueError(f"replicas on {_NOT_HERE[scheme]} are not here yet")
    if replica.url and replica.type and replica.type not in (scheme, scheme.removesuffix("s")):
        raise ValueError(f"the URL is one of {scheme}://, and 'type' says {replica.type}")

    def get(name: str) -> object:
        own = getattr(replica, name)
        if own not in (None, ""):
            return own
        return None if replica.url and name in ("bucket", "host", "webdav_url") else getattr(defaults, name)

    make = _MAKERS.get(scheme)
    if make is None:
        return Place(replica.url or "")  # a storage that only we have
    return make(replica, get)


def _file(replica: ReplicaSection, _: Get) -> Place:
    if not replica.url:
        if not replica.path:
            raise ValueError("needs a 'url', or a 'path' to a folder")
        return Place(local_path(replica.path))
    parts = urlsplit(replica.url)
    path = parts.path
    if re.search(r"[^A-Za-z0-9_.~!*'()%;\[\]$&+,/:=@-]", path):
        path = quote(unquote(path), safe=SAFE_IN_PATH)
    path = posixpath.normpath(f"/{parts.netloc}/{path}" if parts.netloc else path)
    if not path.startswith("/"):
        path = local_path(path)
    return Place(f"file://{quote('/' + path.lstrip('/'))}")


def _s3(replica: ReplicaSection, get: Get) -> Place:
    query = {name: _text(get(setting)) for setting, name in _S3_QUERY.items() if get(setting) is not None}
    if path := get("sse_customer_key_path"):
        query["sseCustomerKey"] = Path(str(path)).expanduser().read_text().strip()
    options = {option: get(setting) for setting, option in _S3_OPTIONS.items() if get(setting) is not None}
    if get("access_key_id") and get("secret_access_key"):
        options |= {"key": get("access_key_id"), "secret": get("secret_access_key")}
    if not replica.url:
        options["root"] = (
            f"{replica.path or ''}/"  # the real one begins its keys so, also where that is a slash
        )
        return Place(f"s3://{_needed(get, 'bucket')}?{urlencode(query)}".rstrip("?"), options)
    if not urlsplit(replica.url).path.strip("/"):
        options["root"] = "./"  # as the real one does
    base, _, rest = replica.url.partition("?")
    ours = {name.lower() for name in query}
    kept = [
        (name, value)
        for name, value in parse_qsl(rest, keep_blank_values=True)
        if re.sub("[-_]", "", name).lower() not in ours
    ]
    return Place(f"{base}?{urlencode([*kept, *query.items()])}".rstrip("?"), options)


def _gs(replica: ReplicaSection, get: Get) -> Place:
    if replica.url:
        return Place(replica.url)
    return Place(f"gs://{_needed(get, 'bucket')}/{_key_path(replica)}")


def _abs(replica: ReplicaSection, get: Get) -> Place:
    options = {name: get(name) for name in ("account_name", "endpoint") if get(name)}
    login = "sas_token" if get("sas_token") else "account_key"
    if get(login):
        options[login] = get(login)
    if replica.url:
        return Place(replica.url, options)
    return Place(f"abs://{_needed(get, 'bucket')}/{_key_path(replica)}", options)


def _sftp(replica: ReplicaSection, get: Get) -> Place:
    options = {
        option: get(setting)
        for setting, option in (("password", "password"), ("host_key", "host_key"))
        if get(setting)
    }
    if path := get("key_path"):
        options["key_path"] = os.path.expanduser(str(path))
    if user := get("user"):
        options["username"] = user
    if replica.url:
        return Place(replica.url, options)
    if "username" not in options:
        raise ValueError("needs a 'user' to log in as")
    path = replica.path or ""
    folder = quote(path) if path.startswith("/") else f"/~/{quote(path)}"
    return Place(f"sftp://{_needed(get, 'host')}{folder}", options)


def _webdav(replica: ReplicaSection, get: Get) -> Place:
    options = {
        name: get(f"webdav_{name}") for name in ("username", "password") if get(f"webdav_{name}") is not None
    }
    if replica.url:
        return Place(replica.url, options)
    scheme, sign, rest = _needed(get, "webdav_url").partition("://")
    if scheme not in ("http", "https") or not sign:
        raise ValueError("'webdav-url' begins with http:// or https://")
    tls = "s" if scheme == "https" else ""
    return Place(f"webdav{tls}://{rest.rstrip('/')}/{quote((replica.path or '').strip('/'))}", options)


_MAKERS: Mapping[str, Callable[[ReplicaSection, Get], Place]] = {
    "abs": _abs,
    "file": _file,
    "gs": _gs,
    "s3": _s3,
    "sftp": _sftp,
    "webdav": _webdav,
    "webdavs": _webdav,
}


def _key_path(replica: ReplicaSection) -> str:
    path = replica.path or ""
    if path.startswith("/"):
        raise ValueError(f"'path' begins with a slash, so that keys would, too: write {path.lstrip('/')!r}")
    return quote(posixpath.normpath(path)) if path else ""


def _needed(get: Get, name: str) -> str:
    value = get(name)
    if not value:
        raise ValueError(f"needs a 'url', or a {name.replace('_', '-')!r}")
    return str(value)


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
