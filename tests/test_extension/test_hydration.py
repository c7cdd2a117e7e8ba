"""The extension hydrates as its URI or the environment says."""

import time
from pathlib import Path

from tests.support.hosts import host, uri
from tests.test_extension.test_hosts import texts
from tests.test_vfs.origin import Origin


def test_a_uri_asks_for_it_and_the_pragmas_tell(source: Origin, runtime: Path) -> None:
    with host("python3", runtime) as program:
        program.open(uri(source.url, hydration_enabled="true", hydration_path="kept/shop.pages"))
        deadline = time.monotonic() + 30
        while texts(program.sql("PRAGMA litestream_hydration_progress")) != [["100.0"]]:
            assert time.monotonic() < deadline
        path = runtime / "kept" / "shop.pages"  # in the folder that the host is in
        assert texts(program.sql("PRAGMA litestream_hydration_file")) == [[str(path)]]
        assert path.exists()
