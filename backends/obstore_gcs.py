"""Google Cloud Storage through obstore: reads and looks; gcsfs does the rest.

Cost in requests: as of `backends.gcs`. obstore writes and lists in the protocol that Google made for users of S3,
whose listings have no timestamps, and which the usual emulator knows for reading only.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self, cast

from backends.base import Backend, Data
from backends.errors import BackendError, NotFoundError, UnsupportedError
from backends.gcs import TIMESTAMP_NAME, GCSBackend, parse
from backends.gcs_requests import Answer
from backends.obstore import AskLibraryError, ObstoreBackend, client_options
from backends.obstore_errors import Failure

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import GCSCredential, ObjectStore

__all__ = ["ObstoreGCSBackend"]


class ObstoreGCSBackend(ObstoreBackend):
    """A bucket, or what lies below a path in it."""

    timestamp_name = TIMESTAMP_NAME

    def __init__(self, place: Mapping[str, Any]) -> None:
        """Prepare; nothing is sent.

        Args:
            place: As `backends.gcs.parse` returns it.

        Raises:
            UnsupportedError: A project pays, which obstore does not name.
        """
        twin = GCSBackend(**place)
        if place.get("requester_pays"):
            raise UnsupportedError(f"obstore names no project that pays: {twin.url}")
        super().__init__(twin.scheme, twin.url, twin.root, twin.endpoint or "Google")
        self._place = place
        self._endpoint = twin.endpoint
        self._token = ""

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open the URL as `backends.gcs.GCSBackend` does."""
        return cls(parse(url, options))

    def put(self, key: str, data: Data, *, if_absent: bool = False, timestamp_ms: int | None = None) -> None:
        """Write an object whole, with the library; on failure no part of it is left."""
        self.library.put(key, data, if_absent=if_absent, timestamp_ms=timestamp_ms)

    def _log_in(self) -> None:
        self._token = self._gcs.requests.token()

    @property
    def _gcs(self) -> GCSBackend:
        return cast("GCSBackend", self.library)

    def _open_store(self) -> "ObjectStore":
        from obstore.store import GCSStore

        def login() -> "GCSCredential":
            """Return what is valid now; obstore is to ask again soon, since gcsfs knows better when it ends."""
            return {"token": self._token, "expires_at": datetime.now(UTC) + timedelta(seconds=1)}

        return GCSStore(
            self._place["bucket"],
            base_url=self._endpoint or "https://storage.googleapis.com",
            skip_signature=not self._token,
            credential_provider=login if self._token else None,
            client_options=client_options(self._endpoint),
            retry_config={"max_retries": 0},  # a retry is a wrapper's business
        )

    def _open_library(self) -> Backend:
        return GCSBackend(**self._place, stats=self.stats)

    def _version(self, meta: "ObjectMeta") -> str:
        return meta["version"] or ""

    def _of_answer(self, _kind: str, key: str | None, failed: Failure) -> BackendError:
        if failed.status == HTTPStatus.NOT_FOUND:
            if not self._place_seen:
                raise AskLibraryError  # which tells a missing bucket from a missing key
            return NotFoundError(f"{self.url} has no object {key}", key=key)
        error = self._gcs.requests.refusal(Answer(failed.status, {}, b""), "")
        error.key = key
        return error

    def _of_none(self, kind: str, key: str | None, failed: Failure, silent: bool) -> BackendError:
        if failed.kind == "broken":  # the service had let an idle connection go, and a read may be sent again
            raise AskLibraryError
        return super()._of_none(kind, key, failed, silent)
