"""A YAML file as plain values that remember their line. Everything PyYAML would let pass in silence is said.

Refused: duplicate keys, aliases (they are how a small file becomes a huge one), tags, dates, and the
numbers that YAML 1.1 reads otherwise than people do (``1:30`` is 90, ``010`` is 8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.suite.problems import KeyPath, Problem, SuiteError, dotted

MAX_BYTES = 1_000_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: ``file:line`` or a ``--set``, and how, if it is a scalar."""

    where: str
    text: str | None = None


@dataclass(slots=True)
class Source:
    """Plain values of a file, the place of each, and the problems found on the way."""

    name: str
    data: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: dict[Problem, None] = field(default_factory=dict)  # a set that keeps its order
    unusable: set[KeyPath] = field(default_factory=set)  # reported already: say no more about these

    def report(
        self, path: KeyPath, what: str, *, unusable: bool = False, where: str | None = None, of_key: bool = False
    ) -> None:
        """Note a problem, unless the value there or one above it is known to be unusable.

        ``of_key``: the problem is the key's, so the value at the place itself does not matter.
        """
        if any(path[:length] in self.unusable for length in range(len(path) + (0 if of_key else 1))):
            return
        if unusable:
            self.unusable.add(path)
        self.problems[Problem(where or self.place(path).where, dotted(path), what)] = None

    def place(self, path: KeyPath) -> Place:
        """Place of a value, or of the nearest thing around it that exists."""
        if path in self.places:
            return self.places[path]
        for length in range(len(path) - 1, 0, -1):
            if path[:length] in self.places:
                return Place(self.places[path[:length]].where)
        return Place(self.name)

    def value(self, path: KeyPath) -> Any:
        """The value at a path, ``None`` where there is none."""
        value = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def raise_problems(self) -> None:
        """Raise :class:`SuiteError` if anything was found."""
        if self.problems:
            raise SuiteError(sorted(self.problems, key=_order))


def _order(problem: Problem) -> tuple[bool, int]:
    line = re.search(r":(\d+)$", problem.where)
    return problem.where.startswith("--set"), int(line[1]) if line else 0


def read_file(path: Path) -> Source:
    """Read a suite file from disk.

    Raises:
        SuiteError: it is missing, a directory, unreadable, too big, not UTF-8 or not YAML.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SuiteError([Problem(name, "", _missing(path))]) from None
    except IsADirectoryError:
        raise SuiteError([Problem(name, "", f"is a folder, not a suite file{_listed(path)}")]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SuiteError([Problem(name, "", f"can't be read: {reason}")]) from None
    return read_text(raw, name)


def _missing(path: Path) -> str:
    return f"no such file{_listed(path.parent)}"


def _listed(folder: Path) -> str:
    suites = sorted(str(found) for found in folder.glob("*.yaml")) if folder.is_dir() else []
    return f"; there are: {', '.join(suites)}" if suites else ""


def read_text(raw: bytes, name: str) -> Source:
    """Turn the bytes of a file into a :class:`Source`.

    Raises:
        SuiteError: what is there is not one YAML mapping. Smaller mistakes are kept in ``problems``.
    """
    if len(raw) > MAX_BYTES:
        raise SuiteError([Problem(name, "", f"is bigger than {MAX_BYTES:,} bytes; a suite file has a few thousand")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SuiteError([Problem(f"{name}:{line}", "", "is not UTF-8 text; save the file as UTF-8")]) from None
    source = Source(name)
    source.places[()] = Place(name)
    node = _compose(text, source)
    if node is None:
        raise SuiteError([Problem(name, "", "is empty; a suite needs at least name, workload, arms, experiments")])
    if not isinstance(node, yaml.MappingNode):
        raise SuiteError(
            [Problem(f"{name}:{_line(node)}", "", "must be a mapping of keys such as 'workload: language'")]
        )
    source.data = _construct(node, (), source)
    return source


def parse_value(text: str, path: KeyPath, where: str, source: Source) -> Any:
    """The value of ``--set path=value``, read as YAML; problems go to ``source`` under ``where``."""
    inner = Source(where)
    try:
        node = _compose(text, inner)
    except SuiteError as error:
        source.report(path, error.details[0].what, unusable=True, where=where)
        return None
    value = None if node is None else _construct(node, path, inner)
    for problem in inner.problems:
        source.problems[Problem(where, dotted(path), problem.what)] = None
    source.unusable |= inner.unusable
    source.places.update({at: Place(where, place.text) for at, place in inner.places.items()})
    source.places[path] = Place(where, node.value if isinstance(node, yaml.ScalarNode) else None)
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, used up to nodes only; aliases are reported and read as empty."""

    source: Source

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.get_event()  # type: ignore[no-untyped-call]
            mark = event.start_mark
            self.source.report(
                (), f"alias '*{event.anchor}' is not allowed in a suite; write the value out",
                where=f"{self.source.name}:{mark.line + 1}",
            )  # fmt: skip
            return yaml.ScalarNode(f"{_TAG}alias", "", mark, event.end_mark)
        return super().compose_node(parent, index)


