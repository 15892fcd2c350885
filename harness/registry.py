"""One small lazy registry, used for workloads, methods, meters, launchers and report sections."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from harness.types import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things, imported only when asked for.

    ``builtin`` maps each name to ``"module:attribute"``. Outside packages add theirs under the entry
    point group ``harness.<kind>s``; a running program adds one with :meth:`add`.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._paths: dict[str, str] = dict(builtin)
        self._loaded: dict[str, T] = {}
        self._outside_read = False

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator: register the decorated thing under ``name``; a name can be taken once."""

        def register(thing: T) -> T:
            if name in self.names():
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._loaded[name] = thing
            return thing

        return register

    def names(self) -> list[str]:
        """All known names, sorted; imports nothing."""
        self._read_outside()
        return sorted({*self._paths, *self._loaded})

    def get(self, name: str) -> T:
        """The thing called ``name``.

        Raises:
            UserError: no such name; the text suggests the nearest one and lists all.
        """
        self._read_outside()
        if name not in self._loaded:
            if name not in self._paths:
                raise UserError(self.unknown(name))
            module, _, attribute = self._paths[name].partition(":")
            self._loaded[name] = getattr(importlib.import_module(module), attribute)
        return self._loaded[name]

    def unknown(self, name: str) -> str:
        """The text of the error for a name that is not registered."""
        return f"unknown {self.kind} {name!r}{did_you_mean(name, self.names())}; known: {', '.join(self.names())}"

    def items(self) -> Iterator[tuple[str, T]]:
        """Every name with its thing, all imported."""
        for name in self.names():
            yield name, self.get(name)

    def _read_outside(self) -> None:
        if self._outside_read:
            return
        self._outside_read = True
        for point in entry_points(group=f"harness.{self.kind}s"):
            self._paths.setdefault(point.name, point.value)


def did_you_mean(word: str, known: list[str] | Any) -> str:
    """``", did you mean 'x'?"`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""
