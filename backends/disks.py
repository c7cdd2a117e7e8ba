"""Whether a folder lies on a disk of this machine, or on another one, where a read may take long or never end."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["is_on_disk"]

_MOUNTS = Path("/proc/self/mountinfo")
"""What lies where: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html"""

_ON_DISK = {b"bcachefs", b"btrfs", b"ext2", b"ext3", b"ext4", b"f2fs", b"overlay", b"tmpfs", b"xfs", b"zfs"}


def is_on_disk(folder: Path) -> bool:
    """Return whether a folder is known to lie on a disk of this machine; not where the system does not say."""
    with suppress(OSError):
        device = os.stat(folder).st_dev
        number = b"%d:%d" % (os.major(device), os.minor(device))
        for line in _MOUNTS.read_bytes().splitlines():
            mounted, _, what = line.partition(b" - ")
            if mounted.split()[2] == number:
                return what.split()[0] in _ON_DISK
    return False
