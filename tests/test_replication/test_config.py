"""`litestream.yml`: what each setting comes to, and what is said of one that is wrong."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ltx
from ltx.replica.durations import parse_duration, parse_seconds
from ltx.replication.config.reader import default_path, read_config
from ltx.replication.config.values import Configuration, Place, pattern_as_regex
from ltx.replication.database import Settings
from ltx.replication.folders import find

Read = Callable[..., Configuration]
SECRET = "hunter22"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a configuration from its text."""

    def read(text: str, environment: Mapping[str, str] | None = None, **how: bool) -> Configuration:
        (tmp_path / "litestream.yml").write_text(text)
        return read_config(tmp_path / "litestream.yml", environment=environment or {}, **how)

    return read


def refused(read: Read, text: str, **how: bool) -> ltx.ConfigFileError:
    with pytest.raises(ltx.ConfigFileError) as caught:
        read(text, **how)
    assert caught.value.path.endswith("litestream.yml")
    return caught.value


def place(read: Read, replica: str, top: str = "") -> Place:
    """Return the place that the settings of a replica come to."""
    [database] = read(f"{top}\ndbs:\n- path: /a.db\n  replica: {replica}\n").databases
    [found] = database.places
    return found


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("24h", timedelta(hours=24)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        (".5s", timedelta(milliseconds=500)),
        ("250ms", timedelta(milliseconds=250)),
        ("3us1µs", timedelta(microseconds=4)),
        ("1ns", timedelta(microseconds=1)),
        ("-5m", timedelta(minutes=-5)),
        ("+1s", timedelta(seconds=1)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
    ],
)
def test_times_are_read_as_go_reads_them(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["", "5", "1 s", "s", "1d", "1e3s", "٣s", "1h-3m", "inf", "99999999999999h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_duration(text)


@given(st.integers(0, 10**15))
def test_every_count_of_microseconds_is_read_exactly(count: int) -> None:
    assert parse_duration(f"{count}us") == timedelta(microseconds=count)
    assert parse_duration(f"{count // 1000}ms{count % 1000}us") == timedelta(microseconds=count)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("0.5", 0.5), (".5", 0.5), ("0", 0), ("1e-05", 1e-5), ("500ms", 0.5), ("1m30s", 90)],
)
def test_intervals_may_be_plain_seconds_where_they_are_typed(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "-1s", "nan", "inf", "1e99", "9" * 20, "5 s"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="an interval is a number of seconds, or such as 500ms, 5s or 1m30s; not"
    ):
        parse_seconds(text)


def test_an_empty_file_has_what_is_usual(read: Read) -> None:
    assert read("") == Configuration()
    assert read("dbs:\n") == Configuration()
    assert read("dbs:\n- path: /a.db\n  replica: {path: /r}\n").databases[0].settings == Settings()


def test_every_setting_has_its_effect(read: Read) -> None:
    found = read("""
addr: ":9090"
socket: {enabled: true, path: /run/ltx.sock, permissions: 0600}
levels: [{interval: 10s}, {interval: 1m}]
snapshot: {interval: 6h, retention: 168h}
retention: {enabled: false}
l0-retention: 1m
l0-retention-check-interval: 5s
verify-compaction: true
heartbeat-url: https://heart.example/beat
heartbeat-interval: 2m
exec: sh -c 'echo "a b"'
logging: {level: warn, type: json, stderr: true, source: true}
shutdown-sync-timeout: 10s
shutdown-sync-interval: 250ms
sync-interval: 2s
dbs:
- path: sqlite:///data/a.db
  meta-path: /meta/a
  monitor-interval: 3s
  checkpoint-interval: 2m
  busy-timeout: 5s
  min-checkpoint-page-count: 50
  truncate-page-n: 500
  max-sync-wal-bytes: 1000000
  restore-if-db-not-exists: true
  wal: true
  replicas:
  - {path: /r/a, sync-interval: 500ms, max-sync-ltx-files: 5, auto-recover: true, name: first}
  - {path: /r/b}
- path: /data/b.db
  levels: [{interval: 1s}]
  snapshot: {interval: 1h}
  retention: {enabled: yes}
  l0-retention: 0
  replica: {path: /r/c}
""")
    assert found.warnings == ()
    assert (found.address, str(found.socket)) == (":9090", "/run/ltx.sock")
    assert found.command == ("sh", "-c", 'echo "a b"')
    assert found.heartbeat is not None
    assert (found.heartbeat.url, found.heartbeat.interval_s) == ("https://heart.example/beat", 120)
    assert (found.logging.level, found.logging.as_json, found.logging.source) == (30, True, True)
    assert (found.flush_s, found.flush_pause_s) == (10, 0.25)
    a, b = found.databases
    assert (str(a.path), [each.url for each in a.places]) == ("/data/a.db", ["/r/a", "/r/b"])
    how = a.settings
    assert (how.sync_interval_s, how.look_s, str(how.folder), how.restore) == (0.5, 3, "/meta/a", True)
    assert how.wal
    assert (how.limits.min_pages, how.limits.interval_s, how.limits.truncate_pages) == (50, 120, 500)
    assert how.upkeep.levels.intervals == (timedelta(seconds=10), timedelta(minutes=1))
    assert how.upkeep.levels.snapshot_interval == timedelta(hours=6)
    assert how.upkeep.retention.window == timedelta(hours=168)
    assert (how.upkeep.retention.level0, how.upkeep.check_s) == (timedelta(minutes=1), 5)
    assert (how.upkeep.deletes, how.upkeep.enabled) == (False, True)
    how = b.settings
    assert (how.sync_interval_s, how.folder, how.restore) == (2, None, False)
    assert how.upkeep.levels.intervals == (timedelta(seconds=1),)
    assert how.upkeep.levels.snapshot_interval == timedelta(hours=1)
    assert how.upkeep.retention.window == timedelta(hours=168)  # what the database does not say the file does
    assert (how.upkeep.retention.level0, how.upkeep.deletes) == (None, True)


