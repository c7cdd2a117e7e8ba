"""A damaged replica gives the right answer from other files, or an error that names file and place; no wrong rows."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import apsw
import pytest

import vfs
from backends import NotFoundError, open_backend
from backends.memory import _stores
from ltx import CorruptError, LTXFile, NotReachableError, UnsupportedVersionError
from ltx.format.index import index_range
from ltx.replica.apply import FileError
from tests.test_vfs.origin import Origin, as_read, content, number, origin
from tests.test_vfs.storages import hooked
from vfs import index_search, open_files
from vfs.source import DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, Source, open_source
from vfs.view import View

SHIFT = len(bytes(512)) - len(as_read(bytes(512)))
"""By which `as_read` makes a database shorter, all of it in page 1."""

_names = itertools.count(1)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    """Small files: a first state, three increments, of which two lie in level 1 too; growth and a shrink."""
    with origin(tmp_path, page_size=512, setup="PRAGMA auto_vacuum=full") as made:
        made.commit(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
            "INSERT INTO t SELECT value, 'text ' || value FROM generate_series(1, 90)",
        )
        made.commit("UPDATE t SET a = 'x' WHERE id % 20 = 1")
        made.commit("INSERT INTO t VALUES (1000, hex(randomblob(300)))", "DELETE FROM t WHERE id < 40")
        made.commit("UPDATE t SET a = 'y' WHERE id = 80")
        made.merge(1, 3, 4)
        yield made


class Copy:
    """A copy of a replica, in which one file at a time is replaced."""

    def __init__(self, source: Origin) -> None:
        self.files = {file.key: source.replica.backend.get(file.key) for file in source.replica.files()}
        self.name = ""
        self.wanted = as_read(source.states[source.newest])

    def write(self, changed: Mapping[str, bytes | None]) -> str:
        """Make a copy under a name of its own, with some files changed or left out, and return its URL."""
        _stores.pop(self.name, None)
        self.name = f"damaged-{next(_names)}"
        url = f"memory://{self.name}"
        backend = open_backend(url)
        for key, data in {**self.files, **changed}.items():
            if data is not None:
                backend.put(key, data)
        return url

    def answer(self, changed: Mapping[str, bytes | None], *, at: str | None = None) -> str:
        """Open a copy and hold all that it answers against the database; return the error's text if there is one."""
        url = self.write(changed)
        try:
            db = vfs.connect(url, at=at)
            assert content(db) == self.wanted, "wrong rows"
        except (CorruptError, UnsupportedVersionError) as error:
            return str(error)
        return ""


def flips(data: bytes, places: Iterable[int], seed: int) -> Iterator[tuple[int, bytes]]:
    """Yield copies of a file with one bit flipped."""
    chosen = random.Random(seed)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << chosen.randrange(8)
        yield place, bytes(damaged)


@pytest.mark.parametrize("place", range(5))
def test_every_byte_of_a_small_file_is_covered(place: int, source: Origin) -> None:
    """Of files that other files stand in for, the answer is right; of the others there is an error with a name."""
    copy = Copy(source)
    key = sorted(copy.files)[place]
    right = 0
    for _, damaged in flips(copy.files[key], range(len(copy.files[key])), seed=place):
        error = copy.answer({key: damaged})
        assert not error or key in error
        right += not error
    others = len(copy.files[key]) - right
    assert (others == 0) if place >= 2 else (right < 10), (
        "flips that LZ4 unpacks to the same page are right too"
    )


def test_a_time_is_never_taken_from_a_damaged_header(source: Origin) -> None:
    """Bytes 32 to 39 of a file decide what a time means; the next file decides too."""
    copy = Copy(source)
    copy.wanted = as_read(source.states[3])
    at = source.times[3].isoformat()
    assert not copy.answer({}, at=at)
    for key in copy.files:
        for _, damaged in flips(copy.files[key], 8 * [*range(32, 40)], seed=5):
            try:
                error = copy.answer({key: damaged}, at=at)
            except NotReachableError as refused:  # by the oldest file's header all was later
                error = f"{key}: {refused}"
            assert not error or key in error


