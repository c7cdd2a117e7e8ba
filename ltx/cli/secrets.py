"""Keeping what must not be seen out of what is printed, wherever it comes from."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, unquote_plus

__all__ = ["Secrets"]

_HARMLESS = frozenset({
    "acl", "addressing_style", "anon", "at", "bucket", "default_region", "endpoint", "endpoint_url", "forcepathstyle",
    "force_path_style", "host", "hostname", "kinds", "port", "profile", "project", "protocol", "rate", "region",
    "region_name", "requester_pays", "seed", "slow", "timeout", "txid", "use_ssl", "verify",
})  # fmt: skip
"""Parameters whose values an error may show. Any other one may be a secret, under whatever name."""

_USERINFO = re.compile(r"://([^?#]*)@")
"""Up to the last @: people forget to quote a slash in a password."""

_JSON_TEXT = re.compile(r'"([^"]+)"\s*[],}]')
_MASK = "***"
_SHORTEST = 4
"""Characters of what may be secret; to hide every `y` of a message would hide what it says."""


class Secrets:
    """The values among a command's words that are never printed.

    Args:
        words: What was typed.
    """

    def __init__(self, words: Sequence[str]) -> None:
        found: set[str] = set()
        for before, word in zip(["", *words], words, strict=False):
            option = "--storage-option"
            if before == option or word.startswith(f"{option}="):
                found.update(_value(word.removeprefix(f"{option}=")))
            elif "://" in word and not word.startswith("file:"):
                found.update(_values_in_url(word))
        self._values = sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)

    def hidden(self, text: str) -> str:
        """Return the text with every secret in it replaced by stars."""
        for value in self._values:
            text = text.replace(value, _MASK)
        return text


def _values_in_url(url: str) -> Iterator[str]:
    """Yield what may be secret in a URL, as it was typed and as it is meant; a user's name alone is shown."""
    for userinfo in _USERINFO.findall(url):
        password = userinfo.partition(":")[2]
        yield from (password, unquote(password))
    for pair in url.partition("?")[2].partition("#")[0].split("&"):
        yield from _value(pair)


def _value(pair: str) -> Iterator[str]:
    name, _, value = pair.partition("=")
    if name.rstrip(":").lower() not in _HARMLESS:
        yield from (value, unquote_plus(value), unquote(value))
        if name.endswith(":"):
            yield from _JSON_TEXT.findall(value)
