"""The helper's page cache: where pages lie in shared memory, and that what a program was told stays true."""

import os
import random
import threading

import pytest

from vfs.cache import Frame, PageKey, page_key, page_keys
from vfs.serve.arena import Arena, Place, segment_of
from vfs.serve.shared_cache import SharedCache

SIZE = 4096


def leaf(number: int) -> bytes:
    """A page that begins as the leaf of a table does, and differs from every other."""
    return b"\x0d" + random.Random(number).randbytes(SIZE - 1)


def inner(number: int) -> bytes:
    return b"\x05" + leaf(number)[1:]


def held(arena: Arena, place: Place) -> bytes:
    """Read as a client does, which maps a segment and knows nothing of keys."""
    segment = arena.segment(segment_of(place))
    assert segment is not None
    return os.pread(segment.fd, SIZE, place & 0xFFFFFFFF)


def test_pages_lie_where_it_says_and_once() -> None:
    arena = Arena(8 << 20)
    keys, pages = list(range(1, 300)), [leaf(number) for number in range(1, 300)]
    places = arena.put(keys, pages)
    assert [held(arena, place) for place in places] == pages
    assert arena.put(keys[100:250], pages[100:250]) == places[100:250]
    assert arena.beginning(keys) == places
    assert arena.beginning([1, 2, 1000, 3]) == places[:2]
    assert [arena.read(key) for key in keys] == pages
    assert arena.read(1000) is None
    assert arena.find(1000) is None
    assert 7 in arena
    assert 1000 not in arena


def test_the_oldest_go_and_what_a_client_still_holds_stays_as_it_is() -> None:
    arena = Arena(1 << 20)
    [first] = arena.put([0], [leaf(0)])
    kept = arena.segment(segment_of(first))
    assert kept is not None
    for number in range(1, 1000):
        arena.put([number], [leaf(number)])
    assert 0 not in arena
    assert arena.segment(segment_of(first)) is None
    assert os.pread(kept.fd, SIZE, first & 0xFFFFFFFF) == leaf(0)
    newest = [number for number in range(1000) if number in arena]
    assert newest == list(range(newest[0], 1000)), "in the order in which they came"
    assert (1 << 20) // 2 <= len(newest) * SIZE <= 1 << 20
    number = kept.fd
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_more_at_once_than_there_is_room_for_is_still_told_whole() -> None:
    arena = Arena(0)
    pages = [leaf(number) for number in range(500)]
    places = arena.put(list(range(500)), pages)
    assert len(set(places)) == 500
    for number in range(500):
        if number in arena:
            assert held(arena, places[number]) == pages[number]


def test_pages_of_another_size_lie_apart() -> None:
    arena = Arena(4 << 20)
    arena.put(["small"], [bytes(512)])
    arena.put(["large", "larger"], [leaf(1) * 2, leaf(2) * 2])
    assert arena.read("small") == bytes(512)
    assert arena.read("larger") == leaf(2) * 2


def test_threads_that_put_at_once_agree() -> None:
    arena = Arena(16 << 20)
    told: list[list[Place]] = []

    def put() -> None:
        told.append([place for number in range(200) for place in arena.put([number], [leaf(number)])])

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(places == told[0] for places in told)
    assert [held(arena, place) for place in told[0]] == [leaf(number) for number in range(200)]


def test_what_is_read_is_shared_at_once_and_interior_pages_stay_here_too() -> None:
    cache = SharedCache(8 << 20)
    keys = page_keys(3, range(2, 12))
    pages = [leaf(number) for number in range(9)] + [inner(9)]
    cache.put_new(dict(zip(keys, pages, strict=True)))
    assert [cache.arena.read(key) for key in keys] == pages
    assert cache.size < 2 * SIZE, "leaves lie in the shared memory alone"
    assert cache.beginning(3, range(2, 12)) == pages
    assert cache.lacking(3, range(1, 14)) == [1, 12, 13]
    for number in range(100, 3000):
        cache.put([(page_key(3, number), leaf(number))])
    assert keys[0] not in cache
    assert cache.get(keys[-1]) == inner(9), "every query needs it"


def test_frames_wait_here_until_they_are_decoded() -> None:
    cache = SharedCache(8 << 20)
    key = page_key(1, 5)
    frame = Frame(b"not decoded yet")
    cache.put_new({key: frame})
    assert cache.get(key) is frame
    assert key not in cache.arena
    assert cache.lacking(1, [5]) == []
    cache.replace(key, leaf(5))
    assert cache.get(key) == cache.arena.read(key) == leaf(5)
    cache.put_new({key: Frame(b"another thread was late")})
    assert cache.get(key) == leaf(5)


def test_memory_is_bounded() -> None:
    cache = SharedCache(4 << 20)
    for number in range(20_000):
        cache.put_new({PageKey(number): Frame(bytes(1000)) if number % 2 else leaf(number)})
    here = cache.size + sum(segment.size for segment in cache.arena._segments.values())
    assert here <= 4 << 20
