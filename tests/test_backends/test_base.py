"""What every backend gets from the base: keys, counters, pieces of what is put."""

import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Stats, cut
from backends.errors import ConfigError
from backends.keys import check_key, check_keys, check_prefix, is_key
from backends.testing import BAD_KEYS, UNUSUAL_KEYS

TEXT = st.text(st.characters() | st.sampled_from("/.\\ -~\x00\x7f%?#"), max_size=40)


class TestKeys:
    @given(TEXT)
    def test_a_key_is_harmless_on_every_storage(self, text: str) -> None:
        if not is_key(text):
            with pytest.raises(ConfigError) as caught:
                check_key(text)
            assert caught.value.key == text
            return
        assert check_key(text) == text
        assert text.isprintable()
        assert len(text.encode()) <= 900
        for part in text.split("/"):
            assert part not in ("", ".", "..")
            assert part.strip(" ").rstrip(".") == part
            assert 0 < len(part.encode()) <= 255
            assert not part.startswith(".tmp-")
            assert "\\" not in part

    @given(TEXT)
    def test_a_key_can_be_listed_by_any_beginning(self, text: str) -> None:
        if is_key(text):
            for size in range(len(text) + 1):
                if not text[:size].rpartition("/")[2].startswith(".tmp-"):
                    assert check_prefix(text[:size]) == text[:size]

    @given(TEXT, st.sampled_from(["k", "a/k", "0/\u65e5"]))
    def test_what_is_no_prefix_begins_no_key(self, text: str, rest: str) -> None:
        try:
            check_prefix(text)
        except ConfigError:
            assert not is_key(text + rest)

    def test_examples(self) -> None:
        assert all(map(is_key, UNUSUAL_KEYS))
        assert not any(map(is_key, BAD_KEYS))

    @pytest.mark.parametrize(
        ("key", "says"),
        [
            ("a//b", "an empty, '.' or '..' component"),
            ("a\nb", "cannot be printed"),
            ("a\\b", "backslash"),
            ("a. ", "begins or ends with a blank"),
            (".tmp-x", "write aside"),
            ("x" * 256, "more than 255 bytes"),
            ("x/" * 500 + "x", "more than 900 bytes"),
        ],
    )
    def test_the_reason_is_given(self, key: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            check_key(key)

    def test_several(self) -> None:
        assert check_keys(iter(["a", "b"])) == ["a", "b"]
        with pytest.raises(ConfigError, match=r"write \['abc'\]"):
            check_keys("abc")


class TestStats:
    def test_counting(self) -> None:
        stats = Stats()
        stats.count("get", received=10)
        stats.count("put", sent=5)
        stats.count("get")
        stats.count(received=1)
        assert stats.requests == {"get": 2, "put": 1}
        assert stats.requests["head"] == 0
        assert (stats.received, stats.sent) == (11, 5)
        assert repr(stats) == "<Stats 2 get, 1 put, 11 bytes received, 5 sent>"

    def test_what_was_read_does_not_change(self) -> None:
        stats = Stats()
        before = stats.requests
        stats.count("get")
        assert before == {}

    def test_from_many_threads(self) -> None:
        stats = Stats()

        def work() -> None:
            for _ in range(2000):
                stats.count("get", received=3, sent=2)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (stats.requests["get"], stats.received, stats.sent) == (16_000, 48_000, 32_000)


class Dribble(io.BytesIO):
    """A file that gives at most three bytes at once, as a pipe may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3 if size is None or size < 0 else min(3, size))


class TestCut:
    @given(st.binary(max_size=50), st.integers(1, 20))
    def test_pieces(self, data: bytes, size: int) -> None:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), Dribble(data)):
            if isinstance(source, io.BytesIO):
                source.seek(len(data) // 2)
            pieces = [bytes(piece) for piece in cut(source, size)]
            assert b"".join(pieces) == data
            assert all(len(piece) == size for piece in pieces[:-1])
            assert all(pieces)

    def test_wider_memory(self) -> None:
        data = memoryview(bytes(range(16))).cast("I")
        assert b"".join(cut(data, 5)) == bytes(range(16))
