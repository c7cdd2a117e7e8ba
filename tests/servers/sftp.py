"""SFTP servers: OpenSSH's sshd with keys, and rclone's with a password and fewer extensions."""

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.daemon import PASSWORD, USER, daemon, free_port, private_folder, program

__all__ = ["SFTPServer", "rclone_sftp", "sshd"]


@dataclass(frozen=True)
class SFTPServer:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
        user: Who may log in.
        host_key: Its public key, without a comment.
        folder: Where its files are on this machine; for sshd also their path on the server.
        key_path: File of the user's private key, or "".
    """

    port: int
    user: str
    host_key: str
    folder: Path
    key_path: str


def _make_key(path: Path, passphrase: str = "") -> str:
    command = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@contextlib.contextmanager
def sshd() -> Iterator[SFTPServer]:
    """OpenSSH, as this user, with its own keys on a high port."""
    with private_folder() as folder:
        port, data = free_port(), folder / "data"
        data.mkdir()
        host_key = _make_key(folder / "host")
        _make_key(folder / "user")
        lines = [
            f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"PidFile {folder}/pid",
            f"AuthorizedKeysFile {folder}/user.pub", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "UseDNS no", "MaxStartups 100",
            "Subsystem sftp internal-sftp",
        ]  # fmt: skip
        (folder / "config").write_text("\n".join([*lines, ""]))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with daemon([program("sshd"), "-D", "-e", "-f", folder / "config"], folder, port=port):
            user = pwd.getpwuid(os.geteuid()).pw_name
            yield SFTPServer(port, user, host_key, data, str(folder / "user"))


@contextlib.contextmanager
def rclone_sftp() -> Iterator[SFTPServer]:
    """Rclone's server: a password, and neither links nor a rename that refuses."""
    with private_folder() as folder:
        port, data = free_port(), folder / "data"
        data.mkdir()
        host_key = _make_key(folder / "host")
        options = ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null", "--user", USER, "--pass", PASSWORD]
        command = [program("rclone"), "serve", "sftp", *options, "--key", folder / "host", data]
        with daemon(command, folder, port=port):
            yield SFTPServer(port, USER, host_key, data, "")