def test_the_environment_is_put_in_as_go_does(read: Read) -> None:
    text = (
        "# $UNSET in a comment is none\ndbs:\n- path: ${DIR}/$NAME.db\n  replica: {path: '/r/$$x${}$-y$'}\n"
    )
    [database] = read(text, {"DIR": "/data", "NAME": "app"}).databases
    assert (str(database.path), database.places[0].url) == ("/data/app.db", "/r/xy$")
    assert (
        read(text, {"DIR": "/data", "NAME": "app"})
        .warnings[0]
        .endswith(":4: the environment has no $: nothing stands in its place")
    )
    [database] = read(text, expand=False).databases
    assert database.places[0].url == "/r/$$x${}$-y$"


def test_lines_are_those_of_the_file_whatever_the_environment_puts_in(read: Read) -> None:
    text = "dbs:\n$DBS\nlevels:\n- interval: soon\n"
    with pytest.raises(ltx.ConfigFileError) as caught:
        read(text, {"DBS": "- path: /a.db\n  replica:\n    path: /r"})
    assert caught.value.line == 4


def test_an_unknown_setting_is_a_warning_that_knows_better(read: Read) -> None:
    text = (
        "lvels: []\nwhatsoever: 5\ndbs:\n- path: /a.db\n  replica:\n    path: /r\n    secret-acess-key: "
        + SECRET
    )
    found = read(text)
    assert [warning.split("litestream.yml:")[1] for warning in found.warnings] == [
        "1: there is no setting 'lvels': did you mean 'levels'?",
        "2: there is no setting 'whatsoever'; it has no effect",
        "7: there is no setting 'replica.secret-acess-key' of the database /a.db: did you mean 'secret-access-key'?",
    ]
    assert refused(read, text, strict=True).line == 1
    assert len(found.databases) == 1


def test_a_number_without_a_unit_is_nanoseconds_as_there_and_a_warning(read: Read) -> None:
    text = "shutdown-sync-timeout: 5000000000\n"
    found = read(text)
    assert found.flush_s == 5
    assert "'shutdown-sync-timeout': 5000000000 without a unit is nanoseconds" in found.warnings[0]
    assert refused(read, text, strict=True).line == 1


def test_a_database_under_two_names_is_refused(read: Read, tmp_path: Path) -> None:
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    text = "dbs:\n" + "".join(
        f"- path: {tmp_path}/{each}.db\n  replica: {{path: r{each}}}\n" for each in "ab"
    )
    error = refused(read, text)
    assert f"{tmp_path}/b.db, which is {tmp_path}/a.db, stands here twice" in str(error)


