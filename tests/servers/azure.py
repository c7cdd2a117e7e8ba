"""Azurite: Azure Blob Storage on loopback, with real checks of keys and signatures."""

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient

from tests.servers.daemon import daemon, free_port, private_folder, program

__all__ = ["ACCOUNT", "ACCOUNT_KEY", "AzureServer", "azurite"]

ACCOUNT = "testaccount"
ACCOUNT_KEY = base64.b64encode(b"a key of an account that no cloud knows, only the tests; 64 byte").decode()


@dataclass(frozen=True)
class AzureServer:
    """A running server."""

    port: int
    account: str = ACCOUNT
    key: str = ACCOUNT_KEY

    @property
    def endpoint(self) -> str:
        """URL of the account's blob service."""
        return f"http://127.0.0.1:{self.port}/{self.account}"

    @property
    def connection_string(self) -> str:
        """All that a client needs."""
        login = f"AccountName={self.account};AccountKey={self.key}"
        return f"DefaultEndpointsProtocol=http;{login};BlobEndpoint={self.endpoint};"

    @property
    def client(self) -> BlobServiceClient:
        """Microsoft's own client, to look past the backend."""
        return BlobServiceClient.from_connection_string(self.connection_string)


@contextlib.contextmanager
def azurite(*containers: str) -> Iterator[AzureServer]:
    """Start it with these containers."""
    main = Path(__file__).parents[2] / ".servers/node_modules/azurite/dist/src/blob/main.js"
    if not main.exists():
        raise FileNotFoundError("azurite is not installed: tests/servers/install.sh installs it")
    with private_folder() as folder:
        server = AzureServer(free_port())
        options = ["--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck"]
        command = [program("node"), main, "--blobHost", "127.0.0.1", "--blobPort", server.port, *options]
        accounts = {"AZURITE_ACCOUNTS": f"{server.account}:{server.key}"}
        with daemon(command, folder, port=server.port, environment=accounts):
            with server.client as client:
                for container in containers:
                    client.create_container(container)
            yield server
