"""`ltx extension`: where the SQLite extension lies."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ltx.cli.options import examples
from ltx.cli.output import complain

__all__ = ["EXAMPLES", "extension"]

EXAMPLES = examples("ltx extension", "ltx extension --dir", 'sqlite3 -cmd ".load $(ltx extension)"')


def extension(
    *,
    folder: Annotated[bool, typer.Option("--dir", help="Print the folder that it lies in.")] = False,
) -> None:
    """Print where the SQLite extension lies, with which sqlite3 and other programs query a replica."""
    path = _built()
    if path is None:
        complain(
            "the SQLite extension was not built with this installation: install a C compiler, then install ltx again, "
            "in its checkout with pip install --force-reinstall --no-deps ."
        )
        raise typer.Exit(1)
    print(path.parent if folder else path)


def _built() -> Path | None:
    """Find it without importing `vfs`, which would load what queries need."""
    spec = find_spec("vfs")
    name = "litestream.dylib" if sys.platform == "darwin" else "litestream.so"
    places = [
        Path(place) / "extension" / name
        for place in (spec.submodule_search_locations if spec else None) or ()
    ]
    return next((place for place in places if place.is_file()), None)