def test_a_setting_given_twice_is_a_warning(read: Read) -> None:
    found = read("addr: ':1'\naddr: ':2'\n")
    assert found.address == ":2"
    assert found.warnings[0].endswith(":2: 'addr' stands here twice: the last one holds")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("dbs:\n- {}\n", 2, "needs either 'path', a database, or 'dir', a folder of them"),
        ("dbs:\n- path: /a\n  dir: /b\n", 2, "needs either"),
        ("dbs:\n- path: /a\n", 2, "the database /a needs a 'replica'"),
        ("dbs:\n- dir: /a\n  pattern: '*'\n", 2, "the folder /a needs a 'replica'"),
        ("dbs:\n- path: /a\n  replica:\n", 2, "needs a 'replica'"),
        (
            "dbs:\n- path: /a\n  replica: s3://b/p\n",
            3,
            "'replica' of the database /a must have settings of its own: write 'url:' and a value on a line below it",
        ),
        ("dbs:\n- /a.db\n", 2, "this database must have settings of its own: write 'path:'"),
        ("retention: 24h\n", 1, "'retention' must have settings of its own: write 'enabled:'"),
        ("levels: [5m]\n", 1, "'levels' must have settings of its own: write 'interval:'"),
        ("dbs: /a.db\n", 1, "'dbs' must be a list: begin each entry"),
        ("dbs:\n- path: [a]\n  replica: {path: r}\n", 2, "must be a single value"),
        ("dbs:\n- path: /a\n  truncate-page-n: x\n  replica: {path: r}\n", 3, "must be a whole number"),
        ("dbs:\n- path: /a\n  wal: x\n  replica: {path: r}\n", 3, "must be true or false"),
        ("l0-retention: long\n", 1, "'l0-retention': a time is written such as 24h"),
        ("dbs:\n- path: /a\n   replica:\n", 3, "check the indentation"),
        ("dbs:\n  - path: /a\n    replica:\n      path: r\n     wal: true\n", 5, "check the indentation"),
        ("dbs:\n- path: /a\n\treplica:\n", 3, "tabs are not allowed for indentation"),
        ("dbs:\n- path: '/a\n  replica:\n    path: r\n", 2, "a quote is opened here and not closed"),
        ("dbs:\n- path: /a\n  replica: {path: r\n", 3, "is opened here and not closed"),
        ("dbs:\n- path: /a\n  replica: {}\n", 3, "needs a 'url', or a 'path'"),
        (
            "dbs:\n- path: /a\n  watch: true\n  replica: {path: r}\n",
            2,
            "the database /a: 'watch' goes with 'dir'",
        ),
        ("dbs:\n- dir: /a\n  replica: {path: r}\n", 2, "needs a 'pattern'"),
        ("dbs:\n- dir: /a\n  pattern: '[a'\n  replica: {path: r}\n", 3, "is not closed"),
        ("dbs:\n- path: /a\n  replica:\n    path: s3://b/p\n", 3, "call it 'url'"),
        ("dbs:\n- path: /a\n  replica:\n    url: s3://b/p\n    bucket: c\n", 3, "leave out 'bucket'"),
        ("dbs:\n- path: /a\n  replica: {type: s3, path: p}\n", 3, "needs a 'url', or a 'bucket'"),
        (
            "dbs:\n- path: /a\n  replica: {type: s4}\n",
            3,
            "'replica.type' of the database /a should be 'file', 's3'",
        ),
        ("dbs:\n- path: /a\n  replica: {path: r}\n- path: /a\n  replica: {path: q}\n", 4, "twice"),
        ("dbs:\n- path: /a\n  replica: {path: r}\n  replicas: [{path: q}]\n", 2, "put all of them"),
        ("snapshot:\n  interval: 0s\n", 2, "must be longer than 0"),
        ("heartbeat-url: https://h\nheartbeat-interval: 10s\n", 2, "at least a minute"),
        ("heartbeat-url: ftp://h\n", 1, "must begin with http"),
        ("levels: []\n", 1, "at least 1 item"),
        ("addr: 9090\n", 1, "is a host and a port"),
        ("socket:\n  permissions: 0666\n", 1, "can only be 0600"),
        ('exec: "a \'b"\n', 1, "No closing quotation"),
        ("- a\n", 1, "no mapping of settings"),
        ("a: [\n", 2, "is no YAML"),
        ("a: &a [*a]\n", 1, "nested"),
        ("a: b\nsecret-access-key: *a\n", 2, "begins with '*' is another one's name to YAML"),
        ("a: b\nsecret-access-key: !a\n", 2, "begins with '!' is a tag to YAML"),
        ("a: b\nsecret-access-key: !a b\n", 2, "begins with '!' is a tag to YAML"),
        ("a: b\nsecret-access-key: !!a\n", 2, "begins with '!' is a tag to YAML"),
        ("a: b\nsecret-access-key: &a\n", 2, "begins with '&' is a name to YAML"),
        ("a: b\nsecret-access-key: @a\n", 2, "in single quotes"),
        ("l0-retention: -5s\n", 1, "must not be negative"),
        ("dbs:\n- path: /a\n  replica: {url: 's3://b', part-size: big}\n", 3, "5MB, 5MiB or 1.5GB"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read: Read, text: str, line: int, message: str) -> None:
    error = refused(read, text)
    assert message in str(error)
    assert error.line == line or "nested" in message


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("mcp-addr: ':3001'\n", 1, "mcp-addr"),
        ("validation:\n  interval: 1h\n", 2, "validation.interval"),
        ("age: {identities: [x]}\n", 1, "age"),
        ("dbs:\n- path: /a\n  replica:\n    type: nats\n    bucket: b\n    jwt: x\n", 6, "jwt"),
        ("dbs:\n- path: /a\n  replica:\n    url: nats://h/b\n", 3, "NATS"),
        ("dbs:\n- path: /a\n  replica:\n    type: oss\n    bucket: b\n", 3, "OSS"),
    ],
)
def test_what_is_not_here_yet_is_said_so(read: Read, text: str, line: int, name: str) -> None:
    error = refused(read, text)
    assert name in str(error)
    assert error.line == line
    assert "not" in str(error)
    assert read("validation: {interval: 0s}\nmcp-addr: ''\n").databases == ()  # what is off is not asked for


