"""`ltx doctor`: whether a storage does what replication needs, and how fast."""

from typing import TYPE_CHECKING

import typer

from backends.retrying import RetryingBackend
from ltx.cli.configuration import ConfigFile, ExpandEnv, opened_source
from ltx.cli.options import AsJSON, ReplicaURL, ShowStats, StorageOptions, examples
from ltx.cli.output import complain, print_json, print_table

if TYPE_CHECKING:
    from backends.probe import ProbeReport

__all__ = ["EXAMPLES", "doctor"]

EXAMPLES = examples(
    "ltx doctor s3://bucket/app",
    "ltx doctor webdavs://user@host/backups/app --json",
)


def doctor(
    url: ReplicaURL,
    as_json: AsJSON = False,
    config: ConfigFile = None,
    no_expand_env: ExpandEnv = False,
    storage_option: StorageOptions = None,
    stats: ShowStats = False,
) -> None:
    """Try a storage out before relying on it.

    With --config, URL is a database that the configuration names.

    It lists, writes, reads, replaces, creates exclusively (several writers at once, too), keeps a timestamp and
    deletes, with small objects below a name of its own (.ltx-doctor...), and says how long each takes. They are
    deleted again; nothing else is read or changed. Nothing is tried twice: a failure is shown.

    The exit code is 1 where something that replication needs does not work.

    JSON has url, usable, verdict, checks (name, result: ok, no, failed or skipped, needed, took_ms, detail,
    meaning), capabilities, quirks, clock_difference_s (the storage's minus ours; null where unknown) and left (keys
    that could not be deleted).
    """
    with opened_source(url, storage_option, config, no_expand_env=no_expand_env, stats=stats) as replica:
        from backends.probe import probe

        backend = replica.backend
        found = probe(backend.backend if isinstance(backend, RetryingBackend) else backend)
    if as_json:
        print_json(found.as_dict())
    else:
        _print_findings(found)
    if found.left:
        complain(
            f"{found.url}: {len(found.left)} objects of this check are left; delete {found.left[0]} and its like"
        )
    if not found.is_usable:
        complain(f"{found.url}: {found.verdict}")
        raise typer.Exit(1)


def _print_findings(found: "ProbeReport") -> None:
    print_table(
        ("check", "result", "ms", "what was seen"),
        [
            (
                check.name,
                check.result,
                "-" if check.took_ms is None else f"{check.took_ms:.1f}",
                " ".join(check.detail.split()),
            )
            for check in found.checks
        ],
    )
    print()
    print(f"clock:    {_clock(found.clock_difference_s)}")
    for quirk in found.quirks:
        print(f"note:     {' '.join(quirk.split())}")
    if found.is_usable:
        print(f"verdict:  {found.verdict}")


def _clock(difference_s: float | None) -> str:
    if difference_s is None:
        return "not known: the storage did not say when it wrote"
    if difference_s == 0:
        return "agrees with ours"
    return f"{abs(difference_s):.1f} s {'ahead of' if difference_s > 0 else 'behind'} ours"