def cut_short(data: bytes) -> Iterator[bytes]:
    for size in (0, 1, 23, 24, 99, 100, 131, len(data) // 2, len(data) - 17, len(data) - 16, len(data) - 1):
        yield data[:size]


def test_a_file_that_was_cut_short_is_passed_over_or_named(source: Origin) -> None:
    copy = Copy(source)
    for place, (key, data) in enumerate(sorted(copy.files.items())):
        for damaged in cut_short(data):
            error = copy.answer({key: damaged})
            assert bool(error) == (place < 2)
            assert not error or key in error


def test_a_file_in_the_place_of_another_is_passed_over_or_named(source: Origin) -> None:
    copy = Copy(source)
    for place, key in enumerate(sorted(copy.files)):
        for other in copy.files:
            if other != key:
                error = copy.answer({key: copy.files[other]})
                assert bool(error) == (place < 2)
                assert not error or ("other TXIDs than the name" in error and key in error)


def test_what_is_no_ltx_file_is_passed_over_or_named(source: Origin) -> None:
    copy = Copy(source)
    for place, key in enumerate(sorted(copy.files)):
        for junk in (b"\0" * 5000, b"<html>503</html>" * 100, random.Random(1).randbytes(3000)):
            error = copy.answer({key: junk})
            assert bool(error) == (place < 2)
            assert not error or key in error


def test_several_damaged_files_are_all_passed_over(source: Origin) -> None:
    source.snapshot(4)
    source.merge(2, 3, 4)
    copy = Copy(source)
    damaged = [key for key in copy.files if key.startswith(("ltx/1", "ltx/2", "ltx/9"))]
    assert len(damaged) == 3
    assert not copy.answer({key: copy.files[key][:-3] for key in damaged})


def test_any_number_of_damaged_files_is_passed_over(source: Origin) -> None:
    for each in range(8):
        source.commit(f"UPDATE t SET a = {each} WHERE id = 80")
        source.merge(1, source.newest, source.newest)
    copy = Copy(source)
    damaged = [key for key in copy.files if key.startswith("ltx/1")]
    assert len(damaged) == 9
    assert not copy.answer({key: copy.files[key][:-3] for key in damaged})


def test_a_file_damaged_under_a_reader_is_planned_around_to_the_same_txid(source: Origin) -> None:
    """The index was read when the file was whole; its frames are not, when they are needed."""
    db = vfs.connect(source.url, cache_size=0)
    db.execute("PRAGMA cache_size = 1; BEGIN")
    assert number(db, "SELECT count(*) FROM t") == 52
    source.snapshot(4)
    for file in source.replica.files():
        if file.level != 9:
            data = source.replica.backend.get(file.key)
            start, _ = index_range(data, file.size)
            source.replica.backend.put(file.key, data[:100] + bytes(start - 100) + data[start:])
    source.replica.backend.put("ltx/0/nonsense", b"")
    assert content(db) == as_read(source.states[4])
    db.execute("COMMIT")


def test_a_page_that_is_damaged_everywhere_is_named_with_its_place(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, cache_size=0)
    db.execute("PRAGMA cache_size = 1")
    assert number(db, "SELECT count(*) FROM t") == 52
    hooks.answer = lambda request, data: bytes(len(data)) if request.start >= 100 else data
    with pytest.raises(
        CorruptError, match=r"ltx/\d/.* is damaged, and no other files hold the same: .*at byte"
    ) as caught:
        content(db)
    assert caught.value.offset is not None
    assert caught.value.offset >= 100
    assert caught.value.extendedresult == apsw.SQLITE_CORRUPT  # type: ignore[attr-defined]
    hooks.clear()
    assert content(db) == as_read(source.states[4])


def test_an_answer_that_is_cut_short_is_no_page(source: Origin) -> None:
    url, hooks = hooked(source.url)
    db = vfs.connect(url, cache_size=0)
    db.execute("PRAGMA cache_size = 1")
    hooks.answer = lambda request, data: data[: len(data) // 2]
    with pytest.raises((CorruptError, NotFoundError)):
        content(db)
    hooks.clear()
    assert content(db) == as_read(source.states[4])


class TestFilesThatAreNotReadWhole:
    """The limit is lowered, so that small files stand for the big ones that are not verified when they are opened."""

    @pytest.fixture(params=["read", "searched"])
    def big(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Origin]:
        """A first state and increments in which pages of all of them are the newest; their indexes too are big."""
        with origin(tmp_path, page_size=512) as made:
            made.commit(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
                "INSERT INTO t SELECT value, hex(randomblob(90)) FROM generate_series(1, 30)",
            )
            made.commit("UPDATE t SET a = hex(randomblob(80)) WHERE id % 9 = 1")
            made.commit("INSERT INTO t VALUES (1000, hex(randomblob(600)))", "DELETE FROM t WHERE id > 27")
            made.commit("UPDATE t SET a = hex(randomblob(91)) WHERE id % 20 = 1")
            monkeypatch.setattr(open_files, "WHOLE_SIZE", 0)
            monkeypatch.setattr(open_files, "TAIL_SIZE", 64)
            if request.param == "searched":
                monkeypatch.setattr(open_files, "INDEX_SIZE", 0)
                monkeypatch.setattr(index_search, "DENSE_BLOCK_SIZE", 60)
                monkeypatch.setattr(index_search, "BLOCK_SIZE", 60)
            yield made

    @pytest.mark.parametrize("place", range(4))
    def test_no_flipped_bit_of_header_index_or_trailer_changes_a_page(self, place: int, big: Origin) -> None:
        """A page under a wrong number in an index would hide, and the page before it would be served."""
        copy = Copy(big)
        file = big.replica.files()[place]
        data = copy.files[file.key]
        start, end = index_range(data, file.size)
        outcomes: Counter[str] = Counter()
        for spot in (*range(100), *range(start - 6, file.size)):
            for bit in (
                range(8) if 12 <= spot < 16 else (0, 1, 3, 6) if start <= spot < end - 8 else (spot % 8,)
            ):
                damaged = bytearray(data)
                damaged[spot] ^= 1 << bit
                outcomes[pages_of(copy, file, bytes(damaged))] += 1
        assert outcomes["wrong"] == 0, outcomes
        assert outcomes["right"] > 50, "much of a header does not matter"
        assert outcomes["refused"] > 70, outcomes

    def test_a_flipped_bit_in_a_page_stays_in_that_page(self, big: Origin) -> None:
        """The format has no checksum of one page: what LZ4 does not notice is in what the page says, nowhere else."""
        copy = Copy(big)
        for file in big.replica.files():
            data = copy.files[file.key]
            start, _ = index_range(data, file.size)
            places = random.Random(7).sample(range(100, start - 6), 60)
            for _, damaged in flips(data, places, seed=7):
                assert pages_of(copy, file, damaged, most_wrong=1) in ("right", "refused")


def pages_of(copy: Copy, file: LTXFile, damaged: bytes, most_wrong: int = 0) -> str:
    """Ask for each page of a copy by itself: say whether all are right, some refused, or too many wrong."""
    kept = open_source(copy.write({file.key: damaged}), DEFAULT_CACHE_SIZE, DEFAULT_TIMEOUT_S, {})
    try:
        view = kept.latest(3600, bool)
    except (CorruptError, UnsupportedVersionError) as error:
        return "refused" if ".ltx" in str(error) else "wrong"
    outcomes = Counter(page_of(kept, view, pgno, copy, file) for pgno in range(1, view.commit + 1))
    if outcomes["wrong"] > most_wrong:
        return "wrong"
    return "refused" if outcomes["refused"] else "right"


def page_of(kept: Source, view: View, pgno: int, copy: Copy, file: LTXFile) -> str:
    try:
        page = kept.page(view, pgno, 0, bool)
    except FileError as error:
        return "refused" if error.file.key == file.key else "wrong"
    end = pgno * view.page_size - SHIFT
    wanted = copy.wanted[:end] if pgno == 1 else copy.wanted[end - view.page_size : end]
    return "right" if (as_read(page) if pgno == 1 else page) == wanted else "wrong"
