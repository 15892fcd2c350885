"""Plain values through JSON and back unchanged: tuples stay tuples, and keys keep their type."""

from __future__ import annotations

from typing import Any


def pack(value: Any) -> Any:
    """``value`` (numbers, texts, ``None``, lists, tuples, dictionaries) in what JSON has of its own."""
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(each)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(each) for each in value]}
    if isinstance(value, list):
        return [pack(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no plain value")


def unpack(packed: Any) -> Any:
    """What :func:`pack` was given."""
    if isinstance(packed, list):
        return [unpack(each) for each in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tuple":
        return tuple(unpack(each) for each in content)
    return {unpack(key): unpack(each) for key, each in content}
