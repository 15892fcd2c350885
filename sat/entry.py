"""How units come in: what a never-trained unit starts from."""

from __future__ import annotations

from collections.abc import Sequence

from sat.config import SATConfig
from sat.parts import Part


def install(
    part: Part, active: tuple[int, ...], before: Sequence[int], fresh: Sequence[int], config: SATConfig
) -> Sequence[int]:
    """Make ``active`` the active set of ``part``, with its never-trained units ``fresh`` as the entry rule says.

    Returns:
        Those of ``fresh`` that can't start without changing the function and therefore need a gate that rises
        from 0.

    Raises:
        ValueError: no trained layer can be copied.
    """
    if config.mode == "freeze" or not before:  # the first units start as they were initialised
        part.switch(active)
        return ()
    if config.entry in {"copy", "interleaved"}:
        for unit in fresh:
            fitting = [source for source in before if part.fits(source, unit)]
            if not fitting:
                raise ValueError(f"entry {config.entry!r}: no trained layer of {part.name} fits layer {unit}")
            part.copy_unit(_source(unit, fitting, config.entry), unit)
    zero = fresh if config.entry == "zero" else ()
    part.switch(active, zero if part.enters_at_zero else ())
    return () if part.enters_at_zero else zero


def _source(unit: int, trained: Sequence[int], entry: str) -> int:
    """The trained layer that layer ``unit`` starts as a copy of."""
    if entry == "copy":  # stacking (G_stack, arXiv 2405.15319): the trained block repeats
        return trained[unit % len(trained)]
    return max((layer for layer in trained if layer < unit), default=trained[0])
