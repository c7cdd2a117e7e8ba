"""How a file gets to a WebDAV server: aside first, then under its name, in collections made when they are missing."""

import os
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus

from backends.base import Data
from backends.errors import AlreadyExistsError, BackendError, ConfigError, NotFoundError, UnavailableError
from backends.keys import ASIDE_PREFIX
from backends.webdav_http import body_of
from backends.webdav_session import DAVSession

__all__ = ["DAVWriter"]

_MKCOL_FIRST_SIZE = 256 << 10
"""From this size on, a body is not sent just to find out whether its collection is there."""

_ANY_REFUSAL = range(300, 600)
_NO_MKCOL = (400, 403, 404, 405, 409)
"""What servers say where no collection can be made: no parent, a taken name; Apache also 403, in a race."""

_NO_PARENT = (400, 404, 409, 500)
"""What servers say to an upload into a collection that is not there: nginx 500; and below a file: Apache 400."""

_PROPPATCH = (
    '<?xml version="1.0" encoding="utf-8"?><propertyupdate xmlns="DAV:"><set><prop><getlastmodified>{}'
    "</getlastmodified></prop></set></propertyupdate>"
)


class DAVWriter:
    """Writes files on one server. Paths are from the server's root, not quoted.

    Attributes:
        keeps_modified: Whether the server keeps modification times, found out by the first write with one.
    """

    def __init__(self, dav: DAVSession) -> None:
        """Prepare; nothing is sent."""
        self._dav = dav
        self._folders: set[str] = set()
        self._new_is_204 = False
        self.keeps_modified: bool | None = None

    def write(self, path: str, data: Data, *, replace: bool = True, modified_ms: int | None = None) -> None:
        """Write a file whole, by way of a temporary name beside it.

        Args:
            path: Where.
            data: Bytes, or a seekable file.
            replace: Whether the name may be taken. If not, servers differ in how exclusive that is.
            modified_ms: A modification time to keep, in whole seconds, where the server lets clients set it: by
                `X-OC-Mtime` (Nextcloud, ownCloud) or by PROPPATCH (rclone).

        Raises:
            AlreadyExistsError: Not `replace`, and the name is taken.
            ConfigError: The name is a collection's, or one on the way to it a file's.
        """
        aside = f"{path.rpartition('/')[0]}/{ASIDE_PREFIX}{os.urandom(8).hex()}"
        try:
            self._upload(aside, data, None if self.keeps_modified is False else modified_ms)
            if self._publish(aside, path):
                return
            if not replace:
                raise AlreadyExistsError(f"{self._dav.origin}{path} exists")
            if self._dav.entry(path).is_folder:  # a MOVE would replace it, with everything in it
                raise _in_the_way(self._dav, path)
            headers = (f"Destination: {self._dav.url(path)}", "Overwrite: T")
            self._dav.request("move", aside, headers=headers)
        except UnavailableError:
            raise  # to clean up would be to wait as long again
        except BaseException:
            with suppress(BackendError):
                self._dav.request("clean", aside, accept=_ANY_REFUSAL)
            raise

    def mkdir(self, path: str, *, parents: bool = True, exist_ok: bool = False) -> None:
        """Make a collection. Of any number of callers one wins, on every server tried but rclone's.

        Raises:
            AlreadyExistsError: Not `exist_ok`, and the name is taken by a collection or a file.
            ConfigError: `exist_ok`, and the name is a file's, or one on the way to it is.
        """
        path = path.rstrip("/")
        status = self._mkcol(path)
        if parents and path and status in _NO_MKCOL and status != HTTPStatus.METHOD_NOT_ALLOWED:
            self.mkdir(path.rpartition("/")[0], exist_ok=True)
            status = self._mkcol(path)
        if status < 300:
            return
        try:
            is_folder = self._dav.entry(path or "/").is_folder
        except NotFoundError:
            self._dav.request("mkdir", f"{path}/")  # raises what the server says
            return
        if not exist_ok:
            raise AlreadyExistsError(f"{self._dav.origin}{path} exists")
        if not is_folder:
            raise ConfigError(f"{self._dav.origin}{path} is a file: there can be nothing below it")

    def rmdir(self, path: str) -> None:
        """Remove a collection and all that it holds."""
        self._folders.clear()
        self._dav.request("clean", f"{path}/")

    def _mkcol(self, path: str) -> int:
        return self._dav.request("mkdir", f"{path}/", accept=_NO_MKCOL)

    def _upload(self, path: str, data: Data, modified_ms: int | None) -> None:
        folder = path.rpartition("/")[0]
        body = body_of(data)
        if len(body) >= _MKCOL_FIRST_SIZE and folder not in self._folders:
            self.mkdir(folder, exist_ok=True)
        headers = () if modified_ms is None else (f"X-OC-Mtime: {modified_ms // 1000}",)
        answer, _ = self._dav.send("upload", path, data=body, headers=headers, accept=_NO_PARENT)
        if answer.status_code in _NO_PARENT:
            self._folders.clear()
            self.mkdir(folder, exist_ok=True)
            answer, _ = self._dav.send("upload", path, data=body_of(data), headers=headers)
        self._folders.add(folder)
        if modified_ms is not None:
            self._keep_modified(path, modified_ms, answer.headers.get("x-oc-mtime", "") == "accepted")

    def _keep_modified(self, path: str, modified_ms: int, accepted: bool) -> None:
        """Set the time the second way where the first did nothing; the first time, look whether it was kept."""
        when = datetime.fromtimestamp(modified_ms // 1000, UTC)
        if not accepted:
            body = _PROPPATCH.format(format_datetime(when, usegmt=True)).encode()
            self._dav.request("set_property", path, data=body, accept=_ANY_REFUSAL)
        if self.keeps_modified is None:
            self.keeps_modified = self._dav.entry(path).modified == when

    def _publish(self, aside: str, path: str) -> bool:
        """Give a new file its name; return whether that was free."""
        headers = (f"Destination: {self._dav.url(path)}", "Overwrite: F")
        status = self._dav.request("move", aside, headers=headers, accept=(409, 412))
        if status == HTTPStatus.NO_CONTENT and not self._new_is_204:
            # nginx says 204 for 201; lighttpd says it for having moved the file into a collection of that name.
            if self._dav.entry(path).is_folder:
                self._dav.request("clean", f"{path}/{aside.rpartition('/')[2]}", accept=_ANY_REFUSAL)
                raise _in_the_way(self._dav, path)
            self._new_is_204 = True
        return status < 300


def _in_the_way(dav: DAVSession, path: str) -> ConfigError:
    return ConfigError(f"{dav.origin}{path} is a collection: no file can have its name")
