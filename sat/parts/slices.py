"""The weights of some units, wherever they lie, and how much of an update they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        mixed = before + self.weight * (now - before)
        if self.index is None:
            target.copy_(mixed)
        else:
            target.index_copy_(self.dim, self.index, mixed)


def cut_slice(parameter: Tensor, cuts: Sequence[Cut], active: Sequence[int], factors: Mapping[int, float]) -> Slice:
    """The slice of a compact parameter that belongs to the units in ``factors``.

    What lies in two units (a tensor cut along two dimensions) takes the smaller of their factors.
    """
    along = [(cut, _spread([factors.get(unit, 1.0) for unit in active], cut)) for cut in cuts]
    if len(along) == 1:
        [(cut, spread)] = along
        index = torch.nonzero(spread != 1.0).flatten()
        return Slice(parameter, _shaped(spread[index], parameter, cut.dim), cut.dim, index.to(parameter.device))
    weight = _shaped(along[0][1], parameter, along[0][0].dim)
    for cut, spread in along[1:]:
        weight = torch.minimum(weight, _shaped(spread, parameter, cut.dim))
    return Slice(parameter, weight)


def _spread(factors: Sequence[float], cut: Cut) -> Tensor:
    """Factors of units as factors of the entries along the cut's dimension."""
    units = torch.tensor(factors, dtype=torch.float64)
    return torch.cat([units.repeat_interleave(size) for size in cut.sizes])


def _shaped(along: Tensor, parameter: Tensor, dim: int) -> Tensor:
    shape = [-1 if at == dim else 1 for at in range(parameter.dim())]
    return along.to(parameter.device, parameter.dtype).view(shape)
