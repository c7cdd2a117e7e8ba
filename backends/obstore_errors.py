"""What obstore's exceptions say: they hold the service's answer as text, and nowhere else.

Their text also holds the whole URL of the request, and with it a SAS. So what is read here goes into errors of ours,
and the exception itself is no part of them.
"""

import re
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from typing import Literal

__all__ = ["Failure", "failure"]

_ANSWER = re.compile(r"Server returned non-2xx status code: (\d{3})([^:]*):?(.*)", re.DOTALL)
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_CONNECTING = re.compile(r"legacy::Error\(\s*Connect,")
_FIELD = r"<{0}>([^<]*)</{0}>"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong.

    Attributes:
        kind: The service's own `answer`; or there was no connection (`connect`), none that can be trusted
            (`certificate`), no answer in time (`timeout`); or the connection was `broken`; or a range was answered with
            the `whole` object; or what obstore says by itself (`other`).
        status: Of HTTP; 0 where there was no answer.
        code: The service's word for it; "" where it gave none.
        message: The service's first line in words.
    """

    kind: Literal["answer", "connect", "certificate", "timeout", "broken", "whole", "other"]
    status: int = 0
    code: str = ""
    message: str = ""


def failure(error: Exception) -> Failure:
    """Read an exception of obstore's, or of Python's that it raised."""
    text, _, debug = str(error).partition("\n\nDebug source:")
    if match := _ANSWER.search(text):
        code, message = (re.search(_FIELD.format(name), match[3]) for name in ("Code", "Message"))
        said = unescape(message[1]).strip() if message else ""
        return Failure("answer", int(match[1]), code[1] if code else "", said.partition("\n")[0])
    if "redirect without LOCATION" in text:
        return Failure("answer", HTTPStatus.MOVED_PERMANENTLY)
    if isinstance(error, FileNotFoundError):
        return Failure("answer", HTTPStatus.NOT_FOUND)
    if "non-partial response" in text or "NotPartial" in debug:
        return Failure("whole")
    kind = _KIND.search(debug)
    if kind and "certificate" in debug.lower():
        return Failure("certificate")
    if (kind and kind[1] == "Connect") or _CONNECTING.search(debug):
        return Failure("connect")
    if isinstance(error, TimeoutError) or (kind and kind[1] == "Timeout"):
        return Failure("timeout")
    if kind or "reqwest::Error" in debug:
        return Failure("broken")
    said = text.strip().partition("\n")[0]
    return Failure("other", message=type(error).__name__ if "://" in said else said)
