"""A service that gives out keys for a short time, and an S3 service that checks signatures, tokens and times by them."""

import contextlib
import hashlib
import hmac
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

__all__ = ["TemporaryKeys", "temporary_keys"]

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)"
)


@dataclass
class TemporaryKeys:
    """What was given out, and what was done with it.

    Attributes:
        port: Where both services listen.
        lifetime_s: Seconds for which keys are good.
        given: Secret and end by access key; the token is `token of` the key.
        used: Access keys of the requests that were let through, in their order.
        refused: Why others were not.
        objects: What is stored, by path.
    """

    port: int = 0
    lifetime_s: float = 2
    given: dict[str, tuple[str, float]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def give(self) -> bytes:
        """Give out new keys, as the metadata service of a container does."""
        key, ends = f"ASIAKEY{len(self.given)}", time.time() + self.lifetime_s
        self.given[key] = (f"secret of {key}", ends)
        expiration = datetime.fromtimestamp(ends, UTC).isoformat().replace("+00:00", "Z")
        keys = {"AccessKeyId": key, "SecretAccessKey": f"secret of {key}", "Token": f"token of {key}"}
        return json.dumps(keys | {"Expiration": expiration}).encode()

    def refusal(self, method: str, path: str, headers: dict[str, str]) -> str:
        """Say in S3's word why a request is refused; "" where its signature, its token and its time are right."""
        match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if not match or match[1] not in self.given:
            return "InvalidAccessKeyId"
        key, day, region, signed, signature = match.groups()
        secret, ends = self.given[key]
        if headers.get("x-amz-security-token") != f"token of {key}":
            return "InvalidToken"
        if not hmac.compare_digest(
            _sign(secret, day, region, _request(method, path, headers, signed), headers), signature
        ):
            return "SignatureDoesNotMatch"
        if time.time() > ends:
            return "ExpiredToken"
        self.used.append(key)
        return ""


def _request(method: str, path: str, headers: dict[str, str], signed: str) -> str:
    parts = urlsplit(path)
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in signed.split(";")]
    asked = "&".join(f"{name}={value}" for name, value in query)
    return "\n".join([method, parts.path, asked, *lines, "", signed, headers["x-amz-content-sha256"]])


def _sign(secret: str, day: str, region: str, request: str, headers: dict[str, str]) -> str:
    scope = f"{day}/{region}/s3/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashed}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


@contextlib.contextmanager
def temporary_keys(lifetime_s: float) -> Iterator[TemporaryKeys]:
    """Start both services on one port: `/keys` gives keys, everything else is objects."""
    services = TemporaryKeys(lifetime_s=lifetime_s)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/keys":
                self.reply(200, services.give())
            elif self.is_allowed():
                found = services.objects.get(self.path)
                self.reply(404 if found is None else 200, found or b"")

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.is_allowed():
                services.objects[self.path] = body
                self.reply(200, b"")

        def is_allowed(self) -> bool:
            headers = {name.lower(): value for name, value in self.headers.items()}
            if code := services.refusal(self.command, self.path, headers):
                services.refused.append(code)
                self.reply(400, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
            return not code

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"x"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        services.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield services
        finally:
            server.shutdown()
            thread.join()
