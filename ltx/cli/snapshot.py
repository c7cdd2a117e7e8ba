"""`ltx snapshot`: the newest state of a database in one file of its replica."""

from typing import TYPE_CHECKING, Annotated

import typer

from ltx.cli.compact import made_entry, print_made
from ltx.cli.configuration import ConfigFile, ExpandEnv, opened_source
from ltx.cli.options import AsJSON, ShowStats, StorageOptions, examples, usage_error
from ltx.cli.output import complain, print_json
from ltx.errors import CorruptError, GapError, NoSnapshotError
from ltx.replica import Replica

if TYPE_CHECKING:
    from ltx.replica.compaction import Compacted

__all__ = ["EXAMPLES", "snapshot"]

EXAMPLES = examples(
    "ltx snapshot s3://bucket/app",
    "ltx snapshot app.db s3://bucket/app",
)


def snapshot(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DB|URL",
            help="The replica; or the database, whose committed state is put on the replica that follows.",
            show_default=False,
        ),
    ],
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="The replica, after a database.", show_default=False)
    ] = None,
    as_json: AsJSON = False,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Put the newest state into one file of level 9.

    It is made from the replica's own files, each verified first; the database itself is not read for it. A restore
    then begins with it, and older files can be deleted once it is older than what is to be kept (ltx retain).

    With a database and its URL, what is committed there is put on the replica first, as ltx replicate --once does; and
    where files of the replica are damaged or missing, the snapshot is made of the database, which makes up for them. With
    --config and a database that it names, it is the replica alone that is looked at.

    JSON is an array: of the snapshot's level, name, min_txid, max_txid, size, timestamp, page_count and input_count,
    or empty where a single file has the newest state already.
    """
    if url is not None and "://" in source:
        raise usage_error("the database comes first, then the replica's URL; a database is a path, not a URL")
    if url is not None and config is not None:
        raise usage_error("a database and its URL need no configuration: give one or the other")
    where = source if url is None else url
    with opened_source(where, storage_option, config, no_expand_env=no_expand_env, stats=stats) as replica:
        from ltx.replica.compaction import snapshot as make_snapshot

        if url is not None:
            from ltx.replication import replicate_once

            replicate_once(source, replica)
        try:
            made = make_snapshot(replica)
        except (CorruptError, GapError, NoSnapshotError) as error:
            if url is None:
                raise
            complain(f"{error}; the snapshot is made of the database")
            made = _made_of_database(source, replica)
        where = replica.url
    if as_json:
        print_json([made_entry(made)] if made else [])
    elif made:
        print_made([made])
    else:
        print(f"nothing was made: {where} has the newest state in a single file already")


def _made_of_database(database: str, replica: Replica) -> "Compacted":
    from ltx.replica.compaction import Compacted
    from ltx.replication import replicate_once

    done = replicate_once(database, replica, whole=True)
    assert done is not None
    [file] = (file for file in replica.files(done.level) if file.key == done.key)
    return Compacted(file, done.time, done.page_count, (), is_new=True)
