"""Results go to stdout, everything said beside them to stderr; colours and bars only where a person looks."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from backends import Stats
from ltx.replica import Replica
from ltx.replica.apply import Progress

__all__ = ["complain", "complain_of_nothing", "print_json", "print_stats", "print_table", "progress_bar"]


def complain(text: str) -> None:
    """Say something on stderr, in one line that begins with the program's name."""
    print(f"ltx: {text}", file=sys.stderr)


def complain_of_nothing(replica: Replica) -> None:
    """Say that a replica has no files: its URL may be wrong."""
    advice = replica.elsewhere or "or replicate a database to it"
    complain(f"no LTX files lie at {replica.url}; check the URL, {advice}")


def print_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout: drawn on a terminal, plain aligned columns elsewhere. Numbers stand on the right.

    Args:
        headings: One a column.
        rows: Cells, as many as headings in each.
    """
    if sys.stdout.isatty():
        _draw_table(headings, rows)
        return
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = _numeric(headings, rows)
    for row in [list(headings), *cells]:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(aligned).rstrip())


def _numeric(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[bool]:
    return [bool(rows) and all(isinstance(row[place], int) for row in rows) for place in range(len(headings))]


def _draw_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )  # `ltx list` fits 80 columns
    for heading, numeric in zip(headings, _numeric(headings, rows), strict=True):
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


@contextmanager
def progress_bar(label: str, *, in_bytes: bool = True) -> Iterator[Progress | None]:
    """Show a bar on stderr while something long goes on; yields None where stderr is no terminal.

    Args:
        label: What goes on.
        in_bytes: Whether bytes are counted, or pages.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    amount = rich_progress.DownloadColumn() if in_bytes else rich_progress.MofNCompleteColumn()
    bars = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        amount,
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        task = bars.add_task(label, total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report


def print_stats(stats: Stats) -> None:
    """Say on stderr what a storage was asked for."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(stats.requests.items()))
    total = sum(stats.requests.values())
    print(
        f"requests: {total}{f' ({kinds})' if kinds else ''}; bytes: {stats.received} received, {stats.sent} sent",
        file=sys.stderr,
    )
