"""Which keys every storage can hold, and why not the others.

A **key** is relative to the root that a URL named: components joined by `/`, such as
`ltx/0/0000000000000001-0000000000000001.ltx`. Every other printable character is legal in a component, blanks,
`%`, `+`, `?`, `#`, quotes and any script included: a backend quotes what its protocol needs quoted.

A key must not also be the folder of another one (`a` and `a/b`): an object store holds both, a file system cannot,
and says so with a `ConfigError` when the second is put.
"""

from collections.abc import Iterable

from backends.errors import ConfigError

__all__ = ["check_key", "check_keys", "check_prefix", "is_key"]

MAX_KEY_SIZE = 900
"""Bytes of UTF-8; S3 and Azure allow 1,024 with the root in front."""

MAX_COMPONENT_SIZE = 255
"""Bytes of UTF-8: what a file system allows a name."""

ASIDE_PREFIX = ".tmp-"
"""Begins the names under which a backend writes aside; such names are never listed."""


def check_key(key: str) -> str:
    """Return the key if every backend can hold it.

    Raises:
        ConfigError: It cannot; the message says why.
    """
    if reason := _reason(key):
        raise ConfigError(f"not a key that every storage can hold, {reason}: {key!r}", key=key)
    return key


def is_key(text: str) -> bool:
    """Say whether a name found on a storage is a key; what others put there need not be one."""
    return not _reason(text)


def check_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys as a list if every backend can hold each of them.

    Raises:
        ConfigError: One of them is not a key, or a single string was given in place of several.
    """
    if isinstance(keys, str):
        raise ConfigError(f"several keys are wanted, not one string: write [{keys!r}]", key=keys)
    return [check_key(key) for key in keys]


def check_prefix(prefix: str) -> str:
    """Return the prefix if a key can begin with it; what follows its last `/` need not be a whole component.

    Raises:
        ConfigError: No key can begin with it; the message says why.
    """
    *folders, start = prefix.split("/")
    reason = prefix and (_fault(prefix) or next(filter(None, map(_component_fault, folders)), ""))
    if reason or start.startswith(ASIDE_PREFIX):
        raise ConfigError(
            f"no key begins with it, {reason or f'names in {ASIDE_PREFIX} are ours'}: {prefix!r}"
        )
    return prefix


def _reason(key: str) -> str:
    return _fault(key) or next(filter(None, map(_component_fault, key.split("/"))), "")


def _fault(text: str) -> str:
    if not text.isprintable():
        return "it has a character that cannot be printed"  # refused by Azure, WebDAV and XML; half a surrogate pair
    if "\\" in text:
        return "it has a backslash"  # Azure and Windows take it for a slash
    if len(text.encode()) > MAX_KEY_SIZE:
        return f"it has more than {MAX_KEY_SIZE} bytes"
    return ""


def _component_fault(part: str) -> str:
    if part in ("", ".", ".."):
        return "it has an empty, '.' or '..' component"  # a file system and many a proxy fold it away
    if part.startswith(ASIDE_PREFIX):
        return f"names that begin with {ASIDE_PREFIX} are where backends write aside"
    if part.endswith((".", " ")) or part.startswith(" "):
        return "a component begins or ends with a blank or ends with a dot"  # Azure and Windows drop it
    if len(part.encode()) > MAX_COMPONENT_SIZE:
        return f"a component has more than {MAX_COMPONENT_SIZE} bytes"
    return ""
