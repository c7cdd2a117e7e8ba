"""The contract of many objects: what is listed, in which order, how soon, and what is deleted."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from backends.base import Backend
from backends.errors import ConfigError, NotFoundError
from backends.testing.support import BAD_PREFIXES, Needs, list_keys

__all__ = ["ListingContract"]


_ORDER_MATTERS = ("x/a-1", "x/a.1", "x/a/1", "x/a/2/-", "x/a0/1", "x/a1", "x/aa", "x0", "y-/z", "y/1", "y0")
"""By bytes and by folders these are ordered differently."""


class ListingContract(Needs):
    """Many objects."""

    def test_list_prefixes(self, backend: Backend) -> None:
        """A prefix is plain text; `0/` is not `00/`."""
        keys = ["0/a", "00/a", "0/b/c", "a", "ab", "b/0"]
        assert list(backend.list()) == []
        for key in keys:
            backend.put(key, key.encode())
        for prefix in ("", "0", "0/", "00", "0/b", "0/b/", "a", "ab", "abc", "b/", "c", "0/a/"):
            assert list_keys(backend, prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix
        assert {info.key: info.size for info in backend.list()} == {key: len(key) for key in keys}

    def test_list_order(self, backend: Backend) -> None:
        """Listings go by code point, which is the order of UTF-8 bytes, not of folders nor of UTF-16."""
        keys = ["a/1", "a-1", "a.1", "a0", "a b", "A", "Z", "a/0/1", "a/0-1", "é", "z", "\uff5a", "😀", "a/ü"]
        for key in keys:
            backend.put(key, b"x")
        assert list_keys(backend) == sorted(keys) == sorted(keys, key=str.encode)

    def test_start_after(self, backend: Backend) -> None:
        """A listing goes on after any key, existing or not, and neither leaves out nor repeats."""
        for key in _ORDER_MATTERS:
            backend.put(key, b"x")
        others = [
            "x",
            "x/",
            "x/a",
            "x/a/",
            "x/a-",
            "x/a/1/",
            "x/a/2",
            "x/a0",
            "x/a0/",
            "w",
            "y",
            "y-",
            "z",
            "~~",
        ]
        for start in (*_ORDER_MATTERS, *others):
            for prefix in ("", "x/", "x/a", "y"):
                wanted = sorted(key for key in _ORDER_MATTERS if key.startswith(prefix) and key > start)
                assert list_keys(backend, prefix, start) == wanted, (prefix, start)

    def test_many_keys(self, backend: Backend) -> None:
        """1,200 keys are listed whole and in order, from anywhere, and deleted together."""
        keys = [f"many/{number:016x}-{number:016x}.ltx" for number in range(1200)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: backend.put(key, key.encode()), reversed(keys)))
        backend.put("other", b"stays")
        assert list_keys(backend, "many/") == keys
        assert list_keys(backend, "many/", keys[1100]) == keys[1101:]
        assert list_keys(backend, "many/", keys[-1]) == []
        self._check_pages(backend, keys)
        assert self.raw_get(backend, keys[700]) == keys[700].encode()
        backend.delete(info.key for info in backend.list("many/"))
        assert list_keys(backend) == ["other"]

    def _check_pages(self, backend: Backend, keys: list[str]) -> None:
        """A page holds the first keys, as a listing has them, and says whether they are all."""
        places = [("many/", ""), ("many/", keys[1100]), ("", keys[1199]), ("none/", "")]
        pages = backend.list_pages(places)
        assert [backend.list_page(prefix, start_after=after) for prefix, after in places] == list(pages)
        first, *others = ([info.key for info in page.objects] for page in pages)
        assert first == keys[: len(first)]
        assert pages[0].is_last == (len(first) == len(keys))
        assert [page.is_last for page in pages[1:]] == [True, True, True]
        assert others == [keys[1101:], ["other"], []]
        assert pages[1].objects == tuple(backend.list("many/", start_after=keys[1100]))

    def test_info(self, backend: Backend) -> None:
        """`head` and a listing tell the same; times are aware."""
        backend.put("k", b"12345")
        head, (listed,) = backend.head("k"), backend.list()
        assert (
            (head.key, head.size, head.version)
            == (listed.key, listed.size, listed.version)
            == ("k", 5, head.version)
        )
        for modified in (head.modified, listed.modified):
            assert modified is None or abs((datetime.now(UTC) - modified).total_seconds()) < 3600

    def test_second_instance_sees_at_once(self, backend: Backend) -> None:
        """What one writes or deletes another reads and lists at once, also after it saw the old state."""
        with self.reopen(backend) as other:
            assert list_keys(other) == []
            with pytest.raises(NotFoundError):
                other.head("f/1")
            for number in range(1, 4):
                backend.put(f"f/{number}", b"x" * number)
                assert other.get(f"f/{number}") == b"x" * number
                assert other.head(f"f/{number}").size == number
                assert len(list_keys(other, "f/")) == len(list_keys(backend)) == number
            backend.delete(["f/2"])
            assert list_keys(other, "f/") == ["f/1", "f/3"]
            with pytest.raises(NotFoundError):
                other.get("f/2")

    def test_bad_prefixes(self, backend: Backend) -> None:
        """A prefix with which no key begins is refused: it may have been meant to lead out of the root."""
        for prefix in BAD_PREFIXES:
            with pytest.raises(ConfigError):
                list(backend.list(prefix))

    def test_delete(self, backend: Backend) -> None:
        """Deleting is idempotent, takes any number of keys, and spares the neighbours."""
        for key in ("d/1", "d/2", "d/3", "d/30"):
            backend.put(key, b"x")
        backend.delete([])
        backend.delete(["d/1"])
        backend.delete(["d/1", "missing", "not/there/at/all", "d"])
        assert list_keys(backend) == ["d/2", "d/3", "d/30"], "a folder is no object"
        backend.delete(key for key in ("d/1", "d/2", "d/3", "d/3"))
        assert list_keys(backend) == ["d/30"]

    def test_delete_refuses_before_it_deletes(self, backend: Backend) -> None:
        """One bad key, or a string in place of a list, deletes nothing."""
        backend.put("a", b"x")
        for keys in (["a", "../a"], "a"):
            with pytest.raises(ConfigError):
                backend.delete(keys)
        assert list_keys(backend) == ["a"]
