"""Azure Blob Storage through obstore: reads, looks and small writes; adlfs does the rest.

Cost in requests: as of `backends.azure`.
"""

from typing import TYPE_CHECKING, Any, Self

from backends.azure_place import AzurePlace
from backends.azure_protocol import TIMESTAMP_NAME, of_answer
from backends.base import Backend
from backends.errors import BackendError, UnsupportedError
from backends.obstore import ObstoreBackend, client_options
from backends.obstore_errors import Failure

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["ObstoreAzureBackend"]


class ObstoreAzureBackend(ObstoreBackend):
    """A container, or what lies below a path in it."""

    timestamp_name = TIMESTAMP_NAME
    has_suffixes = False

    def __init__(self, place: AzurePlace) -> None:
        """Prepare; nothing is sent.

        Raises:
            UnsupportedError: The login is another than an account key, a SAS or none.
        """
        self._place = place
        self._login, self._endpoint = _login(place)
        super().__init__(place.scheme, place.url, place.root, self._endpoint)

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """Open the URL as `backends.azure.AzureBackend` does."""
        return cls(AzurePlace.parse(url, options))

    def _open_store(self) -> "ObjectStore":
        from obstore.store import AzureStore

        return AzureStore(
            self._place.container,
            account_name=self._place.account,
            endpoint=self._endpoint,
            use_emulator=False,
            **self._login,
            client_options=client_options(self._endpoint),
            retry_config={"max_retries": 0},  # a retry is a wrapper's business
        )

    def _open_library(self) -> Backend:
        from backends.azure import AzureBackend

        return AzureBackend(self._place, stats=self.stats)

    def _version(self, meta: "ObjectMeta") -> str:
        return (meta["e_tag"] or "").strip('"')

    def _of_answer(self, _kind: str, key: str | None, failed: Failure) -> BackendError:
        return of_answer(self._place, key, failed.status, failed.code)


def _login(place: AzurePlace) -> tuple[dict[str, Any], str]:
    """Return obstore's options for the way to log in, and the endpoint.

    Raises:
        UnsupportedError: There is no such way in obstore, or it would be another one than the library's.
    """
    given, fields = place.login, place.fields
    endpoint = fields.get("blobendpoint") or place.endpoint
    key, sas = (
        str(given.get("account_key") or fields.get("accountkey") or ""),
        str(given.get("sas_token") or fields.get("sharedaccesssignature") or ""),
    )
    if fields and "blobendpoint" not in fields:
        suffix = fields.get("endpointsuffix", "core.windows.net")
        endpoint = f"{fields.get('defaultendpointsprotocol', 'https')}://{place.account}.blob.{suffix}"
    if place.account and key and not given.keys() - {"account_key", "connection_string"}:
        return {"account_key": key, "credential_type": "access_key"}, endpoint
    if place.account and sas and not given.keys() - {"sas_token", "connection_string"}:
        return {"sas_key": sas.lstrip("?"), "credential_type": "sas_token"}, endpoint
    if place.account and given.keys() == {"anon"}:
        return {"skip_signature": True}, endpoint
    raise UnsupportedError(f"obstore has no such login: {place.url}")
