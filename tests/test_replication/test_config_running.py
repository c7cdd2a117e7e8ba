"""A replicator with a configuration: databases in folders, reloading, metrics, the heartbeat, the command line."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ltx import Replica
from ltx.replication.config.reader import read_config
from ltx.replication.config.values import Heartbeat
from ltx.replication.control import ask
from ltx.replication.daemon import Daemon
from ltx.replication.database import Database, Settings
from ltx.replication.heartbeat import Heart, is_healthy
from tests.support.databases import image, make
from tests.support.replicating import ROOT, eventually, ltx_process, restored

DEPLOY = ROOT / "docs" / "guide" / "deploy"


class Running:
    """A replicator in a folder, its status, and what it logged."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str]") -> None:
        self.folder, self.process = folder, process
        self.lines: list[dict[str, Any]] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(json.loads(line) if line.startswith("{") else {"msg": line.strip()})

    def logged(self, message: str, **fields: object) -> bool:
        return any(
            message in line["msg"] and all(line.get(name) == value for name, value in fields.items())
            for line in self.lines
        )

    def configure(self, text: str) -> None:
        """Change the configuration, and wait until it was taken or not."""
        before = self._takes()
        (self.folder / "litestream.yml").write_text(text)
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self._takes() > before)

    def _takes(self) -> int:
        return sum("the configuration" in line["msg"] for line in self.lines)

    def databases(self) -> dict[str, dict[str, Any]]:
        """What the status says of each database, by its path in the folder."""
        answer = ask(self.folder / "ltx" / f"{self.process.pid}.sock", {"command": "status"})
        found: Any = answer["databases"]
        return {os.path.relpath(each["path"], self.folder): each for each in found}

    def has_all(self, *names: str) -> bool:
        """Whether these databases, and no others, are on all of their replicas."""
        found = self.databases()
        return sorted(found) == sorted(names) and all(
            each["txid"] and replica["txid"] == each["txid"]
            for each in found.values()
            for replica in each["replicas"]
        )


@contextlib.contextmanager
def running(folder: Path, text: str, *words: str, code: int = 0) -> Iterator[Running]:
    (folder / "litestream.yml").write_text(text)
    process = ltx_process(
        "replicate", "--config", folder / "litestream.yml", "--log-json", *words, folder=folder
    )
    found = Running(folder, process)
    try:
        eventually(lambda: found.logged("replicates", pid=process.pid) or process.poll() is not None)
        yield found
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == code, found.lines
    finally:
        process.kill()
        process.wait()
        found.reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe
            pipe.close()


def commit(path: Path) -> None:
    with closing(sqlite3.connect(path)) as app, app:
        app.execute("INSERT INTO t (a) VALUES (1)")


def entry(path: Path, *replicas: Path | str) -> str:
    places = ", ".join(
        f"{{url: '{each}'}}" if "://" in str(each) else f"{{path: {each}}}" for each in replicas
    )
    return f"- path: {path}\n  replicas: [{places}]\n"


def test_databases_of_a_folder_come_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "dbs"
    (folder / "tenants").mkdir(parents=True)
    one, two = make(folder / "one.db"), make(folder / "tenants" / "two.db")
    make(folder / "other.sqlite")
    (folder / "text.db").write_text("no database, whatever its name says")
    text = f"dbs:\n- dir: {folder}\n  pattern: '*.db'\n  recursive: true\n  watch: true\n  replica: {{path: {tmp_path}/r}}\n"
    with running(tmp_path, text) as run:
        eventually(lambda: run.has_all("dbs/one.db", "dbs/tenants/two.db"))
        three = make(folder / "three.db")
        (folder / "new").mkdir()
        four = make(folder / "new" / "four.db")
        fifth = make(folder / "text.db.tmp")
        fifth.rename(folder / "text.db")  # what was passed over is a database now
        names = ("dbs/one.db", "dbs/tenants/two.db", "dbs/three.db", "dbs/new/four.db", "dbs/text.db")
        eventually(lambda: run.has_all(*names))
        commit(two)
        expected = image(two)
        two.unlink()
        Path(f"{two}-wal").unlink(missing_ok=True)
        Path(f"{two}-shm").unlink(missing_ok=True)
        one.rename(folder / "first.db")  # under its new name it is another one
        eventually(lambda: run.has_all("dbs/first.db", "dbs/three.db", "dbs/new/four.db", "dbs/text.db"))
        shutil.rmtree(folder / "new")
        eventually(lambda: run.has_all("dbs/first.db", "dbs/three.db", "dbs/text.db"))
        commit(folder / "first.db")
    assert expected
    for path in (folder / "first.db", three):
        where = tmp_path / "r" / path.relative_to(folder)
        assert restored(str(where), tmp_path / "out.db") == image(path)
    assert restored(f"{tmp_path}/r/new/four.db", tmp_path / "out.db")
    assert not four.exists()


