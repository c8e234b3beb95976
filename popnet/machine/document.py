"""A YAML text as plain data, with the place of every key and value: the project's one door to PyYAML.

The scalars follow YAML 1.2, where 1.1 surprises: only `true` and `false` are booleans (`no` is a text), only
plain decimals are numbers (`010`, `1:30`, `1.5`, `0-1` and `512M` are texts), there are no dates, no merge
keys and no tags. Nothing raises: what is wrong with a text is in its `problems`.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from popnet.machine.problems import Path, Problem

_VALUES_MAX: Final = 100_000
"""Values a document may hold, aliases counted as often as they are used: 255 kernels need under a tenth."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a text, both counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """What a text holds.

    Attributes:
        data: dicts, lists, str, int, bool and None; None too if the text is empty or broken.
        keys, values: the mark of each.
        problems: what is wrong with the text as YAML, with its place.
    """

    data: Any = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    problems: list[tuple[Mark, Problem]] = field(default_factory=list)

    def mark(self, problem: Problem) -> Mark:
        """Where *problem* is: at its key or value, or at the nearest that encloses it."""
        path = problem.path
        if problem.at_key and path in self.keys:
            return self.keys[path]
        while path not in self.values and path:
            path = path[:-1]
        return self.values.get(path, Mark(1, 1))


class _Loader(yaml.SafeLoader):
    """Composes nodes only; resolves plain scalars as the module's header says."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


_NULL, _BOOL, _INT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "str"))
_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^(?:0|-?[1-9][0-9]{0,18})$"), list("-0123456789"))


def read(text: str) -> Document:
    """The one document of *text*."""
    document = Document()
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.data = _Conversion(document).value(node, (), ())
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax_problem(error))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        document.problems.append(
            (mark, Problem((), f"character {chr(error.character)!r} is not allowed in YAML"))
        )
    except RecursionError:
        document.problems.append((Mark(1, 1), Problem((), "nested too deeply")))
    return document


def _syntax_problem(error: yaml.MarkedYAMLError) -> tuple[Mark, Problem]:
    place = error.problem_mark or error.context_mark
    mark = Mark(place.line + 1, place.column + 1) if place else Mark(1, 1)
    text = f"not valid YAML: {error.problem or error.context}"
    if error.problem and "'\\t'" in error.problem:
        text += "; indent with spaces, not tabs"
    elif error.context and error.context_mark:
        text += f" ({error.context}, line {error.context_mark.line + 1})"
    return mark, Problem((), text)


class _Conversion:
    """One walk over the nodes of a text."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def value(self, node: yaml.Node, path: Path, inside: tuple[yaml.Node, ...]) -> Any:
        self.count += 1
        self.document.values.setdefault(path, _mark(node))
        if self.count > _VALUES_MAX or node in inside:
            if self.count <= _VALUES_MAX + 1:
                self._problem(node, path, "this alias makes the file endless or far too large")
            return None
        match node:
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                return self._mapping(node, path, (*inside, node))
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                return [
                    self.value(item, (*path, str(index)), (*inside, node))
                    for index, item in enumerate(node.value)
                ]
            case yaml.ScalarNode():
                return self._scalar(node, path)
            case _:
                self._problem(node, path, f"tag {node.tag!r} is not allowed here")
                return None

    def _mapping(self, node: yaml.MappingNode, path: Path, inside: tuple[yaml.Node, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self._problem(key_node, path, "a key must be a word")
                continue
            key = str(key_node.value)
            if key == "<<":
                self._problem(
                    key_node, path, "merge keys (<<) are not allowed; alias a whole mapping instead"
                )
                continue
            here = (*path, key)
            if key in result:
                first = self.document.keys[here].line
                self._problem(key_node, here, f"duplicate key; it is also on line {first}")
                continue
            self.document.keys[here] = _mark(key_node)
            result[key] = self.value(value_node, here, inside)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> str | int | bool | None:
        text = str(node.value)
        if node.tag == _NULL:
            return None
        if node.tag == _STR:
            return text
        if node.tag == _BOOL and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if node.tag == _INT and text.lstrip("-").isdecimal():
            return int(text)
        self._problem(node, path, f"tag {node.tag!r} is not allowed here")
        return None

    def _problem(self, node: yaml.Node, path: Path, text: str) -> None:
        self.document.problems.append((_mark(node), Problem(path, text)))


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
