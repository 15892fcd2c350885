"""Configurations that a model's structure can't follow, refused before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sat.config import SATConfig
from sat.parts import Part
from sat.select import place
from sat.structure import Structure
from sat.units import units_kept


def check_structure(model: nn.Module, structure: Structure, config: SATConfig) -> None:
    """Raises ValueError: the model has nothing along the axis, something that can't be cut, or weights that units share
    or can't learn."""
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
    _check_own_weights(structure, config)
    _check_outputs(model, structure, config)


def _check_own_weights(structure: Structure, config: SATConfig) -> None:
    """Layers can't be switched apart, nor sites cut apart, where they share weights."""
    held: list[tuple[str, Iterable[Tensor]]]
    if config.axis == "depth":
        held = [
            (f"{stack.name}.{index}", layer.parameters())
            for stack in structure.stacks
            for index, layer in enumerate(stack.layers)
        ]
    else:
        held = [(site.name, {id(cut.tensor): cut.tensor for cut in site.cuts}.values()) for site in structure.parts]
    owner: dict[int, str] = {}
    for name, tensors in held:
        for tensor in tensors:
            if owner.setdefault(id(tensor), name) != name:
                raise ValueError(
                    f"{owner[id(tensor)]} and {name} share a weight of shape {tuple(tensor.shape)}, so one can't be "
                    "switched without the other; SAT needs layers with weights of their own"
                )


def _check_outputs(model: nn.Module, structure: Structure, config: SATConfig) -> None:
    """What an entry puts to zero, or to another scale, must be all that the unit writes, and must learn again."""
    shares = [share for _, share in config.stages]
    if config.mode != "skip" or min(shares) == 1.0 or (config.axis == "depth" and config.entry != "zero"):
        return
    if config.axis == "width":
        cuts = [cut for site in structure.parts for cut in site.cuts]
        changed = {id(cut.tensor) for cut in cuts if cut.output}
        modules = {cut.module for cut in cuts}
    else:
        modules = {module for stack in structure.stacks for outputs in stack.outputs for module in outputs}
        changed = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    for name, module in model.named_modules():
        own = set(module._parameters)
        if module in modules and isinstance(module, nn.Linear) and not {"weight"} <= own <= {"weight", "bias"}:
            raise ValueError(
                f"{name} is a linear layer with other parameters than weight and bias (an adapter, or what makes "
                "up the weight, as in weight_norm), so it can't be switched by units; use mode 'freeze' or "
                "'backward_drop', or axis 'depth' with entry 'random'"
            )
    for name, parameter in model.named_parameters():
        if id(parameter) in changed and not parameter.requires_grad:
            raise ValueError(
                f"{name} is frozen (requires_grad=False), and entry {config.entry!r} would change it for good where a "
                "unit enters; let it train, or use axis 'depth' with entry 'random', which takes layers as they are"
            )


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
