"""A YAML file as plain values that know their line, after what it takes from the environment was put in.

Scalars stay as they are written: whether `5` is a number or a name is for the setting to say, as it is in Go.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import yaml

__all__ = ["Document", "Path", "expanded", "mark_of", "parse", "problem"]

Path = tuple[str | int, ...]
"""Where a value is: names of settings, and places in lists from 0."""

_VARIABLE = re.compile(r"\$(?:\{([*#$@!?0-9-])\}|\{([^}]*)\}|(\{)|([*#$@!?0-9-])|([A-Za-z_][A-Za-z0-9_]*))")
_COMMENT = re.compile(r"(?:.*\s)?#")
_DEEPEST = 20

_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "map", "null", "seq", "str")
)
_QUOTE_IT = "put the value in single quotes"
_TAGGED = f"a value that begins with '!' is a tag to YAML, which there is none of here: {_QUOTE_IT}"
_ANCHORED = f"a value that begins with '&' is a name to YAML, and nothing else: {_QUOTE_IT}"
_PROBLEMS = {
    "found undefined alias": f"a value that begins with '*' is another one's name to YAML: {_QUOTE_IT}",
    "found character '\\t'": "tabs are not allowed for indentation: use spaces",
    "found character": f"a value begins with a character that it cannot begin with: {_QUOTE_IT}",
    "found undefined tag handle": _TAGGED,
    "found unknown escape character": f"within double quotes a backslash means something else: {_QUOTE_IT}",
}
_CONTEXTS = {
    "while scanning a quoted scalar": "a quote is opened here and not closed: close it",
    "while parsing a flow ": "a '{' or '[' is opened here and not closed, or something in it is wrong: close it",
}
_INDENTATION = "check the indentation: what belongs together begins in the same column"
_MISPLACED = {
    "expected <block end>": _INDENTATION,
    "mapping values are not allowed": f"a ':' is where none can be; {_INDENTATION}, and a value with ': ' stands in single quotes",
}
_EXPECTED = re.compile(r"expected (?:<document start>|',' or '[\]}]'|[a-z ,]+)")


@dataclass(slots=True)
class Document:
    """The values of a file.

    Attributes:
        root: Mappings, lists, and texts; what is empty in the file is left out.
        lines: The line of each value, from 1.
        repeated: Settings that stand twice in one place; the last one holds.
    """

    root: object = None
    lines: dict[Path, int] = field(default_factory=dict)
    repeated: list[Path] = field(default_factory=list)

    def line(self, path: Path) -> int | None:
        """Return the line of a value, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def expanded(
    text: str, variables: Callable[[str], str | None]
) -> tuple[str, Sequence[int], Mapping[str, int]]:
    """Replace `$NAME` and `${NAME}` as Go does, anywhere in the text: what is not set becomes nothing.

    Args:
        text: The file.
        variables: Gives the value of a variable, or None.

    Returns:
        The text; for each of its lines the one that it had before, from 1; names that are not set, with their lines.
    """
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    pieces: list[str] = []
    lines = [1]
    missing: dict[str, int] = {}

    def add(piece: str, first: int, moving: bool) -> None:
        pieces.append(piece)
        lines.extend(first + 1 + number if moving else first for number in range(piece.count("\n")))

    end = 0
    for match in _VARIABLE.finditer(text):
        add(text[end : match.start()], bisect_right(starts, end), moving=True)
        line = bisect_right(starts, match.start())
        name = next((group for group in match.groups() if group), "")
        value = variables(name) if name and not match[3] else ""
        if value is None and not _COMMENT.match(text[starts[line - 1] : match.start()]):
            missing.setdefault(name, line)
        add(value or "", line, moving=False)
        end = match.end()
    add(text[end:], bisect_right(starts, end), moving=True)
    return "".join(pieces), lines, missing


def problem(error: yaml.MarkedYAMLError) -> str:
    """Return what is wrong, and nothing of what stands there: it may be a secret.

    Args:
        error: What YAML says, which shows a piece of the line.
    """
    text = error.problem or ""
    if text in (_TAGGED, _ANCHORED):
        return text
    for start, meaning in (_PROBLEMS | _MISPLACED).items():
        if text.startswith(start):
            return meaning
    for start, meaning in _CONTEXTS.items():
        if (error.context or "").startswith(start):
            return meaning
    if found := _EXPECTED.match(text):
        return f"{found[0].strip(' ,')} here"
    return text if re.fullmatch("[a-z ]+", text) else "look at this line, and put its value in single quotes"


def mark_of(error: yaml.MarkedYAMLError) -> yaml.Mark | None:
    """Return where to look: for what is never closed that is where it is opened, not the end of the file."""
    if (error.context or "").startswith(tuple(_CONTEXTS)):
        return error.context_mark or error.problem_mark
    return error.problem_mark or error.context_mark


class _Loader(yaml.SafeLoader):
    """Refuses what would be lost without a word."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Take the next value."""
        event: yaml.NodeEvent = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, *_TAGS):
            raise yaml.MarkedYAMLError(problem=_TAGGED, problem_mark=event.start_mark)  # type: ignore[arg-type]
        if isinstance(event, yaml.ScalarEvent) and event.anchor and not event.value and event.style is None:
            raise yaml.MarkedYAMLError(problem=_ANCHORED, problem_mark=event.start_mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)


def parse(text: str, lines: Sequence[int]) -> Document:
    """Read the values of a YAML file.

    Args:
        text: The file, after expansion.
        lines: The line in the file of each line of the text.

    Raises:
        yaml.YAMLError: It is no YAML.
        ValueError: It is nested too deeply, or refers to itself.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        document = Document()
        if node is not None:
            document.root = _value(node, (), document, loader, lines)
        return document
    finally:
        loader.dispose()


def _value(
    node: yaml.Node, path: Path, document: Document, loader: yaml.SafeLoader, lines: Sequence[int]
) -> object:
    document.lines[path] = lines[min(node.start_mark.line, len(lines) - 1)]
    if len(path) > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        found: dict[str, object] = {}
        for key, child in node.value:
            here = (*path, str(key.value))
            if str(key.value) in found:
                document.repeated.append(here)
            value = _value(child, here, document, loader, lines)
            document.lines[here] = lines[min(key.start_mark.line, len(lines) - 1)]
            if value is None:
                found.pop(str(key.value), None)
            else:
                found[str(key.value)] = value
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(child, (*path, number), document, loader, lines) for number, child in enumerate(node.value)
        ]
    return None if node.tag == "tag:yaml.org,2002:null" else node.value
