"""`ltx replicate --once`: what is committed now, put on the replica."""

from typing import Annotated

import typer

from ltx.cli.options import ReplicaURL, ShowStats, StorageOptions, examples, opened_replica, usage_error
from ltx.cli.output import complain, progress_bar
from ltx.format import format_txid
from ltx.replica import format_time
from ltx.replica.layout import SNAPSHOT_LEVEL

__all__ = ["EXAMPLES", "replicate"]

EXAMPLES = examples(
    "ltx replicate --once app.db s3://bucket/app",
    "ltx replicate --once app.db /backups/app --stats",
)


def replicate(
    database: Annotated[
        str, typer.Argument(metavar="DB", help="The SQLite database. It may be in use.", show_default=False)
    ],
    url: ReplicaURL,
    once: Annotated[bool, typer.Option("--once", help="Take what is committed now, and end.")] = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Put what is committed in a database on its replica.

    Each run adds one transaction: the first one everything, later ones the pages that changed, and nothing where
    nothing did. The database is not written to; a folder .NAME-litestream beside it says what the replica has.

    Only --once is here yet: run it from cron or a timer. It takes what is committed when it runs.
    """
    if not once:
        raise usage_error("continuous replication is not here yet; add --once, and run it from a timer")
    if "://" in database:
        raise usage_error("the database comes first, then the replica's URL; a database is a path, not a URL")
    with opened_replica(url, storage_option, stats=stats) as replica:
        from ltx.replication import replicate_once  # what a listing does without

        with progress_bar("comparing pages", in_bytes=False) as progress:
            published = replicate_once(database, replica, progress=progress)
        where = replica.url
    if published is None:
        print(f"nothing was published: {where} has all that is committed")
        return
    if published.level == SNAPSHOT_LEVEL:
        complain("files are missing on the replica, so all pages were written; older states are as they were")
    pages = "1 page" if published.page_count == 1 else f"{published.page_count} pages"
    print(
        f"published TXID {format_txid(published.txid)} of {format_time(published.time)}: "
        f"{pages}, {published.size} bytes, {published.key}"
    )
