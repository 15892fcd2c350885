"""Mistakes in a suite file: where each one is, what is wrong, what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harness.registry import did_you_mean
from harness.types import UserError

KeyPath = tuple[str | int, ...]
"""Way to a value through mappings and lists, e.g. ``("experiments", 0, "seeds")``."""

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}")


def dotted(path: KeyPath) -> str:
    """``experiments[0].seeds`` for ``("experiments", 0, "seeds")``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``where`` is ``file:line``, or the ``--set`` that brought it in."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class SuiteError(UserError):
    """All mistakes of a suite at once, in the order of the file: ``problems`` as lines, ``details`` in parts."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.details = tuple(problems)
        self.problems = tuple(str(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """``unknown size '0.1N', did you mean '0.1M'? known: 0.1M, 0.2M``."""
    names = list(known)
    guess = did_you_mean(name, names)
    return f"unknown {kind} {name!r}{guess or ';'} known: {', '.join(names) or 'none'}"


def describe(value: Any, text: str | None = None) -> str:
    """A value as a reader of the file sees it; ``text`` is how it is written there."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{text or str(value).lower()} (YAML reads it as {str(value).lower()})"
    if isinstance(value, int | float):
        return f"the number {text or value}"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return "a mapping" if isinstance(value, dict) else "a list"


def explain(error: Any, value: Any, text: str | None, known_keys: Iterable[str] = ()) -> str:
    """One error of pydantic (strict, from JSON) in the words of the file.

    Args:
        error: an item of ``ValidationError.errors()``.
        value: what the file has at that place, ``None`` if nothing.
        text: the scalar as it is written there.
        known_keys: keys that would have been right, for an unknown one.
    """
    kind: str = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    message: str = error["msg"][:1].lower() + error["msg"][1:]
    if kind == "missing":
        message = "is missing"
    elif kind == "extra_forbidden":
        message = unknown("key", str(error["loc"][-1]), known_keys)
    elif kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        wrong = isinstance(value, str)
        message = (
            unknown("value", value, known) if wrong else f"must be {context['expected']}, not {describe(value, text)}"
        )
    elif kind == "value_error":
        message = str(context["error"])
    elif bound := _bound(kind, context):
        message = f"must be {bound}, not {text or json.dumps(value)}"
    elif wanted := _wanted(kind):
        message = f"must be {wanted}, not {describe(value, text)}{_remedy(kind, value, text)}"
    return message


def _bound(kind: str, context: dict[str, Any]) -> str:
    words = {
        "greater_than": "above",
        "greater_than_equal": "at least",
        "less_than": "below",
        "less_than_equal": "at most",
    }
    if kind not in words:
        return ""
    key = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}[kind]
    return f"{words[kind]} {context[key]:g}"


def _wanted(kind: str) -> str:
    return {
        "string_type": "text",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "tuple_type": "a list",
        "list_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
        "none_required": "empty",
    }.get(kind, "")


def _remedy(kind: str, value: Any, text: str | None) -> str:
    """The way out of the traps of YAML 1.1."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'; put it in quotes: "{text or value}"'
    if kind in ("int_type", "float_type") and isinstance(value, str):
        if _EXPONENT.fullmatch(value):
            return f"; YAML takes {value} for text, write {_plain(value)}"
        if re.fullmatch(r"[-+]?\d+(\.\d+)?", value):
            return "; take the quotes away"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in ("true", "false"):
        return "; take the quotes away"
    return ""


def _plain(value: str) -> str:
    """``1e3`` in a form that YAML 1.1 reads as a number: ``1000``, ``0.0003`` or ``1.0e+30``."""
    number = Decimal(value)
    plain = f"{number:f}"
    if len(plain) <= 16:
        return plain
    mantissa, _, exponent = f"{number.normalize():e}".partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
