"""SQLAlchemy, pandas and Alembic, as installed, on a replica."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.pool import NullPool, Pool, QueuePool, SingletonThreadPool, StaticPool

import vfs
from tests.test_vfs.origin import Origin, origin
from tests.test_vfs.storages import hooked
from tests.test_vfs.test_processes import in_child, together
from vfs import dbapi


class Base(DeclarativeBase):
    """What the application writes."""


class Shop(Base):
    __tablename__ = "shop"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    ratings: Mapped[list["Rating"]] = relationship(back_populates="shop", order_by="Rating.id")


class Rating(Base):
    __tablename__ = "rating"
    __table_args__ = (
        sa.CheckConstraint("stars BETWEEN 1 AND 5", name="stars_are_few"),
        sa.Index("by_stars", "stars"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(sa.ForeignKey("shop.id", ondelete="CASCADE"))
    sandwich: Mapped[str]
    stars: Mapped[int]
    shop: Mapped[Shop] = relationship(back_populates="ratings")


class Kinds(Base):
    """A column of every type that SQLAlchemy has for SQLite."""

    __tablename__ = "kinds"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    small: Mapped[int | None] = mapped_column(sa.SmallInteger)
    number: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2, asdecimal=True))
    real: Mapped[float | None] = mapped_column(sa.Float)
    double: Mapped[float | None] = mapped_column(sa.Double)
    text: Mapped[str | None] = mapped_column(sa.Text(collation="NOCASE"))
    char: Mapped[str | None] = mapped_column(sa.CHAR(3), server_default="abc")
    flag: Mapped[bool | None] = mapped_column(sa.Boolean)
    day: Mapped[date | None] = mapped_column(sa.Date)
    clock: Mapped[clock_time | None] = mapped_column(sa.Time)
    moment: Mapped[datetime | None] = mapped_column(sa.DateTime)
    data: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    json: Mapped[Any] = mapped_column(sa.JSON)
    one_of: Mapped[str | None] = mapped_column(sa.Enum("a", "b", name="letters"))
    uuid: Mapped[UUID | None] = mapped_column(sa.Uuid)
    pickled: Mapped[Any] = mapped_column(sa.PickleType)
    twice: Mapped[int | None] = mapped_column(sa.Integer, sa.Computed("small * 2"))


KINDS: dict[str, Any] = {
    "id": 1 << 60, "small": 7, "number": Decimal("1234.50"), "real": 0.1, "double": 1e300, "text": "Grüße", "char": "xyz",
    "flag": True, "day": date(2026, 11, 22), "clock": clock_time(14, 52, 10), "moment": datetime(2026, 11, 22, 14, 52, 10, 5),
    "data": b"\0\xff", "json": {"a": [1, None]}, "one_of": "b", "uuid": UUID(int=7), "pickled": (1, "x"),
}  # fmt: skip


@pytest.fixture(scope="session")
def written() -> bytes:
    """A database that SQLAlchemy wrote on the standard library's SQLite."""
    writer = sa.create_engine("sqlite://")
    Base.metadata.create_all(writer)
    with Session(writer) as session:
        session.add_all([Shop(name="North", ratings=[Rating(sandwich="BLT", stars=5)]), Shop(name="South")])
        session.add(Kinds(**KINDS))
        session.commit()
        driver: Any = session.connection().connection.dbapi_connection
        database: bytes = driver.serialize()
    writer.dispose()
    return database


@pytest.fixture
def source(tmp_path: Path, written: bytes) -> Iterator[Origin]:
    """That database in two states: the second has one rating more, and the older one is changed."""
    with origin(tmp_path, f"file://{tmp_path}/replica") as made:
        plain = apsw.Connection(":memory:")
        plain.deserialize("main", written)
        with made.connection.backup("main", plain, "main") as backup:
            backup.step()
        made.connection.execute("PRAGMA journal_mode = wal")
        made.publish()
        made.commit("UPDATE rating SET stars = 1", "INSERT INTO rating VALUES (2, 2, 'Club', 3)")
        yield made


def address(source: Origin, **query: str) -> sa.URL:
    return sa.URL.create(
        "sqlite+litestream", query={"replica_url": source.url, "poll_interval": "0", **query}
    )


@pytest.fixture
def engine(source: Origin) -> Iterator[sa.Engine]:
    made = sa.create_engine(address(source))
    yield made
    made.dispose()


