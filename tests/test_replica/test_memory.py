"""A restore's memory does not grow with the database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltx.format import TXID, Encoder, Header, file_name

ROOT = Path(__file__).parents[2]
PAGE_SIZE = 4096
MIB = 1 << 20

_RESTORE = """
import resource, sys
import ltx
ltx.Replica.open(sys.argv[1]).restore(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory(folder: Path, size: int) -> int:
    """Restore a database of so many bytes in a process of its own; return its peak memory in bytes."""
    commit = size // PAGE_SIZE
    header = Header(page_size=PAGE_SIZE, commit=commit, min_txid=TXID(1), max_txid=TXID(1), timestamp_ms=1000)
    half = os.urandom(PAGE_SIZE // 2)
    pages = ((pgno, pgno.to_bytes(PAGE_SIZE // 2, "big") + half) for pgno in range(1, commit + 1))
    path = folder / f"{size}" / "ltx" / "9" / file_name(1, 1)
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.writelines(Encoder(header, pages))
    assert path.stat().st_size > size // 3  # it does not vanish by compression
    output = folder / f"{size}.db"
    done = subprocess.run(
        [sys.executable, "-c", _RESTORE, f"file://{folder}/{size}", output],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stat().st_size == size
    output.unlink()
    path.unlink()
    return int(done.stdout) * 1024


@pytest.mark.timeout(120)
def test_restoring_300_mb_takes_no_more_memory_than_20_mb(tmp_path: Path) -> None:
    small, big = peak_memory(tmp_path, 20 * MIB), peak_memory(tmp_path, 300 * MIB)
    print(f"{small / MIB:.1f} MiB for 20, {big / MIB:.1f} MiB for 300")
    assert big - small < 15 * MIB
