"""What a model can switch: its residual layers (depth) and the parts inside them (width).

A family finder (``sat/families/``) or the model itself (a method ``sat_structure``) describes a model with
these types; everything else in the package works on the description alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

TRAINING_FLOPS_PER_WEIGHT = 6
"""Per token: 2 for the forward product, 2 for the input gradient, 2 for the weight gradient."""


@dataclass(frozen=True, eq=False)
class Cut:
    """One parameter of a site and the dimension along which its units lie.

    ``size`` consecutive rows (``dim`` 0) or columns (``dim`` 1) belong to each unit. ``output`` marks the
    projection that writes the site's result: zero there means that the unit changes nothing.
    """

    name: str  # of the parameter in the model, e.g. "model.layers.0.mlp.up_proj.weight"
    module: nn.Module
    parameter: str  # attribute of the module
    dim: int
    size: int
    output: bool = False

    @property
    def tensor(self) -> Tensor:
        """The parameter as the module holds it now."""
        found = getattr(self.module, self.parameter)
        assert isinstance(found, Tensor)
        return found


@dataclass(frozen=True, eq=False)
class Count:
    """An attribute that must follow the number of active units: ``module.attribute = per_unit * active``."""

    module: nn.Module
    attribute: str
    per_unit: int


@dataclass(frozen=True, eq=False)
class Site:
    """One place inside a layer that can shrink: an MLP or an attention.

    A unit's gate multiplies ``gate_size`` consecutive features of the input of ``output``.
    """

    name: str
    kind: str  # "mlp", "attention"
    units: int
    cuts: tuple[Cut, ...]
    counts: tuple[Count, ...]
    output: nn.Module
    gate_size: int

    @property
    def unit_parameters(self) -> int:
        """Parameters of one unit."""
        return sum(cut.tensor.numel() for cut in self.cuts) // self.units

    @property
    def unit_flops(self) -> int:
        """Training FLOPs per token of one unit's weights (attention scores, which grow with length, apart)."""
        weights = sum(cut.tensor.numel() for cut in self.cuts if cut.tensor.dim() > 1)
        return TRAINING_FLOPS_PER_WEIGHT * weights // self.units


@dataclass(frozen=True, eq=False)
class Stack:
    """The residual layers: an ``nn.ModuleList`` whose members map a hidden state to one of the same shape.

    ``outputs[i]`` are the modules of layer i that write into the residual stream: with their weights (and
    biases) at zero the layer is the identity. ``config`` is an object whose ``num_hidden_layers`` (and
    ``layer_types``, where it has them) must follow the number of layers.
    """

    name: str
    owner: nn.Module
    attribute: str
    outputs: tuple[tuple[nn.Module, ...], ...]
    config: object | None = None

    @property
    def layers(self) -> nn.ModuleList:
        """The list that the owner holds now."""
        found = getattr(self.owner, self.attribute)
        assert isinstance(found, nn.ModuleList)
        return found


@dataclass(frozen=True, eq=False)
class Structure:
    """A model's stack and the sites inside its layers, lowest layer first."""

    family: str
    stack: Stack
    parts: tuple[Site, ...]


@dataclass(frozen=True)
class SiteInfo:
    """What can be switched at one place. FLOPs are per token of training, of the weights' products."""

    name: str
    kind: str  # "layers" for the stack, else the site's kind
    axis: str
    units: int
    unit_parameters: int
    unit_flops: int


def describe(structure: Structure) -> list[SiteInfo]:
    """The stack first, then every site; a stack of unequal layers gives the mean of its layers."""
    layers = list(structure.stack.layers)
    weights = [parameter for layer in layers for parameter in layer.parameters()]
    stack = SiteInfo(
        structure.stack.name,
        "layers",
        "depth",
        len(layers),
        sum(weight.numel() for weight in weights) // len(layers),
        TRAINING_FLOPS_PER_WEIGHT * sum(w.numel() for w in weights if w.dim() > 1) // len(layers),
    )
    parts = [
        SiteInfo(site.name, site.kind, "width", site.units, site.unit_parameters, site.unit_flops)
        for site in structure.parts
    ]
    return [stack, *parts]
