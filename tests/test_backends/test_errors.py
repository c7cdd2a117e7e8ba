"""The tree of errors: as drawn, whole after pickling, and caught by the names Python has for them."""

import builtins
import copy
import inspect
import pickle
import re

import pytest

from backends import errors
from backends.errors import BackendError, NotFoundError, UnavailableError

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}


def drawn() -> dict[str, tuple[str, str | None]]:
    """Read the drawing: each class, the class it hangs on, and Python's own in brackets."""
    found: dict[str, tuple[str, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([│├└─ ]*)(\w+Error)\b(?: \((\w+)\))?", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            found[match[2]] = (above[depth - 1] if depth else "Exception", match[3])
    return found


def test_the_drawing_is_the_tree() -> None:
    actual = {}
    for name, kind in CLASSES.items():
        first, *more = kind.__bases__
        actual[name] = (first.__name__, more[0].__name__ if more else None)
    assert drawn() == actual
    assert sorted(errors.__all__) == sorted(CLASSES)


@pytest.mark.parametrize("kind", CLASSES.values())
def test_an_error_survives_pickling(kind: type[BackendError]) -> None:
    error = kind("what happened: 'k'", key="k")
    if isinstance(error, UnavailableError):
        error.retry_after_s, error.reached = 2.5, False
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (str(again), vars(again)) == (str(error), vars(error))
        assert again.args == ("what happened: 'k'",)


@pytest.mark.parametrize("kind", CLASSES.values())
def test_one_argument_is_enough(kind: type[BackendError]) -> None:
    error = kind("message")
    assert (str(error), error.key) == ("message", None)


def test_pythons_own_names_catch_them() -> None:
    with pytest.raises(FileNotFoundError):
        raise NotFoundError("gone", key="k")
    for name, (_, own) in drawn().items():
        assert own is None or issubclass(CLASSES[name], getattr(builtins, own))
