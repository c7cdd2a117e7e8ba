"""Memory is flat in both directions: that of a process that writes or reads 200,000 pages is that of 2,000."""

import subprocess
import sys

import pytest

_PROGRAM = """
import re, sys
from ltx.format import NO_CHECKSUM, Decoder, Encoder, Header, merge

way, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def pages():
    for pgno in range(1, count + 1):
        yield pgno, pgno.to_bytes(4, "big") * (size // 4)

def header(txid):
    return Header(page_size=size, commit=count, min_txid=txid, max_txid=txid, timestamp_ms=0, flags=NO_CHECKSUM)

if way == "encode":
    for piece in Encoder(header(1), pages()):
        assert len(piece) <= 3 << 20
elif way == "decode":
    assert sum(1 for _ in Decoder(Encoder(header(1), pages()))) == count
else:
    files = [Decoder(Encoder(header(txid), pages())) for txid in (1, 2)]
    assert sum(1 for _ in Decoder(merge(files))) == count
# Not ru_maxrss, which a child inherits from the process that started it.
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""

LARGE, SMALL = 200_000, 2_000


def peak_kib(way: str, count: int, page_size: int) -> int:
    command = [sys.executable, "-c", _PROGRAM, way, str(count), str(page_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    return int(done.stdout)


@pytest.mark.parametrize(("way", "page_size"), [("encode", 4096), ("decode", 4096), ("merge", 512)])
def test_a_hundred_times_the_pages_take_no_more_memory(way: str, page_size: int) -> None:
    small, large = peak_kib(way, SMALL, page_size), peak_kib(way, LARGE, page_size)
    # Some batches of pages, their entries of the index, and up to 4 MiB of index a file. Merging pages of 512 bytes
    # takes more of it: the objects of a page weigh as much as the page, in each batch that waits for the helper.
    assert large - small < (24 if way == "merge" else 16) * 1024, (small, large)
    assert large < 64 * 1024
