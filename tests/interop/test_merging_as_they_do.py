"""Our merge of the real Litestream's level 0 gives the pages of its own levels 1 and 2."""

from collections.abc import Mapping, Sequence

import pytest

from ltx import LTXFile, Replica
from ltx.format import Decoder, Header, merge
from tests.interop.recording import RECORDINGS, Recording

KEPT = tuple(name for name in RECORDINGS if name.isdigit())


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize(("inputs", "output"), [(0, 1), (0, 2), (1, 2), (0, 9)])
def test_merge_gives_the_pages_of_their_merged_file(
    recordings: Mapping[str, Recording], name: str, inputs: int, output: int
) -> None:
    replica = Replica.open(recordings[name].url)
    merged_files = replica.files(output)
    assert merged_files
    for theirs in merged_files:
        parts = [
            file
            for file in replica.files(inputs)
            if theirs.min_txid <= file.min_txid and file.max_txid <= theirs.max_txid
        ]
        ours = Decoder(merge([_decoder(replica, file) for file in parts]))
        expected = _decoder(replica, theirs)
        assert _facts(ours.header) == _facts(expected.header)
        if output != 9:  # a snapshot has the clock of its making
            assert ours.header.timestamp_ms == expected.header.timestamp_ms
        assert list(ours) == list(expected)


def _decoder(replica: Replica, file: LTXFile) -> Decoder:
    return Decoder([replica.backend.get(file.key)])


def _facts(header: Header) -> Sequence[int]:
    return header.page_size, header.commit, header.min_txid, header.max_txid, header.flags
