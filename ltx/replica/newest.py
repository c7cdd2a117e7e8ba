"""Listing what leads to the newest state of a replica that has more files than its storage lists at once.

Keys go level by level, and by TXID within each: snapshots, with which a plan begins, come last, behind all that they make
superfluous. So of a long level only what lies behind the snapshots and the shorter levels is listed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backends import Backend, ObjectInfo, Page
from ltx.format import format_txid
from ltx.replica.files import LTXFile, files_of
from ltx.replica.layout import LEVELS, Layout, native_layout, parse_key
from ltx.replica.plan import reach_of

__all__ = ["Listing", "NewestLister"]

_LAST = "f" * 16
"""Behind it no file of a level lies."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a replica.

    Attributes:
        files: The files, sorted by level and TXID.
        layout: Where they lie.
        is_whole: Whether these are all; else those of long levels are missing that end no later than others reach.
    """

    files: Sequence[LTXFile]
    layout: Layout
    is_whole: bool


class NewestLister:
    """Lists what leads to the newest state of one replica. For one thread at a time.

    Args:
        backend: The replica's.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._native = native_layout(backend.scheme)
        self._long: Layout | None = None

    def whole(self) -> Listing:
        """List all files."""
        return self._whole(self._backend.list())

    def list(self) -> Listing:
        """List all files where they come at once, else those that lead to the newest state.

        One request for up to 1,000 keys. Where there are more, at most two further round trips for whatever number, as
        long as the levels above 1 and what follows them have up to 1,000 keys each.

        The newest state is that of all files, as long as no file of a level begins before another one and ends after
        it: then nothing that is left out ends later than what is listed reaches.
        """
        (first, *rest), layout = self._first_pages()
        if first.is_last:
            self._long = None
            return self._whole(first.objects)
        if layout is None:
            return self.whole()
        self._long = layout
        zero, one = layout.prefix(0), layout.prefix(1)
        pages = {zero: _cut(first, zero), one: rest[0], **self._upper_pages(rest[1], layout)}
        complete = [info for page in pages.values() if page.is_last for info in page.objects]
        if _layouts(complete) - {layout}:
            return self.whole()
        known, _ = files_of(complete, layout)
        tails = self._tails({prefix: page for prefix, page in pages.items() if not page.is_last}, known)
        files, _ = files_of([*complete, *tails], layout)
        return Listing(files, layout, is_whole=False)

    def _whole(self, objects: "Iterator[ObjectInfo] | Sequence[ObjectInfo]") -> Listing:
        files, layout = files_of(objects, self._native)
        return Listing(files, layout, is_whole=True)

    def _first_pages(self) -> tuple[Sequence[Page], Layout | None]:
        """Ask for the first page of all, of level 1, and of what lies behind it, as far as the first says where."""
        if self._long is not None:
            pages = self._backend.list_pages([("", ""), *_places(self._long)])
            if pages[0].is_last or _layout_of(pages[0]) == self._long:
                return pages, self._long
        [first] = self._backend.list_pages([("", "")]) if self._long is None else pages[:1]
        layout = _layout_of(first)
        if first.is_last or layout is None:
            return [first], layout
        return [first, *self._backend.list_pages(_places(layout))], layout

    def _upper_pages(self, page: Page, layout: Layout) -> dict[str, Page]:
        """Return what lies behind level 1 by prefix: level by level, and the rest, where it is not all on one page."""
        if page.is_last:
            return {"": page}
        places = [(layout.prefix(level), "") for level in LEVELS[2:]]
        places.append(("", layout.prefix(LEVELS[-1]) + _LAST))
        pages = self._backend.list_pages(places)
        return {prefix: each for (prefix, _), each in zip(places, pages, strict=True)}

    def _tails(self, long: dict[str, Page], known: Sequence[LTXFile]) -> Iterator[ObjectInfo]:
        """Yield the end of each long level: what leads on from where the levels above it reach."""
        reached = {prefix: _reached_above(page, known) for prefix, page in long.items()}
        places = [(prefix, prefix + _before(page, reached[prefix])) for prefix, page in long.items()]
        for (prefix, begin), page in zip(places, self._backend.list_pages(places), strict=True):
            objects = page.objects if page.is_last else tuple(self._backend.list(prefix, start_after=begin))
            if not any(_begins_by(info, reached[prefix] + 1) for info in objects):
                objects = tuple(self._backend.list(prefix))
            yield from objects


def _places(layout: Layout) -> list[tuple[str, str]]:
    return [(layout.prefix(1), ""), ("", layout.prefix(1) + _LAST)]


def _cut(page: Page, prefix: str) -> Page:
    """Return what a page of all says of its first level."""
    objects = tuple(info for info in page.objects if info.key.startswith(prefix))
    return Page(objects, is_last=page.objects[-1].key > prefix + _LAST)


def _layouts(objects: Sequence[ObjectInfo]) -> set[Layout]:
    return {place.layout for info in objects if (place := parse_key(info.key))}


def _layout_of(page: Page) -> Layout | None:
    """Return the layout that the first keys of a replica lie in; None where they do not tell, or lie in both."""
    layouts = _layouts(page.objects)
    return layouts.pop() if len(layouts) == 1 else None


def _reached_above(page: Page, known: Sequence[LTXFile]) -> int:
    """Return the newest TXID that the levels above one reach without it, as far as they are known."""
    level = min((place.level for info in page.objects if (place := parse_key(info.key))), default=0)
    return max(reach_of(file for file in known if file.level > level).txids, default=0)


def _before(page: Page, reached: int) -> str:
    """Return the name after which to list a long level, so that the file before what is looked for is among them."""
    spans = [place.max_txid - place.min_txid for info in page.objects if (place := parse_key(info.key))]
    begin = reached - 2 * max(spans, default=reached) - 1
    return format_txid(begin) if begin > 0 else ""


def _begins_by(info: ObjectInfo, txid: int) -> bool:
    place = parse_key(info.key)
    return place is not None and place.min_txid <= txid
