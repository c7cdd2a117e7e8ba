"""Making views: of the files of a plan, and of one view and the files that follow it."""

from collections.abc import Sequence
from datetime import datetime

from ltx import CorruptError
from ltx.format import Header
from ltx.format.index import PageIndex
from ltx.replica.apply import FileError
from vfs.index_search import SearchedIndex
from vfs.layers import PageMap
from vfs.view import Layer, OpenFile, Single, View

__all__ = ["build_view", "extend_view"]


def build_view(opened: Sequence[OpenFile], time: datetime, lineage: int = 0) -> View:
    """Make the view that the files of a plan give, the first of them being a snapshot.

    Raises:
        FileError: They do not belong together, or one grows the database without all new pages.
    """
    first = opened[0]
    if not first.header.is_snapshot:
        raise FileError(first.file, CorruptError("it is no snapshot, and nothing lies before it"))
    _check_fits(None, opened)
    return _view((), opened, time, lineage)


def extend_view(view: View, opened: Sequence[OpenFile], time: datetime) -> View:
    """Make the view that results when further files are applied to one; the old one stays as it is.

    A page's place changes only for a file with a higher TXID; commit is that of the last file; pages beyond a
    smaller commit are dropped.

    Raises:
        FileError: As `build_view`.
    """
    _check_fits(view, opened)
    longer = _view(view.layers, opened, time, view.lineage)
    if view.unverified and longer.unverified and all(each.is_verified for each in opened):
        shared = min(len(view.trusted), len(longer.trusted))
        longer.trusted[:shared] = view.trusted[:shared]
    return longer


def _view(layers: tuple[Layer, ...], opened: Sequence[OpenFile], time: datetime, lineage: int) -> View:
    last = opened[-1]
    for each in opened:
        layers = _applied(layers, each)
    layers = _without_buried(layers, last.header)
    files = sorted(
        (file for layer in layers for file in layer.files if file is not None),
        key=lambda each: each.file.max_txid,
    )
    unverified = tuple(each for each in files[1:] if not each.is_verified)
    searched = {
        layer.file: layer.file.index
        for layer in layers
        if isinstance(layer, Single) and isinstance(layer.file.index, SearchedIndex)
    }
    return View(
        txid=last.file.max_txid,
        time=time,
        page_size=last.header.page_size,
        commit=last.header.commit,
        last=last,
        lineage=lineage,
        layers=layers,
        files=tuple(files),
        unverified=unverified,
        searched=tuple(searched.values()),
        searched_increments=tuple(index for file, index in searched.items() if not file.header.is_snapshot),
        trusted=bytearray(last.header.commit // 8 + 1 if unverified else 0),
    )


def _applied(layers: tuple[Layer, ...], opened: OpenFile) -> tuple[Layer, ...]:
    """Put a file on top of the files before it."""
    header = opened.header
    if header.is_snapshot:  # whatever lies below it is hidden
        return (Single(opened, header.commit),)
    below = tuple(layer.cut(header.commit) for layer in layers)
    index = opened.index if isinstance(opened.index, PageIndex) else opened.index.whole
    if index is None:
        return (Single(opened, header.commit), *below)
    if below and isinstance(below[0], PageMap):
        return (below[0].with_pages(opened, index.pgnos, _stays), *below[1:])
    nothing: PageMap[OpenFile] = PageMap()
    return (nothing.with_pages(opened, index.pgnos, _stays), *below)


def _stays(file: OpenFile) -> bool:
    """Whether a file is kept of which no page is the newest, as its index says: one could hide in it."""
    return not file.is_verified


def _without_buried(layers: tuple[Layer, ...], header: Header) -> tuple[Layer, ...]:
    """Leave out the snapshot when all its pages were written again: following for weeks must not hang on it."""
    stored = header.commit - (header.lock_page <= header.commit)
    is_buried = len(layers) == 2 and isinstance(layers[0], PageMap) and layers[0].total == stored
    return layers[:1] if is_buried else layers


def _check_fits(view: View | None, opened: Sequence[OpenFile]) -> None:
    before = view.last if view and view.commit else None
    page_size, old_commit = (view.page_size, view.commit) if view else (opened[0].header.page_size, 0)
    for each in opened:
        _check_fit(each, before, page_size, old_commit)
        before, old_commit = each, each.header.commit


def _check_fit(each: OpenFile, before: OpenFile | None, page_size: int, old_commit: int) -> None:
    """Hold a file to the one before it. Of the two the one that was not verified is taken for the damaged one."""
    header = each.header
    suspect = before if before and each.is_verified and not before.is_verified else each
    if header.page_size != page_size:
        raise FileError(
            suspect.file,
            CorruptError(
                f"pages of {header.page_size} bytes in {each.file.name}, of {page_size} before it", offset=8
            ),
        )
    lacking = _lacking(each, 0 if header.is_snapshot else old_commit)
    if lacking:
        raise FileError(
            suspect.file,
            CorruptError(
                f"the database grows to {header.commit} pages with {each.file.name}, which lacks "
                f"{lacking} of the new ones",
                offset=12,
            ),
        )


def _lacking(each: OpenFile, old_commit: int) -> int:
    """Return how many of the pages beyond an old size a file lacks, as far as what was read of its index tells.

    Raises:
        FileError: It has pages that it cannot have.
    """
    header, index = each.header, each.index
    wanted = max(0, header.commit - old_commit) - (old_commit < header.lock_page <= header.commit)
    if isinstance(index, SearchedIndex):
        newest, strange = index.max_pgno, False
        lacking = header.commit - (header.commit == header.lock_page) - newest if wanted else 0
    else:
        newest = int(index.pgnos[-1]) if len(index) else 0
        strange = index.holds(header.lock_page)
        lacking = wanted - (len(index) - index.place(old_commit + 1))
    if newest > header.commit or strange:
        raise FileError(each.file, CorruptError("the page index names pages that the file cannot hold"))
    return max(0, lacking)