def test_no_message_shows_a_secret(read: Read) -> None:
    secret = SECRET
    replica = f"{{type: s3, bucket: [], access-key-id: {secret}, secret-access-key: {{a: {secret}}}}}"
    texts = [
        f"dbs:\n- path: /a\n  replica: {replica}\n",
        f"dbs:\n- path: /a\n  replica: {{url: 's3://k:{secret}@b/p', path: x}}\n",
        f"dbs:\n- path: /a\n  replica: {{type: webdav, webdav-url: 'u:{secret}@h'}}\n",
        f"secret-access-key: '{secret}\n",
        f"secret-access-key: {secret}: {secret}\n",
        *(
            f"secret-access-key: {sign}{secret}\n"
            for sign in ("*", "&", "!", "!!", "!x!", "%", "@", "`", "|", ">", "[", "{", '"')
        ),
        f"secret-access-key: '{secret}' {secret}\n",
        f"secret-access-key: [{secret}, {secret}\n",
        f'secret-access-key: "\\{secret}"\n',
        f"%{secret}\n",
        f"secret-access-key: a\n{secret}\n",
        f"dbs:\n- path: /a\n  replica: {{type: abs, account-key: {secret}, path: /x, bucket: b}}\n",
    ]
    for text in texts:
        assert secret not in str(refused(read, text))
    found = read(
        f"heartbeat-url: https://h/{secret}\nsecret-access-key: {secret}\naccess-key-id: k{secret}\n"
        f"dbs:\n- path: /a\n  replica: {{url: 's3://b/p?sseCustomerKey={secret}'}}\n"
    )
    assert secret not in repr(found)


def test_tags_that_say_what_a_value_is_anyway_are_fine(read: Read) -> None:
    found = read(
        "addr: !!str ':9090'\ndbs: !!seq\n- &a\n  path: /a\n  replica: &r {path: /r}\n- {path: /b, replica: *r}\n"
    )
    assert (found.address, len(found.databases)) == (":9090", 2)


def test_what_is_wrong_with_a_url_or_a_folder_is_said_with_its_line(read: Read, tmp_path: Path) -> None:
    found = read(
        f"dbs:\n- path: /a\n  replica:\n    url: s4://b/p\n- dir: {tmp_path}/none\n  pattern: '*'\n  replica: {{path: r}}\n"
    )
    with pytest.raises(ltx.ConfigFileError, match=r"litestream\.yml:4: no backend for s4://"):
        found.databases[0].places[0].open()
    with pytest.raises(
        ltx.ConfigFileError, match=rf"litestream\.yml:5: the folder {tmp_path}/none cannot be read"
    ):
        find(found.folders[0], {})
    moved = read("\ndbs:\n- path: /a\n  replica:\n    url: s4://b/p\n")
    assert moved.databases == found.databases  # a reload does not begin anew what moved to another line


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ltx.ConfigFileError, match="there is no configuration"):
        read_config(tmp_path / "none.yml")
    with pytest.raises(ltx.ConfigFileError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "latin.yml").write_bytes(b"exec: \xe9\n")
    with pytest.raises(ltx.ConfigFileError, match="not UTF-8"):
        read_config(tmp_path / "latin.yml")
    assert default_path({}) == "/etc/litestream.yml"
    assert default_path({"LITESTREAM_CONFIG": "/x.yml"}) == "/x.yml"