def test_a_file_under_two_names_is_opened_once(tmp_path: Path) -> None:
    (tmp_path / "dbs").mkdir()
    path = make(tmp_path / "dbs" / "a.db")
    os.link(path, tmp_path / "dbs" / "b.db")
    (tmp_path / "dbs" / "c.db").symlink_to(path)
    text = (
        f"dbs:\n- dir: {tmp_path}/dbs\n  pattern: '*.db'\n  watch: true\n  replica: {{path: {tmp_path}/r}}\n"
    )
    with running(tmp_path, text) as run, closing(sqlite3.connect(path)) as app:
        eventually(lambda: run.has_all("dbs/a.db"))
        assert run.logged("is another name of a database", db=f"{tmp_path}/dbs/b.db")
        (tmp_path / "dbs" / "unrelated.txt").write_text("makes it look again")
        app.execute("INSERT INTO t (a) VALUES (1)")
        app.commit()
        time.sleep(1)
        # SQLite still sees our locks: nobody closed a descriptor of the file
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            app.execute("PRAGMA journal_mode = DELETE")


def test_a_reload_changes_what_changed_and_nothing_else(tmp_path: Path) -> None:
    a, b, c, d = (make(tmp_path / f"{name}.db") for name in "abcd")
    kept = f"dbs:\n{entry(a, tmp_path / 'ra')}"
    with running(tmp_path, kept + entry(b, tmp_path / "rb") + entry(c, tmp_path / "rc")) as run:
        eventually(lambda: run.has_all("a.db", "b.db", "c.db"))
        compared = run.databases()["a.db"]["compared"]
        commit(b)
        run.configure(kept + entry(c, tmp_path / "rc2", tmp_path / "rc3") + entry(d, tmp_path / "rd"))
        eventually(lambda: run.logged("lets go", db=str(b)))
        eventually(lambda: run.has_all("a.db", "c.db", "d.db"))
        assert restored(f"{tmp_path}/rb", tmp_path / "out.db") == image(b)  # it was flushed
        assert run.databases()["a.db"]["compared"] == compared  # and this one followed on
        for wrong, because in (
            ("dbs: [", "is no YAML"),
            (kept + "- path: /x\n", "needs a 'replica'"),
            (kept + entry(b, "s3://_"), "not the name of a bucket"),
            (kept + "- dir: /nowhere/at/all\n  pattern: '*'\n  replica: {path: r}\n", "/nowhere/at/all"),
        ):
            run.configure(wrong)
            assert run.lines[-1]["msg"] == "the configuration was not taken; all goes on as it was"
            assert because in run.lines[-1]["error"]
            assert sorted(run.databases()) == ["a.db", "c.db", "d.db"]
        for path in (a, c, d):
            commit(path)
        eventually(lambda: run.has_all("a.db", "c.db", "d.db"))
        run.configure("addr: ':1'\n" + kept)
        assert run.logged("took the configuration", needs_restart=["address"])
    for path, url in ((a, "ra"), (c, "rc2"), (c, "rc3"), (d, "rd")):
        assert restored(f"{tmp_path}/{url}", tmp_path / "out.db") == image(path)


