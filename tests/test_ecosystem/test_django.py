"""Django on a replica: queries, aggregates, its own functions, and what it must not do."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import django
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

import ltx
import vfs
from tests.test_vfs.origin import origin
from tests.test_vfs.storages import hooked
from tests.test_vfs.test_processes import in_child, together

ROOT = Path(__file__).parents[2]

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USE_TZ=True,
    TIME_ZONE="Europe/Berlin",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.db import connections, models, transaction  # noqa: E402
from django.db.models import Avg, Count, F, Q, StdDev, Sum, Variance, functions  # noqa: E402
from django.db.utils import NotSupportedError, OperationalError, ProgrammingError  # noqa: E402


class Shop(models.Model):
    name: Any = models.CharField(max_length=40, unique=True)
    details: Any = models.JSONField(default=dict)

    ratings: Any

    class Meta:
        app_label = "shop"


class Rating(models.Model):
    shop: Any = models.ForeignKey(Shop, on_delete=models.CASCADE, related_name="ratings")
    sandwich: Any = models.TextField()
    stars: Any = models.PositiveSmallIntegerField()
    price: Any = models.DecimalField(max_digits=6, decimal_places=2)
    given: Any = models.DateTimeField()
    day: Any = models.DateField()
    took: Any = models.DurationField()
    good: Any = models.BooleanField()
    data: Any = models.BinaryField()
    key: Any = models.UUIDField()

    class Meta:
        app_label = "shop"
        indexes: ClassVar = [models.Index(fields=["stars"], name="by_stars")]


MORNING = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def rating(shop: Shop, sandwich: str, stars: int, days: int) -> Rating:
    given = MORNING + timedelta(days=days)
    return Rating(
        shop=shop, sandwich=sandwich, stars=stars, price=Decimal("4.50") + stars, given=given, day=given.date(),
        took=timedelta(minutes=stars), good=stars > 3, data=b"\0\xff", key=UUID(int=stars),
    )  # fmt: skip


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[str]:
    """The URL of what Django wrote, in two states; it is the database `replica`, and `past` is its first state."""
    url = f"file://{tmp_path}/replica"
    default = dict(connections.databases["default"], NAME=str(tmp_path / "app.db"))
    other = dict(default, ENGINE="vfs.django", NAME=url, OPTIONS={"poll_interval": 0})
    known = dict(connections.databases)
    connections.databases.update(
        default=default, replica=other, past=dict(other, OPTIONS={"txid": 1}, TEST=dict(other["TEST"]))
    )
    reconnect()
    with connections["default"].schema_editor() as editor:
        for model in (Shop, Rating):
            editor.create_model(model)
    shops = [Shop.objects.create(name="North", details={"open": [8, 17]}), Shop.objects.create(name="South")]
    Rating.objects.bulk_create([rating(shops[0], "BLT", 5, 0), rating(shops[0], "Club", 2, 1)])
    publish(tmp_path, url)
    Rating.objects.filter(sandwich="BLT").update(stars=1)
    Rating.objects.bulk_create([rating(shops[1], "Reuben", 4, 2)])
    publish(tmp_path, url)
    yield url
    reconnect()  # while these are still known
    connections.databases.clear()
    connections.databases.update(known)
    reconnect()


def reconnect() -> None:
    for alias in ("default", "replica", "past"):
        if alias in connections:
            connections[alias].close()
            del connections[alias]


def publish(folder: Path, url: str) -> None:
    connections["default"].close()  # two SQLite libraries in one process take each other's locks
    with ltx.Replica.open(url) as place:
        assert ltx.replicate_once(folder / "app.db", place)


def stars(alias: str) -> list[int]:
    return list(Rating.objects.using(alias).order_by("id").values_list("stars", flat=True))


@pytest.mark.usefixtures("replica")
def test_models_come_back_as_they_were_written() -> None:
    found = Rating.objects.using("replica").select_related("shop").get(sandwich="Club")
    expected = rating(found.shop, "Club", 2, 1)
    for field in Rating._meta.fields[1:]:
        assert getattr(found, field.name) == getattr(expected, field.name), field.name
    assert found.shop.details == {"open": [8, 17]}
    assert [type(getattr(found, name)) for name in ("price", "given", "day", "took", "good", "key")] == [
        Decimal, datetime, date, timedelta, bool, UUID,
    ]  # fmt: skip
    shops = Shop.objects.using("replica").prefetch_related("ratings").order_by("name")
    assert [(each.name, each.ratings.count()) for each in shops] == [("North", 2), ("South", 1)]
    assert [each.sandwich for each in Rating.objects.using("replica").order_by("-id").iterator(chunk_size=1)] == [
        "Reuben", "Club", "BLT",
    ]  # fmt: skip


@pytest.mark.usefixtures("replica")
def test_two_times_are_two_databases() -> None:
    assert stars("replica") == [1, 2, 4]
    assert stars("past") == [5, 2]


@pytest.mark.usefixtures("replica")
def test_every_query_answers_as_it_does_on_the_database_itself() -> None:
    """Aggregates and the functions that Django gives SQLite: dates, regular expressions, statistics, hashes."""
    queries: list[Any] = [
        lambda every: every.aggregate(Avg("stars"), Sum("price"), Count("id"), StdDev("stars"), Variance("stars")),
        lambda every: list(every.values("shop__name").annotate(n=Count("id"), best=Sum("stars")).order_by("n")),
        lambda every: list(every.filter(sandwich__regex="^[BC]l?").values_list("id")),
        lambda every: list(every.filter(sandwich__iregex="club|reuben").values_list("id")),
        lambda every: list(every.filter(sandwich__icontains="u").values_list("id")),
        lambda every: list(every.filter(given__year=2026, given__week_day=1, given__hour=9).values_list("id")),
        lambda every: list(every.filter(given__date=date(2026, 11, 22)).values_list("id")),
        lambda every: list(every.filter(day__iso_year=2026, day__quarter=4).values_list("id")),
        lambda every: list(every.datetimes("given", "day")),
        lambda every: list(every.dates("day", "month")),
        lambda every: list(every.annotate(hour=functions.TruncHour("given")).values_list("hour")),
        lambda every: list(every.annotate(later=F("given") + F("took")).values_list("later")),
        lambda every: list(every.annotate(since=F("given") - MORNING).values_list("since")),
        lambda every: list(every.filter(took__gt=timedelta(minutes=3)).values_list("id")),
        lambda every: list(every.annotate(hash=functions.SHA256("sandwich")).values_list("hash")),
        lambda every: list(every.annotate(pad=functions.LPad("sandwich", 9, models.Value("-"))).values_list("pad")),
        lambda every: list(every.annotate(root=functions.Sqrt("stars")).values_list("root")),
        lambda every: list(every.filter(Q(good=True) | Q(price__lt=Decimal(6))).values_list("id", "price")),
        lambda every: list(every.filter(shop__details__open__0=8).values_list("id")),
        lambda every: list(every.annotate(rank=models.Window(functions.Rank(), order_by="stars")).values_list("rank")),
        lambda every: list(every.filter(id__in=range(2000)).values_list("id")),
        lambda every: list(every.union(every.filter(stars__gt=3)).values_list("id")),
        lambda every: every.filter(sandwich="100%").exists(),
    ]  # fmt: skip
    for number, query in enumerate(queries):
        assert query(Rating.objects.using("replica")) == query(Rating.objects.using("default")), number


@pytest.mark.usefixtures("replica")
def test_raw_sql_takes_both_kinds_of_parameters() -> None:
    for alias in ("replica", "default"):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT sandwich, given FROM shop_rating WHERE stars > %s", [3])
            assert cursor.fetchall() == [("Reuben", datetime(2026, 11, 23, 8, 30))]
            cursor.execute(
                "SELECT count(*) FROM shop_rating WHERE sandwich LIKE 'B%%' AND stars > %(least)s",
                {"least": 0},
            )
            assert cursor.fetchone() == (1,)
            cursor.execute("SELECT '%'")
            assert cursor.fetchone() == ("%",)
    [first] = Rating.objects.using("replica").raw("SELECT * FROM shop_rating WHERE id = %s", [1])
    assert first.sandwich == "BLT"


@pytest.mark.usefixtures("replica")
def test_introspection_finds_what_it_finds_in_the_database() -> None:
    found = []
    for alias in ("replica", "default"):
        connection = connections[alias]
        with connection.cursor() as cursor:
            names = connection.introspection.table_names(cursor)
            found.append(
                [
                    (name, connection.introspection.get_table_description(cursor, name),
                     connection.introspection.get_constraints(cursor, name))
                    for name in names
                ]
            )  # fmt: skip
    assert found[0] == found[1]
    assert [name for name, *_ in found[0]] == ["shop_rating", "shop_shop"]


def test_each_query_sees_the_newest_and_an_atomic_block_one_state(replica: str, tmp_path: Path) -> None:
    assert stars("replica") == [1, 2, 4]
    with transaction.atomic("replica"):
        assert stars("replica") == [1, 2, 4]
        Rating.objects.filter(sandwich="Club").delete()
        publish(tmp_path, replica)
        with transaction.atomic("replica"):
            assert stars("replica") == [1, 2, 4]
    assert stars("replica") == [1, 4]
    with connections["replica"].cursor() as cursor:
        cursor.execute("PRAGMA litestream_time = 'now'")
        cursor.execute("ATTACH %s AS past", [vfs.uri(replica, txid=1)])
        cursor.execute("SELECT count(*) FROM past.shop_rating")
        assert cursor.fetchone() == (2,)


@pytest.mark.usefixtures("replica")
def test_writes_and_migrations_are_refused_and_queries_go_on() -> None:
    with pytest.raises(OperationalError, match="read-only: write to the database itself"):
        Shop(name="East").save(using="replica")
    with pytest.raises(OperationalError, match="read-only"), transaction.atomic("replica"):
        Rating.objects.using("replica").filter(stars=1).delete()
    with (
        pytest.raises(NotSupportedError, match="'replica' is a replica and cannot be migrated"),
        connections["replica"].schema_editor() as editor,
    ):
        editor.create_model(Shop)
    assert stars("replica") == [1, 2, 4]


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"NAME": ""}, ImproperlyConfigured, "is the URL of a replica, such as s3://bucket/app"),
        ({"NAME": "memory://nobody"}, OperationalError, "no LTX files lie at memory://nobody"),
        ({"OPTIONS": {"at": "when"}}, ProgrammingError, "not a time: 'when'"),
        ({"OPTIONS": {"nonsense": 1}}, ProgrammingError, "takes no options: nonsense"),
    ],
)
@pytest.mark.usefixtures("replica")
def test_wrong_settings_say_what_is_wrong(changes: dict[str, Any], kind: type[Exception], text: str) -> None:
    connections.databases["past"].update(changes)
    with pytest.raises(kind, match=text):
        stars("past")


def test_the_next_request_costs_nothing_while_the_last_look_is_fresh(tmp_path: Path) -> None:
    with origin(tmp_path) as source:
        source.commit("CREATE TABLE shop_shop (id INTEGER PRIMARY KEY, name, details)")
        url, hooks = hooked(source.url)
        replica = {**connections.databases["default"], "ENGINE": "vfs.django", "NAME": url}
        connections.databases["watched"] = {**replica, "OPTIONS": {"poll_interval": 60}}
        try:
            assert not Shop.objects.using("watched").exists()
            before = len(hooks.log)
            for _ in range(3):
                connections["watched"].close()
                assert not Shop.objects.using("watched").exists()
            assert len(hooks.log) == before
        finally:
            del connections["watched"], connections.databases["watched"]


@pytest.mark.usefixtures("replica")
def test_threads_have_connections_of_their_own_and_children_too() -> None:
    def read(_place: int) -> None:
        try:
            for _ in range(5):
                assert stars("replica") == [1, 2, 4]
        finally:
            connections["replica"].close()

    assert stars("replica") == [1, 2, 4]
    together(4, read)
    in_child(lambda: read(0))


PROJECT = {
    "manage.py": """
        import os, sys
        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        from django.core.management import execute_from_command_line
        execute_from_command_line(sys.argv)
    """,
    "settings.py": """
        SECRET_KEY = "x"
        INSTALLED_APPS = ["django.contrib.contenttypes", "shop"]
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        USE_TZ = True
        DATABASES = {
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "app.db"},
            "replica": {"ENGINE": "vfs.django", "NAME": "replica", "TEST": {"MIRROR": "default"}},
            "first": {"ENGINE": "vfs.django", "NAME": "replica", "OPTIONS": {"txid": 1}, "TEST": {"MIRROR": "default"}},
        }
    """,
    "shop/__init__.py": "",
    "shop/models.py": """
        from django.db import models

        class Shop(models.Model):
            name = models.CharField(max_length=40)
    """,
    "shop/tests.py": """
        from django.db import connections
        from django.test import TestCase, TransactionTestCase
        from shop.models import Shop

        class InATransaction(TestCase):
            databases = {"default", "replica"}

            def test_the_replica_shows_what_the_test_wrote(self):
                Shop.objects.create(name="North")
                self.assertEqual(Shop.objects.using("replica").get().name, "North")

            def test_the_next_test_begins_empty(self):
                self.assertFalse(Shop.objects.using("replica").exists())

        class Committed(TransactionTestCase):
            databases = {"default", "replica"}

            def test_the_replica_shows_what_the_test_wrote(self):
                Shop.objects.create(name="South")
                with self.assertNumQueries(1, using="replica"):
                    self.assertEqual(Shop.objects.using("replica").get().name, "South")
    """,
}


def test_a_project_migrates_tests_and_looks_at_its_replica(tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))

    def manage(*words: str, fails: bool = False, said: str = "") -> str:
        found = subprocess.run(
            [sys.executable, "-W", "error", "manage.py", *words],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, input=said, capture_output=True, text=True,
        )  # fmt: skip
        assert (found.returncode != 0) == fails, found.stdout + found.stderr
        return found.stdout + found.stderr

    manage("makemigrations", "shop", "-v0")
    manage("migrate", "-v0")
    with ltx.Replica.open(str(tmp_path / "replica")) as place:
        ltx.replicate_once(tmp_path / "app.db", place)
    assert "Ran 3 tests" in manage("test")
    manage("check", "--database", "replica")
    assert "No migrations to apply" in manage("migrate", "--database", "replica")
    assert "class ShopShop(models.Model):" in manage("inspectdb", "--database", "replica")
    assert "shop_shop" in manage("dbshell", "--database", "replica", said="SELECT name FROM sqlite_schema")
    assert f"{1:016x}" in manage("dbshell", "--database", "first", "--", "PRAGMA litestream_txid")
    models_py = tmp_path / "shop/models.py"
    models_py.write_text(models_py.read_text() + "    city = models.CharField(max_length=40, default='')\n")
    manage("makemigrations", "shop", "-v0")
    assert "'replica' is a replica and cannot be migrated" in manage(
        "migrate", "--database", "replica", fails=True
    )
    settings_py = tmp_path / "settings.py"
    settings_py.write_text(settings_py.read_text().replace(', "TEST": {"MIRROR": "default"}', ""))
    assert "write 'TEST': {'MIRROR': 'default'}" in manage("test", "--noinput", fails=True)


@pytest.mark.usefixtures("replica")
def test_hydration_is_an_option(tmp_path: Path) -> None:
    options = {"hydrate": True, "hydration_path": tmp_path / "pages"}
    connections.databases["replica"] = {**connections.databases["replica"], "OPTIONS": options}
    with connections["replica"].cursor() as cursor:
        cursor.execute("PRAGMA litestream_hydration_file")
        assert cursor.fetchall() == [(str(tmp_path / "pages"),)]
    assert stars("replica") == [1, 2, 4]
