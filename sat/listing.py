"""What can be switched in a model and what it costs: ``print(sat.sites(model))``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from torch import nn

from sat.families import Described, find_structure
from sat.structure import Site, Structure, layer_flops


@dataclass(frozen=True)
class SiteInfo:
    """What can be switched at one place.

    ``unit_flops`` are training FLOPs (forward and backward) of a unit's matrix products, per token; of
    convolutions per output position. Attention scores, which grow with the length, are apart. A stack of unequal
    layers gives the mean of its layers.
    """

    name: str
    kind: str  # "layers" for a stack, else the site's kind
    axis: str
    units: int
    unit_parameters: int
    unit_flops: int
    pinned: int = 0  # units that mode skip can't leave out
    obstacle: str = ""  # why the site can't be cut after all


class Sites(list[SiteInfo]):
    """Stacks first, each followed by the sites inside it; as text, a table with equal sites on one line.

    Attributes:
        family: by which the model was recognised, ``own`` if it was described.
        parameters: of the whole model.
    """

    def __init__(self, found: Iterable[SiteInfo], family: str, parameters: int) -> None:
        super().__init__(found)
        self.family = family
        self.parameters = parameters

    def share(self, axis: str) -> float:
        """Share of the model's parameters that belongs to units along ``axis``."""
        return sum(site.units * site.unit_parameters for site in self if site.axis == axis) / self.parameters

    def __str__(self) -> str:
        stack = ""
        alike: Counter[SiteInfo] = Counter()
        for site in self:
            stack = site.name if site.axis == "depth" else stack
            inside = site.name.removeprefix(stack)
            alike[replace(site, name=site.name.removesuffix(inside) + re.sub(r"\b\d+\b", "*", inside))] += 1
        rows = [("axis", "site", "sites", "unit", "units", "parameters of a unit", "training FLOPs of a unit")]
        for site, count in alike.items():
            unit = _UNITS.get(site.kind, site.kind)
            units = f"{site.units} ({site.pinned} pinned)" if site.pinned else f"{site.units}"
            rows.append(
                (site.axis, site.name, f"{count}", unit, units, f"{site.unit_parameters:,}", f"{site.unit_flops:,}")
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if column in {2, 4, 5, 6} else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join(
            [
                f"{self.family}: {self.parameters:,} parameters; in units: {self.share('depth'):.0%} by depth, "
                f"{self.share('width'):.0%} by width; the rest is always active",
                *lines,
                *(f"{site.name} can't be cut: {site.obstacle}" for site in alike if site.obstacle),
                "FLOPs per token, of convolutions per output position; attention scores apart. Pinned units are left "
                "in by mode skip.",
            ]
        )


_UNITS = {"layers": "layer", "mlp": "MLP block", "attention": "KV head", "channels": "channel block"}


def sites(model: nn.Module, structure: Described | None = None) -> Sites:
    """What can be switched in ``model``, with the cost of a unit. A sparsified model is described in its full shape.

    Args:
        model: any model; nothing is changed.
        structure: a description, as for :func:`sat.sparsify_`.

    Raises:
        UnknownStructureError: no family knows the model, or what is named is not there.
    """
    controller = getattr(model, "_sat_controller", None)
    with ExitStack() as stack:
        if controller is not None:
            stack.enter_context(controller.plain())
            return _describe(model, controller.structure)
        return _describe(model, find_structure(model, structure))


def _describe(model: nn.Module, structure: Structure) -> Sites:
    found: list[SiteInfo] = []
    left = list(structure.parts)
    for stack in structure.stacks:
        layers = list(stack.layers)
        parameters = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
        number = len(layers)
        flops = layer_flops(layers) // number
        found.append(SiteInfo(stack.name, "layers", "depth", number, parameters // number, flops, len(stack.pinned)))
        inside = [site for site in left if site.name.startswith(f"{stack.name}.")]
        left = [site for site in left if site not in inside]
        found += [_of(site) for site in inside]
    found += [_of(site) for site in left]
    return Sites(found, structure.family, sum(parameter.numel() for parameter in model.parameters()))


def _of(site: Site) -> SiteInfo:
    return SiteInfo(
        site.name, site.kind, "width", site.units, site.unit_parameters, site.unit_flops, obstacle=site.obstacle
    )
