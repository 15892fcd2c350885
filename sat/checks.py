"""Configurations that a model's structure can't follow, refused before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sat.config import SATConfig
from sat.parts import Part
from sat.select import place
from sat.structure import Structure
from sat.units import units_kept


def check_structure(structure: Structure, config: SATConfig) -> None:
    """Raises ValueError: the model has nothing along the axis, or something that can't be cut."""
    if config.axis == "depth" and not structure.stacks:
        raise ValueError(f"{structure.family}: no stack of residual layers is described; use axis 'width'")
    stuck = next((site for site in structure.parts if site.obstacle), None)
    if config.axis == "width" and stuck is not None:
        raise ValueError(
            f"{stuck.name} can't be cut into units: {stuck.obstacle}; use axis 'depth', or name the sites to cut "
            "without it (structure=[sat.Layers(...)], docs/sat-models.md)"
        )
    if config.axis == "width" and not structure.parts:
        raise ValueError(f"{structure.family}: no sites inside the layers are described; use axis 'depth'")


def check_parts(model: nn.Module, parts: Sequence[Part], config: SATConfig) -> None:
    """Raises ValueError: a setting that the model's layers can't follow; the text says which and what to do."""
    _check_costs(parts, config)
    if config.mode != "skip":
        return
    gated = next((part.name for part in parts if not part.enters_at_zero), None)
    if gated is not None and config.regime == "persistent":
        raise ValueError(
            f"regime 'persistent' delivers the full model with layers that do nothing, but the layers of {gated} "
            "normalise after the residual sum, so they always do something; use regime 'growing' or 'rotating', or "
            "axis 'width'"
        )
    if gated is not None and config.entry == "split":
        raise ValueError(
            f"entry 'split' shares what a layer adds to the residual stream, but the layers of {gated} normalise after "
            "the residual sum; use entry 'copy' or 'interleaved'"
        )
    rises = gated is not None and config.entry == "zero"
    if rises and config.ramp_steps < 2:
        raise ValueError(
            f"the layers of {gated} normalise after the residual sum: no zero output makes a new one the identity, so "
            f"it enters by a gate that rises over ramp_steps, which is {config.ramp_steps}; set it to 2 or more, or "
            "use entry 'random', 'copy' or 'interleaved'"
        )
    if config.copies:
        for part in parts:
            _check_sources(part, config)


def _check_costs(parts: Sequence[Part], config: SATConfig) -> None:
    """A global threshold needs costs that can be compared."""
    for part in parts if config.threshold == "global" and len(parts) > 1 else ():
        if any(isinstance(module, _ConvNd) for module in part.modules):
            raise ValueError(
                f"threshold 'global' compares units by score per FLOP, but those of {part.name} are convolutions, "
                "whose FLOPs depend on the size of the picture there; use threshold 'site'"
            )


def _check_sources(part: Part, config: SATConfig) -> None:
    """Every layer that comes in later needs one of its shape among those that train first."""
    keep = units_kept(part.units, config.stages[0][1], max(config.floor, part.floor, len(part.pinned)), config.buckets)
    first = place(part.units, (), keep, spread=config.spreads, pinned=part.pinned)
    for unit in range(part.units):
        if unit not in first and not any(part.fits(source, unit) for source in first):
            raise ValueError(
                f"entry {config.entry!r}: layer {unit} of {part.name} can't be a copy of {_listed(first)}, all that "
                "trains first: the shapes differ; start with a larger share, or use entry 'zero' or 'random'"
            )


def _listed(units: Sequence[int]) -> str:
    return f"layer {units[0]}" if len(units) == 1 else f"layers {', '.join(map(str, units))}"