def _compose(text: str, source: Source) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        loader.source = source
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source.name}:{mark.line + 1}" if mark else source.name
        raise SuiteError([Problem(where, "", _syntax(error))]) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        what = f"character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise SuiteError([Problem(f"{source.name}:{line}", "", what)]) from None
    except RecursionError:
        raise SuiteError([Problem(source.name, "", "is nested too deeply")]) from None


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "unknown"
    if "'\\t'" in problem:
        return "a tab is used for indentation; YAML wants spaces"
    if "expected a single document" in (error.context or ""):
        return "has a second document ('---'); a suite is one document"
    return f"is not valid YAML: {problem}" + (f" ({error.context})" if error.context and error.problem else "")


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _construct(node: yaml.Node, path: KeyPath, source: Source) -> Any:
    try:
        return _value(node, path, source)
    except RecursionError:
        raise SuiteError([Problem(source.name, "", "is nested too deeply")]) from None


def _value(node: yaml.Node, path: KeyPath, source: Source) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, path, source)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        items = []
        for index, item in enumerate(node.value):
            _remember(source, (*path, index), item, item)
            items.append(_value(item, (*path, index), source))
        return items
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, source)
    source.report(path, f"tag {_short(node.tag)} is not used in suite files; take it away", unusable=True)
    return None


def _mapping(node: yaml.MappingNode, path: KeyPath, source: Source) -> dict[str, Any]:
    values: dict[str, Any] = {}
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        here = f"{source.name}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == f"{_TAG}alias":
            source.report(path, "a key must be plain text", where=here)
            continue
        key = key_node.value
        if key_node.tag == f"{_TAG}merge":
            source.report((*path, key), "merge keys are not allowed in a suite; write the keys out", where=here)
            continue
        if key_node.tag != f"{_TAG}str":
            as_read = key_node.tag.removeprefix(_TAG)
            source.report((*path, key), f'YAML reads this key as {as_read}; put it in quotes: "{key}"', where=here)
            continue
        if key in values:
            source.report((*path, key), f"appears twice, first in line {first[key]}", where=here, of_key=True)
            continue
        first[key] = _line(key_node)
        _remember(source, (*path, key), key_node, value_node)
        values[key] = _value(value_node, (*path, key), source)
    return values


def _remember(source: Source, path: KeyPath, at: yaml.Node, value: yaml.Node) -> None:
    text = value.value if isinstance(value, yaml.ScalarNode) else None
    source.places[path] = Place(f"{source.name}:{_line(at)}", text)


def _scalar(node: yaml.ScalarNode, path: KeyPath, source: Source) -> Any:
    tag, text = node.tag.removeprefix(_TAG), str(node.value)
    reader: _Reader = _SCALARS.get(tag, _foreign)
    value, problem = reader(text, tag)
    if problem:
        source.report(path, problem, unusable=True)
    elif tag == "alias":
        source.unusable.add(path)
    return value


def _foreign(text: str, tag: str) -> tuple[Any, str]:
    return None, f"tag {_short(tag)} is not used in suite files; take it away"


def _short(tag: str) -> str:
    return repr("!!" + tag.removeprefix(_TAG) if not tag.startswith("!") else tag)


def _string(text: str, tag: str) -> tuple[Any, str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, "holds half of a surrogate pair, which is not text"
    return text, ""


def _int(text: str, tag: str) -> tuple[Any, str]:
    if ":" in text:
        return None, f"YAML reads {text} as a number to base 60; write 90s, 1m30s or 1h30m for a duration"
    digits = text.replace("_", "")
    if re.fullmatch(r"[-+]?0[0-7]+", digits):
        return None, f"YAML reads {text} as the octal number {int(digits, 8)}; write it without the leading 0"
    try:
        number = int(digits, 0)
    except ValueError:
        return None, f"{text[:20]!r} is not a number"
    if abs(number) >= 2**63:
        return None, "is too big a number"
    return number, ""


def _float(text: str, tag: str) -> tuple[Any, str]:
    if ":" in text:
        return None, f"YAML reads {text} as a number to base 60; write 90s, 1m30s or 1h30m for a duration"
    try:
        number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        number = math.nan
    return (number, "") if math.isfinite(number) else (None, f"{text} is not a finite number")


_Reader = Callable[[str, str], tuple[Any, str]]
_SCALARS: dict[str, _Reader] = {
    "null": lambda text, tag: (None, ""),
    "alias": lambda text, tag: (None, ""),
    "bool": lambda text, tag: (text.lower() in ("yes", "true", "on"), ""),
    "int": _int,
    "float": _float,
    "str": _string,
    "value": _string,
    "timestamp": lambda text, tag: (None, f'YAML reads {text} as a date; put it in quotes: "{text}"'),
}
