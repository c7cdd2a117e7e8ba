"""Keeping what must not be seen out of what is printed, wherever it comes from."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, unquote_plus

__all__ = ["Secrets"]

_HARMLESS = frozenset({
    "acl", "addressing_style", "anon", "at", "bucket", "default_region", "endpoint", "endpoint_url", "forcepathstyle",
    "force_path_style", "host", "hostname", "port", "profile", "project", "protocol", "region", "region_name",
    "requester_pays", "timeout", "txid", "use_ssl", "verify",
})  # fmt: skip
"""Parameters whose values an error may show. Any other one may be a secret, under whatever name."""

_USERINFO = re.compile(r"://([^/?#]*)@")
_MASK = "***"


class Secrets:
    """The values among a command's words that are never printed.

    Args:
        words: What was typed.
    """

    def __init__(self, words: Sequence[str]) -> None:
        found = {value for word in words for value in _values(word)}
        self._values = sorted(filter(None, found), key=len, reverse=True)

    def hidden(self, text: str) -> str:
        """Return the text with every secret in it replaced by stars."""
        for value in self._values:
            text = text.replace(value, _MASK)
        return text


def _values(word: str) -> Iterator[str]:
    """Yield what may be secret in one word, as it was typed and as it is meant."""
    for userinfo in _USERINFO.findall(word):
        user, colon, password = userinfo.partition(":")
        yield from (password, unquote(password)) if colon else (user, unquote(user))
    _, mark, query = word.partition("?")
    pairs = query.partition("#")[0].split("&") if mark and "://" in word else []
    if "://" not in word.partition("=")[0]:
        pairs.append(word)  # key=value of --storage-option
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if equals and name.removeprefix("--storage-option=").rstrip(":").lower() not in _HARMLESS:
            yield from (value, unquote_plus(value), unquote(value))