def test_the_log_level_of_the_environment_wins(read: Read) -> None:
    text = "logging: {level: error}\n"
    assert read(text).logging.level == 40
    assert read(text, {"LOG_LEVEL": "debug"}).logging.level == 10


def test_where_replicas_lie(read: Read) -> None:
    keys = "access-key-id: K\nsecret-access-key: S\nregion: eu-west-1\nwebdav-password: W"
    found = place(read, "{url: 's3://b/p?region=x&signPayload=false', part-size: 6MiB, concurrency: 3}", keys)
    assert found.url == "s3://b/p?signPayload=false&region=eu-west-1"
    assert found.options == {"key": "K", "secret": "S", "part_size": 6 << 20, "concurrency": 3}
    found = place(read, "{type: s3, bucket: b, path: p, endpoint: 'h:9', force-path-style: false}")
    assert found.url == "s3://b?endpoint=h%3A9&forcePathStyle=false"
    assert found.options == {"root": "p/"}
    assert place(read, "{type: gs, bucket: b, path: p/q}").url == "gs://b/p/q"
    found = place(read, "{type: abs, bucket: b, path: p, account-name: n, account-key: k, sas-token: t}")
    assert (found.url, found.options) == ("abs://b/p", {"account_name": "n", "sas_token": "t"})
    found = place(read, "{type: sftp, host: 'h:23', user: u, password: p, path: /a, host-key: x}")
    assert found.url == "sftp://h:23/a"
    assert found.options == {"username": "u", "password": "p", "host_key": "x"}
    assert place(read, "{type: sftp, host: h, user: u, path: a}").url == "sftp://h/~/a"
    found = place(read, "{type: webdav, webdav-url: 'https://h/base', webdav-username: u, path: /p}", keys)
    assert (found.url, found.options) == ("webdavs://h/base/p", {"username": "u", "password": "W"})
    assert place(read, "{url: 'memory://m'}").url == "memory://m"  # what only we have


@pytest.mark.parametrize(
    ("replica", "below"),
    [
        ("{path: /r}", "/r/sub/my db.db"),
        ("{url: 'file:///r'}", "file:///r/sub/my%2520db.db"),
        ("{url: 's3://b/p?region=x'}", "s3://b/p/sub/my%20db.db?region=x"),
        ("{url: 'webdav://h'}", "webdav://h/sub/my%20db.db"),
    ],
)
def test_a_folder_gives_each_database_a_place_below(read: Read, replica: str, below: str) -> None:
    [folder] = read(f"dbs:\n- dir: /d\n  pattern: '*.db'\n  recursive: on\n  replica: {replica}\n").folders
    assert folder.replicated(Path("/d/sub/my db.db")).places[0].url == below
    assert folder.recursive
    assert not folder.watch


def test_a_folder_of_keys_on_s3(read: Read) -> None:
    for path, root in (("", "x.db/"), ("/app/", "/app/x.db/"), ("a//b", "a/b/x.db/")):
        text = f"dbs:\n- dir: /d\n  pattern: '*'\n  replica: {{type: s3, bucket: b, path: '{path}'}}\n"
        [folder] = read(text).folders
        assert folder.replicated(Path("/d/x.db")).places[0].options == {"root": root}


def test_where_the_state_of_a_folder_is_kept(read: Read) -> None:
    for setting, folder in (("meta-path", "/m/sub/.x.db-litestream"), ("meta-dir", "/m/sub/x.db-litestream")):
        text = (
            f"dbs:\n- dir: /d\n  pattern: '*'\n  recursive: true\n  {setting}: /m\n  replica: {{path: /r}}\n"
        )
        [found] = read(text).folders
        assert str(found.replicated(Path("/d/sub/x.db")).settings.folder) == folder


@pytest.mark.parametrize("pattern", ["[", "[]", "[^]", "a[b", "\\", "[a-]", "[-a]", "[b-a]", "[\\]"])
def test_patterns_that_go_refuses(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        pattern_as_regex(pattern)


def test_databases_are_called_dbs(read: Read) -> None:
    found = read("databases:\n- path: /a\n  replica: {path: r}\n")
    assert [warning.partition(": ")[2] for warning in found.warnings] == [
        "there is no setting 'databases': did you mean 'dbs'?"
    ]
