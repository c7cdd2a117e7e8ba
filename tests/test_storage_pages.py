"""Each storage has its page in the guide, and what the page promises is what the backend says of itself."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import backends
from backends import Capabilities, azure_place, gcs, s3_place, sftp_connection, webdav
from backends.base import Backend

GUIDE = Path(__file__).parents[1] / "docs/guide"
PAGES = {
    "storage-azure.md": "backends.azure:AzureBackend",
    "storage-folders.md": "backends.local:LocalBackend",
    "storage-gcs.md": "backends.gcs:GCSBackend",
    "storage-s3.md": "backends.s3:S3Backend",
    "storage-sftp.md": "backends.sftp:SFTPBackend",
    "storage-webdav.md": "backends.webdav:WebDAVBackend",
}
OPTIONS = {
    "storage-azure.md": azure_place._OPTIONS,
    "storage-gcs.md": gcs._OPTIONS,
    "storage-s3.md": (*s3_place._OPTIONS, *s3_place._PUBLIC, *s3_place._SECRET[:4]),
    "storage-sftp.md": sftp_connection._OPTIONS,
    "storage-webdav.md": webdav._OPTIONS,
}


def promises(page: str) -> dict[str, str]:
    """Return the table of promises: what is asked, and the answer."""
    text = (GUIDE / page).read_text()
    rows = re.search(r"^\| promise \| \|\n\| --- \| --- \|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows, page
    return dict(re.findall(r"^\| ([^|]*) \| ([^|]*) \|$", rows[1], re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_promises_what_its_backend_does(page: str) -> None:
    module, _, name = PAGES[page].partition(":")
    kind: type[Backend] = getattr(import_module(module), name)
    can: Capabilities = kind.capabilities
    found = promises(page)
    assert found["exclusive create"].startswith("yes" if can.put_if_absent else "no")
    assert ("markers" in found["exclusive create"]) == can.exclusive_marker
    assert found["times kept"].startswith("yes" if can.timestamps else "no")
    if can.timestamps:
        assert ("whole seconds" in found["times kept"]) == (can.timestamp_step_ms == 1000)
    assert found["a file appears whole"].startswith("yes" if can.atomic_put else "when it is new")


def test_what_only_fsspec_serves_is_promised_nothing() -> None:
    with backends.open_backend("dir::memory://x") as renames, backends.open_backend("memory://x") as ours:
        assert ours.capabilities.put_if_absent
        assert not renames.capabilities.put_if_absent
        assert not renames.capabilities.timestamps
    found = promises("storage-other.md")
    assert (found["exclusive create"], found["times kept"]) == ("no", "no")


@pytest.mark.parametrize("page", OPTIONS)
def test_every_option_is_on_its_page(page: str) -> None:
    text = (GUIDE / page).read_text()
    assert [name for name in OPTIONS[page] if f"`{name}`" not in text] == []


def test_every_scheme_has_a_page_and_every_page_a_link() -> None:
    ours = {scheme: target for scheme, target in backends.schemes().items() if target in PAGES.values()}
    for scheme, target in ours.items():
        page = next(page for page, served in PAGES.items() if served == target)
        assert f"{scheme}://" in (GUIDE / page).read_text()
    assert set(ours.values()) == set(PAGES.values())
    readme = (GUIDE.parents[1] / "README.md").read_text()
    for path in GUIDE.glob("storage-*.md"):
        assert f"(docs/guide/{path.name})" in readme
