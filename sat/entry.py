"""How units come in: what a never-trained unit starts from.

``split`` keeps the function where a layer adds to the residual stream, x + f(x): the layer and its k - 1 copies above
it each add 1/k, and x + f(x)/k + f(x + f(x)/k)/k + ... is x + f(x) as far as f changes little over its own step. The
rule for gradients follows: that of the output projection W in f = W h is (dL/df) h^T, which does not depend on the
scale of W, so it stays; all else in the layer is reached through W/k, so its gradient becomes 1/k of what it was.
Moments that the optimizer has of them are scaled likewise (second moments by 1/k^2), in the source, and in a copy
that takes over its state. A step of Adam has the size of the learning rate whatever the scale, so it weighs k times
as much on a W of 1/k; that is left to ``rewarm_steps`` and ``protect``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sat.config import SATConfig
from sat.optimizers import scale_state
from sat.parts import CompactSite, Part
from sat.parts.layers import SkippedLayers


def install(
    part: Part,
    active: tuple[int, ...],
    before: Sequence[int],
    fresh: Sequence[int],
    config: SATConfig,
    optimizer: Optimizer | None,
) -> Sequence[int]:
    """Make ``active`` the active set of ``part``, with its never-trained units ``fresh`` as the entry rule says.

    Returns:
        Those of ``fresh`` that can't start without changing the function and therefore need a gate that rises
        from 0.

    Raises:
        ValueError: no trained layer can be copied.
    """
    if config.whole_forward or not before:  # the first units start as they were initialised
        part.switch(active)
        return ()
    if config.copies and fresh:
        assert isinstance(part, SkippedLayers)
        _copy(part, before, fresh, config, optimizer)
    if isinstance(part, CompactSite):
        if config.entry == "random" and fresh:
            part.match_scale(fresh, len(active))
        part.start_state(sorted(set(active) - set(before)))
    zero = fresh if config.entry == "zero" else ()
    part.switch(active, zero if part.enters_at_zero else ())
    return () if part.enters_at_zero else zero


@torch.no_grad()
def _copy(
    part: SkippedLayers, before: Sequence[int], fresh: Sequence[int], config: SATConfig, optimizer: Optimizer | None
) -> None:
    copies: dict[int, list[int]] = {}
    for unit in fresh:
        fitting = [source for source in before if part.fits(source, unit)]
        if not fitting:
            raise ValueError(f"entry {config.entry!r}: no trained layer of {part.name} fits layer {unit}")
        copies.setdefault(_source(unit, fitting, config.spreads), []).append(unit)
    for source, units in copies.items():
        if config.entry == "split":
            share = 1.0 / (1 + len(units))
            part.scale_outputs([source], share)
            if optimizer is not None:
                _scale_state(part, source, share, optimizer)
        for unit in units:
            part.copy_unit(source, unit)
            if config.entry_state == "copied" and optimizer is not None:
                for theirs, ours in part.pairs(source, unit):
                    held = optimizer.state.get(theirs, {})
                    optimizer.state[ours] = {
                        key: value.clone() if isinstance(value, Tensor) else value for key, value in held.items()
                    }


def _scale_state(part: SkippedLayers, unit: int, share: float, optimizer: Optimizer) -> None:
    """Moments of all that lies behind the output projections, whose gradients become ``share`` of what they were."""
    outputs = {id(parameter) for parameter in part.output_parameters(unit)}
    for parameter in part.layer_parameters()[unit]:
        if id(parameter) not in outputs:
            scale_state(optimizer, parameter, share)


def _source(unit: int, trained: Sequence[int], spreads: bool) -> int:
    """The trained layer that layer ``unit`` starts as a copy of."""
    if not spreads:  # stacking (G_stack, arXiv 2405.15319): the trained block repeats
        return trained[unit % len(trained)]
    return max((layer for layer in trained if layer < unit), default=trained[0])
