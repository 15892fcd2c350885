"""Units inside a tensor: taking them out, putting them back, summing over them. ``cuts`` are those of one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sat.structure import Cut


def gather(full: Tensor, cuts: Sequence[Cut], index: Tensor) -> Tensor:
    """The units ``index`` of a full tensor, one after the other; contiguous, and a tensor of its own."""
    for cut in cuts:
        taken = [run.index_select(cut.dim, index).flatten(cut.dim, cut.dim + 1) for run in _runs(full, cut)]
        full = taken[0] if len(taken) == 1 else torch.cat(taken, cut.dim)
    return full


def scatter_(full: Tensor, compact: Tensor, cuts: Sequence[Cut], index: Tensor) -> None:
    """Write compact units back to their places ``index`` in the full tensor."""
    first, *others = cuts
    if others:  # the units of the first dimension, with the others still full
        rows = gather(full, [first], index)
        scatter_(rows, compact, others, index)
        compact = rows
    for target, source in zip(_runs(full, first), _runs(compact, first), strict=True):
        target.index_copy_(first.dim, index, source)


def clear_(full: Tensor, cut: Cut, index: Tensor) -> None:
    """Zero what the units ``index`` have along one cut."""
    for run in _runs(full, cut):
        run.index_fill_(cut.dim, index, 0.0)


def scale_(full: Tensor, cut: Cut, index: Tensor, factor: float) -> None:
    """Multiply what the units ``index`` have along one cut."""
    for run in _runs(full, cut):
        run.index_copy_(cut.dim, index, run.index_select(cut.dim, index) * factor)


def fill_empty_(full: Tensor, cuts: Sequence[Cut], known: Tensor, entering: Tensor) -> None:
    """Give those units of ``entering`` that hold nothing but zeros the mean of the units ``known``."""
    for cut in cuts:
        for run in _runs(full, cut):
            new = run.index_select(cut.dim, entering)
            empty = ~new.bool().movedim(cut.dim, 0).flatten(1).any(1)
            mean = run.index_select(cut.dim, known).mean(cut.dim, keepdim=True)
            shape = [-1 if dim == cut.dim else 1 for dim in range(new.dim())]
            run.index_copy_(cut.dim, entering, torch.where(empty.view(shape), mean, new))


def sum_per_unit(values: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Sums over every unit in fp32, shape (units,). What two units share counts half for each."""
    values = values.contiguous()
    sums = [
        run.float().sum(dim=[dim for dim in range(run.dim()) if dim != cut.dim])
        for cut in cuts
        for run in _runs(values, cut)
    ]
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
    return total if len(cuts) == 1 else total / len(cuts)


def _runs(tensor: Tensor, cut: Cut) -> Iterator[Tensor]:
    """Views of each run of units, with the units as dimension ``cut.dim`` and what each has as the next."""
    units = tensor.shape[cut.dim] // sum(cut.sizes)
    start = 0
    for size in cut.sizes:
        run = tensor.narrow(cut.dim, start, units * size)
        yield run.view(*tensor.shape[: cut.dim], units, size, *tensor.shape[cut.dim + 1 :])
        start += units * size
