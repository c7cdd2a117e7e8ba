"""The errors are the trees that their modules draw, and cross a process border whole."""

import copy
import inspect
import pickle
import re
from types import ModuleType

import pytest

import backends.errors
import ltx.errors
import vfs.errors

ROOTS: dict[ModuleType, type[Exception]] = {
    ltx.errors: ltx.errors.LTXError,
    backends.errors: backends.errors.BackendError,
}
_LINE = re.compile(
    r"(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: \((?P<builtins>[\w, ]+)\))?(?: {2,}| (?=\w)|$)"
)

Drawn = dict[str, tuple[str | None, tuple[str, ...]]]


def drawn(module: ModuleType) -> Drawn:
    """Read the tree in a module's docstring: each class, its parent, and the builtins that it also is."""
    text = inspect.getdoc(module) or ""
    tree = text.split("\n\n")[1]
    found: Drawn = {}
    above: list[tuple[int, str]] = []
    for line in tree.splitlines():
        match = _LINE.match(line)
        assert match, line
        depth = len(match["indent"])
        while above and above[-1][0] >= depth:
            above.pop()
        builtins = tuple((match["builtins"] or "").split(", ")) if match["builtins"] else ()
        found[match["name"]] = (above[-1][1] if above else None, builtins)
        above.append((depth, match["name"]))
    return found


def defined(module: ModuleType) -> Drawn:
    """Return the same of the classes themselves."""
    found: Drawn = {}
    for name, value in vars(module).items():
        if not (
            inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == module.__name__
        ):
            continue
        ours = [base.__name__ for base in value.__bases__ if base.__module__ == module.__name__]
        others = tuple(base.__name__ for base in value.__bases__ if base.__module__ == "builtins")
        found[name] = (ours[0] if ours else None, others if ours else ())
    return found


@pytest.mark.parametrize("module", ROOTS, ids=lambda module: str(module.__name__))
def test_the_tree_is_drawn_as_it_is(module: ModuleType) -> None:
    assert drawn(module) == defined(module)


@pytest.mark.parametrize("module", ROOTS, ids=lambda module: str(module.__name__))
def test_every_error_is_public(module: ModuleType) -> None:
    assert sorted(defined(module)) == module.__all__
    package = {"ltx.errors": ltx, "backends.errors": backends}[module.__name__]
    assert set(module.__all__) <= set(package.__all__)


CLASSES = [getattr(module, name) for module in (*ROOTS, vfs.errors) for name in defined(module)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__qualname__))
def test_an_error_keeps_its_facts_when_it_is_pickled_and_copied(kind: type[Exception]) -> None:
    parameters = inspect.signature(kind.__init__).parameters.values()
    facts = {one.name: index for index, one in enumerate(parameters, 7) if one.kind is one.KEYWORD_ONLY}
    error = kind("something about TXID 7", **facts)
    assert {name: getattr(error, name) for name in facts} == facts
    assert all(one.default is not one.empty for one in parameters if one.kind is one.KEYWORD_ONLY)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)
    assert str(copy.copy(error)) == str(error)
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__qualname__))
def test_the_message_is_what_is_printed(kind: type[Exception]) -> None:
    assert str(kind("out.db exists")) == "out.db exists"


def test_a_damaged_file_says_at_which_byte() -> None:
    assert str(ltx.errors.CorruptError("wrong magic", offset=1234)) == "wrong magic (at byte 1,234)"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__qualname__))
def test_an_error_says_when_it_comes(kind: type[Exception]) -> None:
    assert kind.__doc__
