"""The program of a compression helper: a process of its own, beside the one that encodes a large file.

It reads orders from standard input until that ends: slot, number of pages and page size. It compresses the pages
that lie in the slot, puts the blocks and their sizes behind them, and answers with the slot. It imports nothing of
this project, so that it starts in hundredths of a second.
"""

import mmap
import signal
import struct
import sys
from array import array

import lz4.block

ORDER = struct.Struct("=III")


def serve(descriptor: int, input_size: int, slot_size: int) -> None:
    """Compress what is ordered until standard input ends.

    Args:
        descriptor: The shared file: slots of `slot_size` bytes, of which the first `input_size` hold pages.
        input_size: Bytes of pages that a slot has room for.
        slot_size: Bytes of a slot.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    compress = lz4.block.compress
    with mmap.mmap(descriptor, 0) as shared, memoryview(shared) as view:
        while len(order := orders.read(ORDER.size)) == ORDER.size:
            slot, count, page_size = ORDER.unpack(order)
            start = slot * slot_size
            blocks = [
                compress(view[at : at + page_size], store_size=False)
                for at in range(start, start + count * page_size, page_size)
            ]
            result = array("I", map(len, blocks)).tobytes() + b"".join(blocks)
            view[start + input_size : start + input_size + len(result)] = result
            answers.write(order[:4])
            answers.flush()


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
