"""``--set path=value``: changes to a suite file from the command line, before it is checked."""

from __future__ import annotations

import re
from typing import Any

from harness.registry import did_you_mean
from harness.suite.problems import KeyPath, dotted
from harness.suite.source import Source, parse_value

_PART = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*?)?((?:\[\d+\])*)")


def apply(source: Source, text: str) -> None:
    """Put one ``path=value`` into ``source``; what is wrong with it is reported there.

    The path is dotted with list indices (``experiments[0].recipe.steps``), the value is YAML
    (``5``, ``[0.1M, 0.2M]``). Mappings on the way are made where there are none; list items are not.
    """
    where = f"--set {text}"
    left, equals, right = text.partition("=")
    path = parse_path(left.strip())
    if not equals or path is None:
        source.report((), "write it as path=value, such as experiments[0].seeds=5", where=where)
        return
    holder: Any = source.data
    for depth, part in enumerate(path[:-1]):
        problem = _unreachable(holder, part, path[:depth])
        if problem:
            source.report((), problem, where=where)
            return
        if isinstance(part, str) and holder.get(part) is None:
            holder[part] = {}
        holder = holder[part]
    problem = _unreachable(holder, path[-1], path[:-1])
    if problem:
        source.report((), problem, where=where)
        return
    _forget(source, path)
    holder[path[-1]] = parse_value(right, path, where, source)


def parse_path(text: str) -> KeyPath | None:
    """``("experiments", 0, "seeds")`` for ``experiments[0].seeds``; ``None`` if it is not a path."""
    parts: list[str | int] = []
    for piece in text.split("."):
        match = re.fullmatch(r"([^\[\]\s=]+)((?:\[\d{1,6}\])*)", piece)
        if match is None:
            return None
        parts.append(match[1])
        parts.extend(int(index) for index in re.findall(r"\d+", match[2]))
    return tuple(parts)


def _unreachable(holder: Any, part: str | int, path: KeyPath) -> str:
    """Why ``part`` can't be set in ``holder``, or nothing."""
    name = dotted(path) or "the suite"
    if isinstance(part, int):
        if not isinstance(holder, list):
            return f"{name} is not a list"
        if part >= len(holder):
            return (
                f"{name} has {len(holder)} items, so the last is [{len(holder) - 1}]" if holder else f"{name} is empty"
            )
        return ""
    if isinstance(holder, dict):
        return ""
    if isinstance(holder, list):
        return f"{name} is a list; say which item, such as {name}[0].{part}"
    guess = did_you_mean(part, ["recipe", "options", "arms"]) if holder is None else ""
    return f"{name} is not a mapping{guess}"


def _forget(source: Source, path: KeyPath) -> None:
    """What was said of the old value does not concern the new one."""
    source.unusable = {at for at in source.unusable if at[: len(path)] != path}
    source.places = {at: place for at, place in source.places.items() if at[: len(path)] != path}
    prefix = dotted(path)
    source.problems = {
        problem: None
        for problem in source.problems
        if not (problem.key == prefix or problem.key.startswith((f"{prefix}.", f"{prefix}[")))
    }
