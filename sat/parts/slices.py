"""The weights of some units, wherever they lie, and how much of an update they take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sat.structure import Cut


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of a parameter whose updates are scaled.

    ``weight`` is the share of the update that is kept, shaped to broadcast over the slice; with ``index``, the
    slice is those entries along ``dim``, without, it is the whole parameter.
    """

    parameter: Tensor
    weight: Tensor | float
    dim: int = 0
    index: Tensor | None = None

    def copy(self) -> Tensor:
        """The slice's values now."""
        if self.index is None:
            return self.parameter.detach().clone()
        return self.parameter.detach().index_select(self.dim, self.index)

    def keep_share_(self, before: Tensor) -> None:
        """Make the slice ``before + weight * (now - before)``."""
        target = self.parameter.detach()
        now = target if self.index is None else target.index_select(self.dim, self.index)
        now.sub_(before).mul_(self.weight).add_(before)
        if self.index is not None:
            target.index_copy_(self.dim, self.index, now)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the units of a parameter lie. It changes only when units come or go, or begin or cease to be scaled."""

    key: tuple[object, ...]
    owners: list[Tensor]  # by cut: which active unit each entry of the slice belongs to, as a position among them
    index: Tensor | None  # the entries of the slice; None: all


_LAYOUTS = WeakTensorKeyDictionary()  # by parameter, the latest


def cut_slice(parameter: Tensor, cuts: Sequence[Cut], active: Sequence[int], factors: Mapping[int, float]) -> Slice:
    """The slice of a compact parameter that belongs to the units in ``factors``.

    What lies in two units (a tensor cut along two dimensions) takes the smaller of their factors.
    """
    shares = [factors.get(unit, 1.0) for unit in active]
    present = torch.tensor(shares, dtype=torch.float64).to(parameter.device, parameter.dtype)
    scaled = tuple(share != 1.0 for share in shares)
    if len(cuts) == 1:
        [cut] = cuts
        block = math.gcd(*cut.sizes)  # entries that are always of one unit, copied at once: columns alone are slow
        layout = _layout(parameter, [(cut.dim, [size // block for size in cut.sizes])], scaled)
        shape = parameter.shape
        blocks = parameter.detach().view(*shape[: cut.dim], -1, block, *shape[cut.dim + 1 :])
        return Slice(blocks, _shaped(present[layout.owners[0]], blocks, cut.dim), cut.dim, layout.index)
    layout = _layout(parameter, [(cut.dim, cut.sizes) for cut in cuts], scaled)
    weight, *others = [
        _shaped(present[owners], parameter, cut.dim) for cut, owners in zip(cuts, layout.owners, strict=True)
    ]
    for other in others:
        weight = torch.minimum(weight, other)
    return Slice(parameter, weight)


def _layout(parameter: Tensor, runs: Sequence[tuple[int, Sequence[int]]], scaled: tuple[bool, ...]) -> _Layout:
    """The layout in which those of the active units are scaled: the latest, as long as it holds.

    Args:
        parameter: in its present shape.
        runs: for each cut its dimension, and what a unit has in each run.
        scaled: for each active unit.
    """
    key = (scaled, parameter.device, *((dim, *sizes) for dim, sizes in runs))
    known: _Layout | None = _LAYOUTS.get(parameter)  # type: ignore[no-untyped-call]
    if known is not None and known.key == key:
        return known
    units = torch.arange(len(scaled))
    owners = [torch.cat([units.repeat_interleave(size) for size in sizes]) for _, sizes in runs]
    index = None
    if len(owners) == 1 and not all(scaled):
        index = torch.tensor(scaled)[owners[0]].nonzero().flatten()
        owners, index = [owners[0][index]], index.to(parameter.device)
    layout = _Layout(key, [each.to(parameter.device) for each in owners], index)
    _LAYOUTS[parameter] = layout
    return layout


def _shaped(along: Tensor, parameter: Tensor, dim: int) -> Tensor:
    return along.view([-1 if at == dim else 1 for at in range(parameter.dim())])
