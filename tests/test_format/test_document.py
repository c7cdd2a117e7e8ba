"""docs/formats/ltx.md says what the code does, and the code points at sections that are there."""

import re
import struct
from pathlib import Path

from ltx.format import Encoder, Header, database_checksum, page_checksum
from ltx.format.header import _LAYOUT
from tests.support.ltxfiles import FileSpec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/formats/ltx.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table rows, heads and rulers left out."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0][:1].isdigit() or row[0].startswith(("page", "the database"))]


def test_the_worked_example_is_what_the_encoder_writes() -> None:
    dump = re.findall(r"^([0-9a-f]{8})  ([0-9a-f ]+)$", SECTIONS["Worked example"], re.MULTILINE)
    shown = b"".join(bytes.fromhex(line) for _, line in dump)
    assert [int(offset, 16) for offset, _ in dump] == list(range(0, len(shown), 16))
    header = Header.unpack(FileSpec(pages={1: b"A" * 512}, timestamp_ms=1000).header)
    assert b"".join(Encoder(header, [(1, b"A" * 512)])) == shown


def test_the_parts_of_the_worked_example_follow_each_other_to_its_end() -> None:
    parts = [re.findall(r"\d+", row[0]) for row in rows("Worked example")]
    starts, ends = [int(part[0]) for part in parts], [int(part[-1]) + 1 for part in parts]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == 156


def test_the_header_table_is_the_layout_of_the_code() -> None:
    table = [(int(offset), int(size), kind) for offset, size, kind, *_ in rows("Header")]
    at = 0
    for offset, size, kind in table:
        assert (offset, size) == (at, struct.calcsize(f">{kind}"))
        at += size
    assert at == 100
    assert ">" + "".join(kind for *_, kind in table) == _LAYOUT.format


def test_the_checksums_shown_are_right() -> None:
    shown = [cells[-1] for cells in rows("Checksums")]
    assert shown[:4] == [
        f"{page_checksum(1, bytes(4096)):016x}",
        f"{page_checksum(2, bytes([1]) * 512):016x}",
        f"{database_checksum([(1, b'2' * 512), (2, b'3' * 512)]):016x}",
        f"{database_checksum([(n, bytes([n]) * 512) for n in (1, 2, 3)]):016x}",
    ]


def test_every_section_that_code_points_at_is_there() -> None:
    pointers = set()
    for folder in ("ltx", "vfs", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            pointers |= set(re.findall(r"docs/formats/ltx\.md, ([A-Z][a-z ]+[a-z])", path.read_text()))
    assert {"Header", "Page frame", "Page index", "Checksums", "Merging"} <= pointers <= set(SECTIONS)
