"""What a model can switch: its stacks of residual layers (depth) and the sites inside them (width).

A family finder (``sat/families/``), names (:mod:`sat.naming`) or the model itself (a method ``sat_structure``)
describes a model with these types; everything else in the package works on the description alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

TRAINING_FLOPS_PER_WEIGHT = 6
"""Per token: 2 for the forward product, 2 for the input gradient, 2 for the weight gradient."""


@dataclass(frozen=True, eq=False)
class Cut:
    """One tensor of a site and the dimension along which its units lie.

    ``size`` consecutive rows or columns of ``dim`` belong to each unit. Where several runs of units lie side by
    side, as in a fused projection that holds all queries, then all keys, then all values, ``size`` is a tuple:
    what a unit has in each run. A tensor may be cut along several dimensions (a convolution between channels
    that are both switched): one ``Cut`` for each. ``output`` marks a dimension by which the unit writes the
    site's result (or its own contribution to other units): zero there means that the unit changes nothing.

    The tensor is a parameter or a buffer (running statistics); only parameters have gradients and optimizer state.
    """

    name: str  # of the tensor in the model, e.g. "model.layers.0.mlp.up_proj.weight"
    module: nn.Module
    parameter: str  # attribute of the module
    dim: int
    size: int | tuple[int, ...]
    output: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """What a unit has in each run, in order."""
        return self.size if isinstance(self.size, tuple) else (self.size,)

    @property
    def tensor(self) -> Tensor:
        """The tensor as the module holds it now."""
        found = getattr(self.module, self.parameter)
        assert isinstance(found, Tensor)
        return found

    @property
    def multiplies(self) -> bool:
        """Whether the tensor is the weight of a matrix product; biases, norms and tables to look up are not."""
        return self.tensor.dim() > 1 and not isinstance(self.module, nn.Embedding)


@dataclass(frozen=True, eq=False)
class Count:
    """An attribute that must follow the number of active units: ``module.attribute = per_unit * active``."""

    module: nn.Module
    attribute: str
    per_unit: int


@dataclass(frozen=True, eq=False)
class Gate:
    """Where a unit's gate acts: ``size`` consecutive features of each unit along ``dim`` of the module's input."""

    module: nn.Module
    size: int
    dim: int = -1  # 1 for the channels of a convolution


@dataclass(frozen=True, eq=False)
class Site:
    """One place that can shrink: an MLP, an attention, the inner channels of a residual block.

    Every cut has ``units`` units; ``gates`` stand before each module whose weights have an output cut.
    ``floor`` is the fewest units that must stay active. ``obstacle`` says why the site can't be cut after all,
    where that is so.
    """

    name: str
    kind: str  # "mlp", "attention", "channels"
    units: int
    cuts: tuple[Cut, ...]
    counts: tuple[Count, ...]
    gates: tuple[Gate, ...]
    floor: int = 1
    obstacle: str = ""

    @property
    def unit_parameters(self) -> int:
        """Parameters of one unit, on average where units share weights."""
        tensors = {id(cut.tensor): cut.tensor for cut in self.cuts}.values()
        return sum(tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter)) // self.units

    @property
    def unit_flops(self) -> int:
        """Training FLOPs of one unit's weights in the full site, per token; see :meth:`flops`."""
        return self.flops(self.units) // self.units

    def flops(self, active: int) -> int:
        """Training FLOPs of the site's products with ``active`` units, per token (convolutions: per output position).

        Attention scores, which grow with the length, are apart. Call in the full shape.
        """
        cuts: dict[int, list[Cut]] = {}
        for cut in self.cuts:
            if cut.multiplies:
                cuts.setdefault(id(cut.tensor), []).append(cut)
        weights = 0
        for along in cuts.values():
            dims = len(along)
            weights += along[0].tensor.numel() * active**dims // int(self.units**dims)
        return TRAINING_FLOPS_PER_WEIGHT * weights


@dataclass(frozen=True, eq=False)
class Stack:
    """Residual layers: an ``nn.ModuleList`` or ``nn.Sequential`` whose members map a hidden state to its like.

    Attributes:
        name: of the list in the model, e.g. ``model.layers``.
        owner: the module that holds the list.
        attribute: under which name.
        outputs: ``outputs[i]`` are the modules of layer i that write into the residual stream. With their
            weights (and biases) at zero the layer is the identity, if ``identity``.
        config: an object whose fields must follow the number of layers (``config_fields``, those it has; and its
            list ``layer_types``, if it has one, keeps the entries of the layers that are in).
        config_fields: names of the fields.
        pinned: layers that can't be left out (the first block of a stage holds its projection shortcut, the first
            block of T5 the position bias of all). Mode ``skip`` keeps them; ``freeze`` may freeze them.
        identity: False where a norm follows the sum (BERT, Marian): no weights make such a layer the identity,
            so new layers enter by a gate that rises from 0 instead.
        floor: the fewest layers that must stay active.
    """

    name: str
    owner: nn.Module
    attribute: str
    outputs: tuple[tuple[nn.Module, ...], ...]
    config: object | None = None
    config_fields: tuple[str, ...] = ("num_hidden_layers",)
    pinned: tuple[int, ...] = ()
    identity: bool = True
    floor: int = 1

    @property
    def layers(self) -> nn.ModuleList | nn.Sequential:
        """The list that the owner holds now."""
        found = getattr(self.owner, self.attribute)
        assert isinstance(found, nn.ModuleList | nn.Sequential)
        return found


@dataclass(frozen=True, eq=False)
class Structure:
    """A model's stacks, and the sites inside their layers, lowest layer first. Names are unique.

    Either may be empty: a model without stacks has no ``depth``, one without sites no ``width``.
    """

    family: str
    stacks: tuple[Stack, ...]
    parts: tuple[Site, ...]


def layer_flops(layers: Iterable[nn.Module]) -> int:
    """Training FLOPs per token of the layers' matrix products, from their weights; tables to look up are free."""
    return TRAINING_FLOPS_PER_WEIGHT * sum(
        parameter.numel()
        for layer in layers
        for module in layer.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1
    )
