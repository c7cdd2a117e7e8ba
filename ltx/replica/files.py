"""The LTX files of a replica, as a listing shows them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from backends import ObjectInfo
from ltx.format import TXID, file_name
from ltx.replica.layout import SNAPSHOT_LEVEL, Layout, parse_key

__all__ = ["LTXFile", "files_of"]


@dataclass(frozen=True, slots=True, order=True)
class LTXFile:
    """One LTX file on a storage. Files sort by level, then by TXIDs.

    Attributes:
        level: 0 as written, 1 to 8 merged, 9 a snapshot.
        min_txid: The first transaction in it.
        max_txid: The last one.
        size: Bytes.
        key: Where it lies below the replica's root.
        modified: When the storage says it was written; the file's header has the time that counts.
        version: Changes when the object is replaced; "" where the storage cannot tell.
    """

    level: int
    min_txid: TXID
    max_txid: TXID
    size: int
    key: str
    modified: datetime | None = None
    version: str = ""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return file_name(self.min_txid, self.max_txid)

    @property
    def is_usable(self) -> bool:
        """Whether a plan may use it: a snapshot that does not begin at TXID 1 can be applied to nothing."""
        return self.level != SNAPSHOT_LEVEL or self.min_txid == 1


def files_of(objects: Iterable[ObjectInfo], native: Layout) -> tuple[list[LTXFile], Layout]:
    """Return the LTX files among the objects of a replica, sorted, and the layout they lie in.

    Objects with other names are passed over. A file that lies in both layouts counts once, in the native one.

    Args:
        objects: A listing of the replica's root.
        native: The layout to prefer, and to take for an empty replica.
    """
    found: dict[tuple[int, int, int], tuple[Layout, LTXFile]] = {}
    for info in objects:
        place = parse_key(info.key)
        if place is None:
            continue
        identity = (place.level, place.min_txid, place.max_txid)
        if identity in found and place.layout != native:
            continue
        file = LTXFile(*identity, info.size, info.key, info.modified, info.version)
        found[identity] = (place.layout, file)
    layouts = {layout for layout, _ in found.values()}
    layout = native if native in layouts or not layouts else layouts.pop()
    return sorted(file for _, file in found.values()), layout
