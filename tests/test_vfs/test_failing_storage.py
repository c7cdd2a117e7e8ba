"""A storage that fails by seed: an answer is right, or there is an error with a type; the next one is right again."""

import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import vfs
from backends import BackendError, NotFoundError, ObjectInfo, UnavailableError
from ltx import LTXError
from tests.test_vfs.origin import Origin, as_read, content, origin, rows, seen
from tests.test_vfs.storages import Hooks, Request, hooked

SEEDS = range(12)


class Failing:
    """Does to one request in so many what storages do on bad days."""

    def __init__(self, hooks: Hooks, seed: int) -> None:
        self.random = random.Random(seed)
        self.hooks = hooks
        self.listed: list[list[ObjectInfo]] = []
        self.failures = 0

    def begin(self) -> None:
        self.hooks.before, self.hooks.listing, self.hooks.answer = self.before, self.listing, self.answer

    def is_hit(self, chance: float) -> bool:
        hit = self.random.random() < chance
        self.failures += hit
        return hit

    def before(self, request: Request) -> None:
        if request.kind == "get" and self.is_hit(0.05):
            raise NotFoundError(f"no object {request.key}", key=request.key)
        if self.is_hit(0.02):
            raise UnavailableError("try later", reached=False)

    def listing(self, infos: list[ObjectInfo]) -> list[ObjectInfo]:
        self.listed.append(infos)
        if self.is_hit(0.1):
            return self.random.choice(self.listed)
        return self.random.sample(infos, len(infos) - 1) if self.is_hit(0.05) else infos

    def answer(self, request: Request, data: bytes) -> bytes:
        if not self.is_hit(0.05):
            return data
        return self.random.choice([b"", data[:-1], data[: len(data) // 2], bytes(len(data)), data + b"x"])


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path, page_size=512) as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n, b)",
            "INSERT INTO t SELECT value, 0, randomblob(300) FROM generate_series(1, 60)",
        )
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_no_answer_is_wrong_and_the_next_one_is_right(seed: int, source: Origin) -> None:
    url, hooks = hooked(source.url)
    readers = [vfs.connect(url, poll_interval=0, cache_size=size) for size in (0, 30_000, 1 << 20)]
    failing = Failing(hooks, seed)
    answers = errors = 0
    for step in range(12):
        source.commit(f"UPDATE t SET n = {step}, b = randomblob(200) WHERE id % 7 = {step % 7}")
        if step % 5 == 4:
            source.merge(1, source.newest - 3, source.newest)
        failing.begin()
        for db in readers:
            try:
                db.execute(f"PRAGMA cache_size = {failing.random.choice([1, 500])}")
                with db:
                    rows(db, "SELECT * FROM t")
                    found, txid = content(db), seen(db)
            except (LTXError, BackendError) as error:
                errors += 1
                assert str(error)  # noqa: PT017 - a message, whatever it is
            else:
                answers += 1
                assert found == as_read(source.states[txid]), f"seed {seed}, TXID {txid}"
        hooks.clear()
    assert failing.failures > 10
    assert answers > 3
    for db in readers:
        assert content(db) == as_read(source.states[source.newest])
        assert seen(db) == source.newest
        assert isinstance(db, apsw.Connection)