def test_two_databases_never_have_one_replica(tmp_path: Path) -> None:
    a = make(tmp_path / "a.db")
    b = Path(shutil.copy(a, tmp_path / "b.db"))
    (tmp_path / "dbs").mkdir()
    shutil.copy(a, tmp_path / "dbs" / "c.db")
    (tmp_path / "link").symlink_to(tmp_path / "ra")
    kept = f"dbs:\n{entry(a, tmp_path / 'ra')}"
    found = f"- dir: {tmp_path}/dbs\n  pattern: '*.db'\n  watch: true\n  replica: {{path: {tmp_path}/%s}}\n"
    (tmp_path / "both.yml").write_text(kept + entry(b, f"{tmp_path}/ra/"))
    code, said = exits(tmp_path, "--config", tmp_path / "both.yml")
    assert (code, f"{a}, and cannot be that of {b}" in said) == (1, True), said
    with running(tmp_path, kept) as run:
        eventually(lambda: run.has_all("a.db"))
        for wrong, because in (
            (kept + entry(b, f"{tmp_path}/ra/"), f"{a}, and cannot be that of {b}"),
            (kept + entry(b, tmp_path / "link"), f"{a}, and cannot be that of {b}"),
            (kept + entry(b, tmp_path / "ra" / "ltx" / "b"), "among the other one's files"),
            (kept + entry(b, tmp_path / "rb", tmp_path / "rb"), "twice"),
            (
                f"dbs:\n{entry(a, tmp_path / 'rdbs' / 'c.db')}" + found % "rdbs",
                f"and cannot be that of {tmp_path}/dbs/c.db",
            ),
        ):
            run.configure(wrong)
            assert run.lines[-1]["msg"] == "the configuration was not taken; all goes on as it was"
            assert because in run.lines[-1]["error"]
            commit(a)
            eventually(lambda: run.has_all("a.db"))
        run.configure(f"dbs:\n{entry(a, tmp_path / 'rdbs' / 'late.db')}" + found % "rdbs")
        shutil.copy(b, tmp_path / "dbs" / "late.db")  # found later: only it is refused
        late = str(tmp_path / "dbs" / "late.db")
        eventually(lambda: run.logged("cannot be replicated", db=late))
        commit(a)
        eventually(lambda: run.has_all("a.db", "dbs/c.db"))
    assert restored(f"{tmp_path}/rdbs/late.db", tmp_path / "out.db") == image(a)