STARS = sa.select(Rating.stars).order_by(Rating.id)


def stars(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(STARS))


def test_a_url_names_replica_and_time(source: Origin) -> None:
    quoted = source.url.replace(":", "%3A").replace("/", "%2F")
    assert stars(sa.create_engine(f"sqlite+litestream:///?replica_url={quoted}")) == [1, 3]
    assert stars(sa.create_engine(f"sqlite+litestream:///?replica_url={quoted}&txid={1:016x}")) == [5]
    moment = source.times[1].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert stars(
        sa.create_engine(
            f"sqlite+litestream:///?replica_url={quoted}&at={moment}&timeout=5&cache_size=0&pin=true"
        )
    ) == [5]


def test_engines_of_several_times_go_side_by_side(source: Origin, engine: sa.Engine) -> None:
    past = sa.create_engine(address(source, txid=f"{1:016x}"))
    with Session(engine) as now, Session(past) as then:
        for shop, before in zip(now.scalars(sa.select(Shop)), then.scalars(sa.select(Shop)), strict=True):
            assert shop.name == before.name
            found = [rating.stars for rating in shop.ratings]
            assert found == ([1] if shop.name == "North" else [3])
            assert [rating.stars for rating in before.ratings] == ([5] if shop.name == "North" else [])


def test_words_count_from_the_moment_a_connection_opens(source: Origin) -> None:
    kept = sa.create_engine(address(source, at="now"))
    anew = sa.create_engine(address(source, at="now"), poolclass=NullPool)
    assert stars(kept) == stars(anew) == [1, 3]
    source.commit("DELETE FROM rating")
    assert (stars(kept), stars(anew)) == ([1, 3], [])
    kept.dispose()
    assert stars(kept) == []


def test_the_orm_gives_back_what_it_wrote(engine: sa.Engine) -> None:
    with Session(engine) as session:
        kinds = session.get_one(Kinds, 1 << 60)
        assert {name: getattr(kinds, name) for name in KINDS} == KINDS
        assert kinds.twice == 14
        shops = session.scalars(sa.select(Shop).options(selectinload(Shop.ratings)).order_by(Shop.name)).all()
        assert [(shop.name, [each.sandwich for each in shop.ratings]) for shop in shops] == [
            ("North", ["BLT"]), ("South", ["Club"]),
        ]  # fmt: skip
        best = (
            sa.select(Shop.name, sa.func.max(Rating.stars))
            .join(Rating)
            .group_by(Shop.name)
            .order_by(Shop.name)
        )
        assert list(map(tuple, session.execute(best))) == [("North", 1), ("South", 3)]
        assert session.scalars(sa.select(Shop.name).where(Shop.name.regexp_match("^S"))).all() == ["South"]
        assert session.scalar(sa.select(Kinds.json["a"][0].as_integer())) == 1
        assert session.scalar(sa.select(sa.func.count()).where(Kinds.moment > datetime(2026, 1, 1))) == 1
        assert session.scalar(sa.select(Kinds.real * 2)) == 0.2


def test_reflection_finds_what_it_finds_in_the_database(
    source: Origin, engine: sa.Engine, tmp_path: Path
) -> None:
    source.replica.restore(tmp_path / "copy.db")
    copy = sa.create_engine(f"sqlite:///{tmp_path}/copy.db")
    theirs, ours = sa.inspect(copy), sa.inspect(engine)
    assert ours.get_table_names() == theirs.get_table_names() == ["kinds", "rating", "shop"]
    for name in ours.get_table_names():
        for facts in (
            "get_columns", "get_pk_constraint", "get_foreign_keys", "get_indexes", "get_unique_constraints",
            "get_check_constraints",
        ):  # fmt: skip
            assert repr(getattr(ours, facts)(name)) == repr(getattr(theirs, facts)(name)), (name, facts)
    assert ours.get_view_names() == []
    copy.dispose()
    found = sa.MetaData()
    found.reflect(engine)
    assert set(found.tables) == {"kinds", "rating", "shop"}
    with engine.connect() as connection:
        assert connection.execute(sa.select(found.tables["kinds"].c.day)).scalar() == KINDS["day"]


