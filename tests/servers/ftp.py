"""pyftpdlib: a real FTP server, for what fsspec alone serves."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.servers.daemon import PASSWORD, USER, daemon, free_port, private_folder

__all__ = ["ftp"]


@contextlib.contextmanager
def ftp() -> Iterator[tuple[str, Path]]:
    """Start it; the value is its URL with the login in it, and the folder that it serves."""
    with private_folder() as folder:
        port, root = free_port(), folder / "data"
        root.mkdir()
        options = ["-i", "127.0.0.1", "-p", port, "-w", "-d", root, "-u", USER, "-P", PASSWORD]
        with daemon([sys.executable, "-m", "pyftpdlib", *options], folder, port=port):
            yield f"ftp://{USER}:{PASSWORD}@127.0.0.1:{port}", root
