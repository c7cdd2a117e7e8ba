"""The tables of docs/guide/configuration.md are the model: no setting more or less, and what is said of it is so."""

import re
from pathlib import Path

import pytest

from ltx.replication.config.model import (
    DatabaseSection,
    File,
    ReplicaSection,
    Section,
    StorageSettings,
    not_served,
)

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "configuration.md"


def rows(heading: str) -> dict[str, str]:
    """Return what a section's table says of each setting."""
    section = PAGE.read_text().split(f"### {heading}\n")[1].split("\n#")[0]
    return dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|[^|]*\|$", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "section"),
    [("At the top", File), ("At a database", DatabaseSection), ("At a replica", ReplicaSection)],
)
def test_the_tables_are_the_model(heading: str, section: type[Section]) -> None:
    found = rows(heading)
    elsewhere = StorageSettings.model_fields if section is File else {}
    fields = {name: field for name, field in section.model_fields.items() if name not in elsewhere}
    assert set(found) == {field.alias for field in fields.values()}
    for name, field in fields.items():
        text, extra = found[field.alias or ""], field.json_schema_extra
        no_need = isinstance(extra, dict) and extra.get("no_need")
        assert bool(no_need) == text.startswith("no effect"), field.alias
        assert bool(not_served(section, name)) == text.startswith("refused"), field.alias


def test_sections_are_described_with_all_they_hold() -> None:
    found = rows("At the top")
    for name, field in File.model_fields.items():
        for part in _sections(field.annotation):
            if part in (DatabaseSection, ReplicaSection) or name in StorageSettings.model_fields:
                continue
            for inner in part.model_fields.values():
                assert f"`{inner.alias}" in found[field.alias or ""], (name, inner.alias)


def _sections(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [part for inner in getattr(annotation, "__args__", ()) for part in _sections(inner)]