def test_alembic_compares_models_with_the_replica(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() is None
        assert compare_metadata(context, Base.metadata) == []
        changed = sa.MetaData()
        for table in Base.metadata.tables.values():
            table.to_metadata(changed)
        changed.tables["shop"].append_column(sa.Column("city", sa.String))
        found = compare_metadata(context, changed)
        assert [(each[0], each[3].name) for each in found] == [("add_column", "city")]


def test_pandas_reads_queries_and_tables(source: Origin, engine: sa.Engine) -> None:
    frame = pd.read_sql("SELECT sandwich, stars FROM rating ORDER BY id", engine)
    assert frame.to_dict("list") == {"sandwich": ["BLT", "Club"], "stars": [1, 3]}
    table = pd.read_sql_table("kinds", engine)
    assert table["moment"][0] == pd.Timestamp(KINDS["moment"])
    assert table["number"][0] == 1234.5
    with engine.connect() as connection:
        some = pd.read_sql(
            sa.text("SELECT stars FROM rating WHERE stars > :least"), connection, params={"least": 2}
        )
        assert some["stars"].tolist() == [3]
        pieces = pd.read_sql(STARS, connection, chunksize=1)
        assert [piece["stars"].tolist() for piece in pieces] == [[1], [3]]
    with closing(dbapi.connect(source.url)) as plain:
        with pytest.warns(UserWarning, match="pandas only supports SQLAlchemy"):
            by_driver = pd.read_sql("SELECT stars FROM rating", plain)  # type: ignore[call-overload]
        assert by_driver["stars"].tolist() == [1, 3]
    with pytest.raises(DBAPIError, match="read-only: write to the database itself"):
        frame.to_sql("copy", engine)


def test_a_transaction_sees_one_state(source: Origin, engine: sa.Engine) -> None:
    with Session(engine) as session:
        assert session.scalars(STARS).all() == [1, 3]
        source.commit("DELETE FROM rating")
        assert session.scalars(STARS).all() == [1, 3]
        session.rollback()
        assert session.scalars(STARS).all() == []


def test_a_savepoint_does_not_end_the_transaction_that_it_began(source: Origin, engine: sa.Engine) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            assert session.scalars(STARS).all() == [1, 3]
        source.commit("DELETE FROM rating")
        assert session.scalars(STARS).all() == [1, 3]


def test_autocommit_follows_within_a_connection(source: Origin, engine: sa.Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.scalars(STARS).all() == [1, 3]
        source.commit("DELETE FROM rating")
        assert connection.scalars(STARS).all() == []
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE"
        assert connection.scalars(STARS).all() == []
        source.commit("INSERT INTO rating VALUES (1, 1, 'x', 1)")
        assert connection.scalars(STARS).all() == []


@pytest.mark.parametrize("pool", [QueuePool, NullPool, StaticPool, SingletonThreadPool])
@pytest.mark.parametrize("pre_ping", [False, True])
def test_a_time_set_on_a_connection_does_not_go_back_to_the_pool(
    source: Origin, pool: type[Pool], pre_ping: bool
) -> None:
    for query, expected in (({}, [1, 3]), ({"txid": f"{1:016x}"}, [5])):
        engine = sa.create_engine(address(source, **query), poolclass=pool, pool_pre_ping=pre_ping)
        for _ in range(2):
            assert stars(engine) == expected
            with engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA litestream_time = '{source.times[1].isoformat()}'")
                assert connection.scalars(STARS).all() == [5]
            assert stars(engine) == expected
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA litestream_time = 'latest'")
                connection.exec_driver_sql("ATTACH ? AS past", (vfs.uri(source.url, txid=1),))
                assert connection.exec_driver_sql("SELECT stars FROM past.rating").scalar() == 5
            assert stars(engine) == expected
            engine.dispose()


def test_an_engine_whose_time_is_pruned_says_so_and_opens_no_other_one(
    source: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(address(source, at=source.times[1].strftime("%Y-%m-%dT%H:%M:%S.%fZ")))
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA litestream_time = 'latest'")
        source.merge(1, 1, 2)
        source.prune(0, 3)
    assert "before all that is kept" in caplog.text
    with pytest.raises(OperationalError, match="before all that is kept"):
        engine.connect()


@pytest.mark.parametrize("pool", [QueuePool, NullPool])
def test_connections_after_the_first_cost_no_request(source: Origin, pool: type[Pool]) -> None:
    with origin(source.path.parent) as inner:
        inner.commit("CREATE TABLE t (n)", "INSERT INTO t VALUES (7)")
        url, hooks = hooked(inner.url)
        query = {"replica_url": url, "poll_interval": "60"}
        address = sa.URL.create("sqlite+litestream", query=query)
        engine = sa.create_engine(address, pool_pre_ping=True, poolclass=pool)
        for _ in range(5):
            with engine.connect() as connection:
                assert connection.exec_driver_sql("SELECT n FROM t").scalar() == 7
        assert [request.kind for request in hooks.log] == ["list", "get"]


def test_writes_are_refused_and_the_session_goes_on(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Shop(name="East"))
        with pytest.raises(OperationalError, match="read-only: write to the database itself"):
            session.commit()
        session.rollback()
        assert session.scalar(sa.select(sa.func.count(Shop.id))) == 2
    with pytest.raises(OperationalError, match="read-only"):
        sa.Table("other", sa.MetaData(), sa.Column("id", sa.Integer)).create(engine)


@pytest.mark.parametrize(
    ("url", "kind", "text"),
    [
        ("sqlite+litestream:///app.db", ArgumentError, "not sqlite\\+litestream:///app.db"),
        ("sqlite+litestream://", ArgumentError, "the URL of a replica is"),
        ("sqlite+litestream:///?replica_url=s3://b/a&region=x", ArgumentError, "unknown parameter 'region'"),
        (
            "sqlite+litestream:///?replica_url=memory%3A%2F%2Fx&timeout=soon",
            ArgumentError,
            "timeout must be a number of seconds, or such as 5s, not 'soon'",
        ),
        (
            "sqlite+litestream:///?replica_url=memory%3A%2F%2Fx&at=when",
            ProgrammingError,
            "not a time: 'when'",
        ),
        (
            "sqlite+litestream:///?replica_url=memory%3A%2F%2Fx",
            OperationalError,
            "no LTX files lie at memory://x",
        ),
        ("sqlite+litestream:///?replica_url=s4%3A%2F%2Fx", ProgrammingError, "no backend for s4://"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        sa.create_engine(url).connect()


def test_storage_options_go_by_connect_args(source: Origin) -> None:
    engine = sa.create_engine(address(source), connect_args={"nonsense": 1})
    with pytest.raises(ProgrammingError, match="takes no options: nonsense"):
        engine.connect()
    assert stars(sa.create_engine(address(source), connect_args={"txid": 1})) == [5]


def test_an_engine_serves_threads_and_forked_children(source: Origin, engine: sa.Engine) -> None:
    def read(_place: int) -> None:
        for _ in range(10):
            assert stars(engine) == [1, 3]

    together(4, read)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0

    def child() -> None:
        engine.dispose(close=False)  # as SQLAlchemy's documentation has it for gunicorn and its like
        assert stars(engine) == [1, 3]

    in_child(child)
    in_child(lambda: read(0))  # and who forgets that
    assert stars(engine) == [1, 3]


def test_sessions_in_threads_see_whole_states_that_never_go_back(source: Origin, engine: sa.Engine) -> None:
    """Two queries of one session agree, whatever is published between them."""
    steps, shops = sa.select(Kinds.small), sa.select(sa.func.count()).select_from(Shop)
    done = threading.Event()

    def read(place: int) -> None:
        if place == 4:
            try:
                for step in range(20):
                    source.connection.execute(f"INSERT INTO shop(name) VALUES ('{step}')")
                    source.commit("UPDATE kinds SET small = small + 1")
            finally:
                done.set()
            return
        before = reads = 0
        while not (done.is_set() and reads > 5):
            with Session(engine) as session:
                changes = (session.scalar(steps) or 0) - 7
                time.sleep(0.002)
                assert session.scalar(shops) == 2 + changes
            assert before <= changes
            before, reads = changes, reads + 1

    together(5, read)
    with Session(engine) as session:
        assert session.scalar(shops) == 22


def test_a_closed_connection_under_the_pool_is_replaced(engine: sa.Engine) -> None:
    for _ in range(2):
        with engine.connect() as connection:
            driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.close()
        with pytest.raises(ProgrammingError, match="closed database") as caught:
            stars(engine)
        assert caught.value.connection_invalidated
        assert stars(engine) == [1, 3]
    pinging = sa.create_engine(engine.url, pool_pre_ping=True)
    with pinging.connect() as connection:
        driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.close()
    assert stars(pinging) == [1, 3]
