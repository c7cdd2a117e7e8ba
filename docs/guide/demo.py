"""`make demo`: a database, its replica, and both as they were ten seconds ago. No server is needed.

Usage: python docs/guide/demo.py [FOLDER]     everything is made in FOLDER, `.demo` unless it is named
"""

import filecmp
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import vfs

PAST = "10 seconds ago"
WAIT_S = 12
MARGIN_S = 9.5
"""How long after the last change "10 seconds ago" is surely before it."""

QUESTION = "SELECT sandwich, stars FROM sandwich_ratings ORDER BY stars DESC, sandwich LIMIT 3"


def main() -> int:
    """Run the demonstration; return 0 only if everything is as it was."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".demo").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    replica = "replica"  # a folder; s3://bucket/app would do as well

    say("A database of sandwich ratings, and its replica in a folder.")
    change("CREATE TABLE sandwich_ratings (sandwich TEXT PRIMARY KEY, stars INTEGER)")
    change("INSERT INTO sandwich_ratings VALUES ('BLT', 5), ('Reuben', 4), ('Club', 3), ('Egg', 2)")
    replicate(replica)

    say("Two changes, each put on the replica.")
    change("UPDATE sandwich_ratings SET stars = 1 WHERE sandwich = 'Club'")
    replicate(replica)
    change("INSERT INTO sandwich_ratings VALUES ('Grilled cheese', 4)")
    replicate(replica)
    keep("was.db")

    say(f"{WAIT_S} seconds of waiting, so that '{PAST}' means the state before the next change.")
    time.sleep(WAIT_S)

    say("The BLT falls from grace.")
    change("DELETE FROM sandwich_ratings WHERE sandwich = 'BLT'")
    change("UPDATE sandwich_ratings SET stars = 5 WHERE sandwich = 'Egg'")
    replicate(replica)
    changed = time.monotonic()
    keep("is.db")

    say(f"The replica as it was {PAST}: asked where it lies, then restored to a file.")
    run("vfs", replica, "--at", PAST, QUESTION)
    same_past_rows = rows_of_replica(replica, PAST) == rows_of("was.db")
    run("ltx", "restore", replica, "-o", "restored-was.db", "--timestamp", PAST)
    if time.monotonic() - changed > MARGIN_S:
        say(f"This machine was so slow that '{PAST}' is no longer before the change: run it again.")
        return 1

    say("The same for now, and a look at every file of the replica.")
    run("vfs", replica, QUESTION)
    same_rows = rows_of_replica(replica, None) == rows_of("is.db")
    run("ltx", "restore", replica, "-o", "restored-is.db")
    run("ltx", "verify", replica)

    say("Compared with copies of the source that were taken at those moments:")
    results = [
        report(f"rows '{PAST}'", same_past_rows),
        report("rows now", same_rows),
        report(f"restored '{PAST}', byte for byte", filecmp.cmp("restored-was.db", "was.db", shallow=False)),
        report("restored now, byte for byte", filecmp.cmp("restored-is.db", "is.db", shallow=False)),
    ]
    say(f"Look around in {folder}: app.db is the source, replica/ has its LTX files.")
    return 0 if all(results) else 1


def say(text: str) -> None:
    """Print what comes next."""
    print(f"\n{text}", flush=True)


def change(statement: str) -> None:
    """Change the source, as any application would."""
    print(f"  sqlite> {statement};", flush=True)
    with closing(sqlite3.connect("app.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        with database:
            database.execute(statement)


def replicate(replica: str) -> None:
    """Put what is committed on the replica."""
    run("ltx", "replicate", "--once", "app.db", replica)


def run(program: str, *words: str) -> None:
    """Run a command of ours, and show it as one would type it."""
    shown = "python -m vfs" if program == "vfs" else program
    print(f"  $ {shown} {shlex.join(words)}", flush=True)
    command = [sys.executable, "-m", program, *words]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    print("".join(f"    {line}\n" for line in found.stdout.splitlines()), end="", flush=True)
    if found.returncode:
        sys.exit(f"the demo ends here: {shown} gave exit code {found.returncode}")


def keep(name: str) -> None:
    """Keep a copy of the source as it is now: all of it is in one file after a checkpoint."""
    with closing(sqlite3.connect("app.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile("app.db", name)


def rows_of(name: str) -> list[object]:
    """Ask a local database."""
    with closing(sqlite3.connect(name)) as database:
        return [*database.execute(QUESTION)]


def rows_of_replica(replica: str, at: str | None) -> list[object]:
    """Ask the replica, from Python."""
    with closing(vfs.connect(replica, at=at)) as database:
        return [*database.execute(QUESTION)]


def report(what: str, same: bool) -> bool:
    """Print whether something is as it was."""
    print(f"  {'same' if same else 'DIFFERENT':<9} {what}", flush=True)
    return same


if __name__ == "__main__":
    sys.exit(main())