def test_a_dead_storage_stops_nothing_else_and_a_reload_helps(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        dead = [make(tmp_path / f"dead{number}.db") for number in range(6)]
        live = make(tmp_path / "live.db")
        url = f"webdav://somebody:hunter22@127.0.0.1:{port}"
        text = "dbs:\n" + "".join(entry(path, f"{url}/{path.name}") for path in dead)
        with running(tmp_path, text + entry(live, tmp_path / "r")) as run:
            eventually(lambda: run.databases()["live.db"]["replicas"][0]["txid"] == 1)
            eventually(lambda: all(run.databases()[path.name]["error"] for path in dead), seconds=40)
            commit(live)
            eventually(lambda: run.databases()["live.db"]["replicas"][0]["txid"] == 2)
            where = "".join(entry(path, tmp_path / path.stem) for path in dead)
            run.configure("dbs:\n" + where + entry(live, tmp_path / "r"))
            eventually(lambda: run.has_all("live.db", *(path.name for path in dead)), seconds=40)
            assert "hunter22" not in json.dumps(run.lines) + json.dumps(run.databases())
    for path in dead:
        assert restored(str(tmp_path / path.stem), tmp_path / "out.db") == image(path)


def test_metrics_say_how_it_is(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with running(tmp_path, f"addr: 127.0.0.1:0\ndbs:\n{entry(path, tmp_path / 'r')}") as run:
        eventually(lambda: run.has_all("a.db"))
        port = next(line["port"] for line in run.lines if line["msg"] == "serves metrics")

        def metrics() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text = answer.read().decode()
            return {
                name: float(value)
                for name, value in re.findall(r"^(\w+(?:{[^}]*})?) (\S+)$", text, re.MULTILINE)
            }

        def one(name: str, **labels: str) -> float:
            found = metrics()
            inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
            return found[f"{name}{{{inner}}}" if labels else name]

        db, replica = {"db": str(path)}, {"replica": f"file://{tmp_path}/r"}
        commit(path)
        eventually(lambda: one("litestream_txid", **db) == 2)
        eventually(lambda: one("litestream_replica_txid", **db, **replica) == 2)
        assert one("litestream_databases") == 1
        assert one("litestream_db_size", **db) == path.stat().st_size
        assert one("litestream_wal_size", **db) == Path(f"{path}-wal").stat().st_size
        assert one("litestream_sync_count", **db) >= 2
        assert one("litestream_sync_error_count", **db) == 0
        assert one("litestream_replica_lag_bytes", **db, **replica) == 0
        assert one("litestream_replica_lag_seconds", **db, **replica) == 0
        assert one("litestream_replica_error", **db, **replica) == 0
        assert one("litestream_replica_operation_total", replica_type="file", operation="PUT") >= 2
        assert one("litestream_replica_operation_bytes", replica_type="file", operation="PUT") > 0
        shutil.rmtree(tmp_path / "r")
        (tmp_path / "r").write_text("in the way")
        commit(path)
        eventually(lambda: one("litestream_replica_error", **db, **replica) == 1)
        assert one("litestream_replica_lag_bytes", **db, **replica) > 0
        assert one("litestream_replica_lag_seconds", **db, **replica) > 0
        (tmp_path / "r").unlink()
        eventually(lambda: one("litestream_replica_error", **db, **replica) == 0, seconds=40)


@contextlib.contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """Take heartbeats; yields where, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(500 if "fail" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_the_heartbeat_tells_that_all_is_well_and_never_else(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a.db"), tmp_path / "b.db"
    dbs = "dbs:\n" + entry(a, tmp_path / "ra") + entry(b, tmp_path / "rb")
    with listener() as (url, asked), running(tmp_path, f"heartbeat-url: {url}/fail-secret\n{dbs}") as run:
        eventually(lambda: run.databases()["b.db"]["error"] is not None)
        time.sleep(2.5)
        assert asked == []  # a database is missing
        make(b)
        eventually(lambda: asked == ["/fail-secret"], seconds=40)
        eventually(lambda: run.logged("the heartbeat was not taken", host="127.0.0.1", error="500"))
        time.sleep(2)
        assert asked == ["/fail-secret"]  # a failed one waits for its next time
        assert not any("fail-secret" in json.dumps(line) for line in run.lines)


def test_the_heartbeat_stops_when_a_replica_falls_behind(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    with listener() as (url, asked), Replica.open(str(tmp_path / "r")) as replica:
        daemon = Daemon([Database(path, [replica], Settings(sync_interval_s=0.01))], flush_s=0.1)
        heart = Heart(daemon, Heartbeat(url, 0.05))
        daemon.start()
        eventually(lambda: heart.beat() > 0 and len(asked) > 0)
        time.sleep(0.1)
        heart.beat()
        assert len(asked) >= 2
        shutil.rmtree(tmp_path / "r")
        (tmp_path / "r").write_text("in the way")
        commit(path)
        eventually(lambda: not is_healthy(daemon, 0.05))
        before = len(asked)
        time.sleep(0.1)
        heart.beat()
        assert len(asked) == before
        (tmp_path / "r").unlink()
        daemon.stop()


def test_a_program_goes_on_while_the_configuration_changes(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a.db"), make(tmp_path / "b.db")
    text = f"exec: sleep 60\nsocket: {{enabled: true, path: {tmp_path}/my.sock}}\ndbs:\n{entry(a, tmp_path / 'ra')}"
    with running(tmp_path, text, code=128 + signal.SIGTERM) as run:
        eventually(lambda: (tmp_path / "my.sock").exists())
        run.configure(text + entry(b, tmp_path / "rb"))
        answer = ask(tmp_path / "my.sock", {"command": "sync", "wait": True})
        assert answer["ok"], answer
    assert restored(f"{tmp_path}/rb", tmp_path / "out.db") == image(b)


def test_what_the_guide_shows_for_deploying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_config(DEPLOY / "litestream.yml", strict=True)
    assert [str(each.path) for each in found.databases] == ["/var/lib/app/app.db"]
    unit = (DEPLOY / "ltx.service").read_text()
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit
    assert re.search(
        r"^ExecStart=/usr/local/bin/ltx replicate --config /etc/litestream.yml$", unit, re.MULTILINE
    )
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) > found.flush_s
    command = json.loads(re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0])
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("ltx", "-m ltx"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (programs / name).chmod(0o755)
    (tmp_path / "app.py").write_text("import sys; sys.exit(9)")
    path = make(tmp_path / "app.db")
    for name, value in {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "LTX_DB": str(path),
        "LTX_URL": str(tmp_path / "r"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    assert subprocess.run(command, capture_output=True).returncode == 9
    assert restored(f"{tmp_path}/r", tmp_path / "out.db") == image(path)


def exits(folder: Path, *words: str | Path) -> tuple[int, str]:
    process = ltx_process("replicate", *words, folder=folder)
    _, err = process.communicate(timeout=40)
    return process.returncode, err


def test_exit_codes_and_what_is_typed_over_the_file(tmp_path: Path) -> None:
    path, config = make(tmp_path / "a.db"), tmp_path / "litestream.yml"
    config.write_text(f"exec: sh -c 'exit 7'\nlogging: {{type: json}}\ndbs:\n{entry(path, tmp_path / 'r')}")
    code, err = exits(tmp_path, "--config", config)
    assert code == 7
    assert json.loads(err.splitlines()[-1])["msg"] == "ended"
    assert restored(f"{tmp_path}/r", tmp_path / "out.db") == image(path)
    assert exits(tmp_path, "--config", config, "--exec", "sh -c 'exit 3'")[0] == 3
    assert exits(tmp_path, "--config", config, "--once")[0] == 0
    config.write_text("dbs:\n- pth: x\n")
    code, err = exits(tmp_path, "--config", config)
    assert code == 1
    assert "did you mean 'path'" in err
    assert err.startswith(
        f"ltx: {config}:2: this database needs either 'path', a database, or 'dir', a folder of them"
    )
    assert "there is no setting 'pth' of this database" in exits(tmp_path, "--config", config, "--strict")[1]
    for empty in ("", "dbs:\n", "addr: 127.0.0.1:9090\n", "dbs: []\n"):
        config.write_text(empty)
        assert exits(tmp_path, "--config", config) == (
            1, f"ltx: {config}: names no database: each is an entry of 'dbs'\n"
        )  # fmt: skip
    for words, message in (
        ((path,), "needs a replica"),
        ((path, "r", "--config", config), "need no configuration"),
        (("--config", config, "--storage-option", "a=b"), "settings of its own"),
        (("--metrics", "9090", path, "r"), "--metrics is a host and a port"),
    ):
        code, err = exits(tmp_path, *words)
        assert code == 2
        assert message in err
    config.write_text(f"addr: 127.0.0.1:99999\ndbs:\n{entry(path, tmp_path / 'r')}")
    assert exits(tmp_path, "--config", config)[0] == 1


def test_without_arguments_the_configuration_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.db")
    (tmp_path / "my.yml").write_text("dbs:\n- path: $HERE/a.db\n  replica: {path: $HERE/r}\n")
    monkeypatch.setenv("LITESTREAM_CONFIG", str(tmp_path / "my.yml"))
    monkeypatch.setenv("HERE", str(tmp_path))
    assert exits(tmp_path, "--once")[0] == 0
    assert restored(f"{tmp_path}/r", tmp_path / "out.db") == image(tmp_path / "a.db")
    monkeypatch.chdir(tmp_path)
    assert exits(tmp_path, "--once", "--no-expand-env")[0] == 1  # there is no database '$HERE/a.db'
    monkeypatch.setenv("LITESTREAM_CONFIG", "gone.yml")
    assert "there is no configuration gone.yml" in exits(tmp_path)[1]


def test_a_missing_database_is_restored_before_anything_begins(tmp_path: Path) -> None:
    paths = [make(tmp_path / name) for name in ("a.db", "b.db")]
    text = "dbs:\n" + "".join(
        f"{entry(path, tmp_path / path.stem)}  restore-if-db-not-exists: true\n" for path in paths
    )
    with running(tmp_path, text) as run:
        eventually(lambda: run.has_all("a.db", "b.db"))
    expected = [image(path) for path in paths]
    for path in paths:
        path.unlink()
        shutil.rmtree(path.parent / f".{path.name}-litestream")
    config = tmp_path / "litestream.yml"
    words: Sequence[str | Path] = ("--config", config, "--exec", f"test -s {paths[0]} -a -s {paths[1]}")
    assert exits(tmp_path, *words)[0] == 0
    assert [image(path) for path in paths] == expected
    paths[0].unlink()
    with running(tmp_path, text) as run:  # without a program that waits, the others do not wait either
        eventually(lambda: run.has_all("a.db", "b.db"))
    assert image(paths[0]) == expected[0]


def test_wal_mode_is_set_where_the_file_asks_for_it(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a.db", mode="delete"), make(tmp_path / "b.db", mode="delete")
    text = f"dbs:\n{entry(a, tmp_path / 'ra')}  wal: true\n{entry(b, tmp_path / 'rb')}"
    with running(tmp_path, text) as run:
        eventually(lambda: run.has_all("a.db", "b.db"))
        assert {name: each["mode"] for name, each in run.databases().items()} == {
            "a.db": "wal",
            "b.db": "rollback",
        }


def test_many_databases_of_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "dbs"
    folder.mkdir()
    first = make(folder / "0.db")
    for number in range(1, 60):
        shutil.copy(first, folder / f"{number}.db")
    text = f"dbs:\n- dir: {folder}\n  pattern: '*.db'\n  replica: {{path: {tmp_path}/r}}\n"
    with running(tmp_path, text) as run:
        eventually(lambda: run.has_all(*(f"dbs/{number}.db" for number in range(60))), seconds=40)
        commit(folder / "7.db")
        eventually(lambda: run.databases()["dbs/7.db"]["replicas"][0]["txid"] == 2)
    assert restored(f"{tmp_path}/r/7.db", tmp_path / "out.db") == image(folder / "7.db")
