"""Width: the module's parameter *is* the compact tensor, so stock dense kernels run at the smaller size.

The bank holds full weights and optimizer state of all units, outside autograd. At a switch: compact -> bank,
choose, bank -> compact; in place (``copy_``) while the count is constant, so that optimizer tensors keep
their addresses. While the whole site is active there is no bank: the parameter is the full tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sat.parts.base import Part
from sat.structure import Cut, Site


class CompactSite(Part):
    """An MLP or attention whose active units are stored one after the other, in rising order.

    Optimizer state tensors of the parameter's shape (``exp_avg``, ``exp_avg_sq``, ``momentum_buffer``) are cut
    like it: a unit that stays keeps its state exactly, a fresh one starts at zero, one that returns finds its
    old state. Scalars (``step``) belong to the whole tensor and are left alone.
    """

    def __init__(self, site: Site, optimizer: Optimizer | None, host_bank: bool = False) -> None:
        self.site = site
        self.name = site.name
        self.units = site.units
        self.unit_flops = site.unit_flops
        self.active = tuple(range(site.units))
        self._optimizer = optimizer
        self._host = host_bank
        self._parameters = [_parameter(cut) for cut in site.cuts]
        self._weights: list[Tensor] = []  # the bank; empty while the site is whole
        self._states: list[dict[str, Tensor]] = []
        self._unit_parameters = site.unit_parameters

    @torch.no_grad()
    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`.

        Raises:
            ValueError: an optimizer state that has neither the parameter's shape nor one element.
        """
        if active == self.active and not fresh:
            return
        self._store()
        if fresh:
            for cut, full in zip(self.site.cuts, self._weights, strict=True):
                if cut.output:
                    self._blocks(full, cut).index_fill_(cut.dim, self._index(fresh, full), 0.0)
        in_place = len(active) == len(self.active) < self.units
        whole = len(active) == self.units
        self.active = active
        for cut, parameter, full, states in zip(
            self.site.cuts, self._parameters, self._weights, self._states, strict=True
        ):
            if in_place:
                if parameter.grad is not None:
                    parameter.grad.zero_()
                parameter.copy_(self._gather(full, cut))
            else:
                _reshape(parameter, self._present(full if whole else self._gather(full, cut), parameter))
            for key, bank in states.items():
                held = self._optimizer_state(parameter)
                if in_place:
                    held[key].copy_(self._gather(bank, cut))
                else:
                    held[key] = self._present(bank if whole else self._gather(bank, cut), parameter)
        self._follow(len(active))
        if whole:
            self._weights, self._states = [], []

    @contextmanager
    def full(self) -> Iterator[None]:
        """See :meth:`Part.full`: pointers are exchanged, the compact tensors stay untouched."""
        if not self._weights:
            yield
            return
        self._store()
        compact = []
        for parameter, weight, states in zip(self._parameters, self._weights, self._states, strict=True):
            held = self._optimizer_state(parameter) if states else {}
            compact.append((parameter.data, parameter.grad, {key: held[key] for key in states}))
            parameter.grad = None
            parameter.data = self._present(weight, parameter)
            held.update({key: self._present(bank, parameter) for key, bank in states.items()})
        self._follow(self.units)
        try:
            yield
        finally:
            for parameter, (data, grad, states) in zip(self._parameters, compact, strict=True):
                parameter.grad = None
                parameter.data = data
                parameter.grad = grad
                if states:
                    self._optimizer_state(parameter).update(states)
            self._follow(len(self.active))

    def gated(self, gates: Tensor) -> RemovableHandle:
        """See :meth:`Part.gated`: the gate stands before the output projection."""
        size = self.site.gate_size

        def multiply(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = args[0]
            return (hidden * gates.to(hidden.dtype).repeat_interleave(size), *args[1:])

        return self.site.output.register_forward_pre_hook(multiply)

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """See :meth:`Part.magnitudes`."""
        sums = [self._per_unit(p.square(), cut) for p, cut in zip(self._parameters, self.site.cuts, strict=True)]
        return torch.stack(sums).sum(0) / self._unit_parameters

    @torch.no_grad()
    def products(self) -> Tensor | None:
        """See :meth:`Part.products`."""
        sums = [
            self._per_unit(parameter * parameter.grad, cut)
            for parameter, cut in zip(self._parameters, self.site.cuts, strict=True)
            if parameter.grad is not None
        ]
        return torch.stack(sums).sum(0) if sums else None

    @torch.no_grad()
    def scale_outputs(self, units: Sequence[int], factor: float) -> None:
        """See :meth:`Part.scale_outputs`."""
        assert len(self.active) == self.units, "the site must be whole"
        for cut, parameter in zip(self.site.cuts, self._parameters, strict=True):
            if cut.output:
                blocks = self._blocks(parameter.data, cut)
                index = self._index(units, parameter)
                blocks.index_copy_(cut.dim, index, blocks.index_select(cut.dim, index) * factor)

    def _store(self) -> None:
        """Bring the bank up to date with the compact tensors; opens it if the site is whole."""
        if not self._weights:
            self._weights = [self._home(parameter.data) for parameter in self._parameters]
            self._states = [
                {key: self._home(value) for key, value in self._cuttable(parameter).items()}
                for parameter in self._parameters
            ]
            return
        for cut, parameter, full, states in zip(
            self.site.cuts, self._parameters, self._weights, self._states, strict=True
        ):
            self._scatter(parameter.data, full, cut)
            held = self._cuttable(parameter)
            for forgotten in set(states) - set(held):
                del states[forgotten]
            for key, value in held.items():
                if key not in states:
                    states[key] = self._home(value.new_zeros(full.shape))
                self._scatter(value, states[key], cut)

    def _cuttable(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        found = {}
        for key, value in (self._optimizer.state.get(parameter, {}) if self._optimizer else {}).items():
            if not isinstance(value, Tensor):
                continue
            if value.shape == parameter.shape:
                found[key] = value
            elif value.numel() != 1:
                raise ValueError(
                    f"{type(self._optimizer).__name__}: state {key!r} of a parameter of {self.name} has shape "
                    f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}; axis 'width' needs state per "
                    "element (Adam, AdamW, SGD, RMSprop), or use axis 'depth'"
                )
        return found

    def _optimizer_state(self, parameter: nn.Parameter) -> dict[str, Any]:
        assert self._optimizer is not None
        held: dict[str, Any] = self._optimizer.state[parameter]
        return held

    def _follow(self, active: int) -> None:
        for count in self.site.counts:
            setattr(count.module, count.attribute, count.per_unit * active)

    def _home(self, tensor: Tensor) -> Tensor:
        if not self._host or tensor.device.type in {"cpu", "meta"}:
            return tensor
        return tensor.cpu().pin_memory()

    def _present(self, tensor: Tensor, parameter: nn.Parameter) -> Tensor:
        return tensor.to(parameter.device)

    def _blocks(self, tensor: Tensor, cut: Cut) -> Tensor:
        return tensor.view(*tensor.shape[: cut.dim], -1, cut.size, *tensor.shape[cut.dim + 1 :])

    def _index(self, units: Sequence[int], like: Tensor) -> Tensor:
        return torch.tensor(units, dtype=torch.long, device=like.device)

    def _gather(self, full: Tensor, cut: Cut) -> Tensor:
        chosen = self._blocks(full, cut).index_select(cut.dim, self._index(self.active, full))
        return chosen.flatten(cut.dim, cut.dim + 1)

    def _scatter(self, compact: Tensor, full: Tensor, cut: Cut) -> None:
        source = self._blocks(compact.to(full.device), cut)
        self._blocks(full, cut).index_copy_(cut.dim, self._index(self.active, full), source)

    def _per_unit(self, values: Tensor, cut: Cut) -> Tensor:
        blocks = self._blocks(values.contiguous(), cut)
        return blocks.float().sum(dim=[d for d in range(blocks.dim()) if d != cut.dim])


def _reshape(parameter: nn.Parameter, data: Tensor) -> None:
    """Give a parameter data of another shape, and let it forget its gradient and gradient accumulator.

    The accumulator remembers the shape for as long as any graph holds it, for instance through a loop's last
    ``loss``; the next backward pass would then fail. ``set_data`` drops it only when the type changes
    (torch 2.13, ``VariableHooks::set_data``), so the type changes for a moment.
    """
    parameter.grad = None
    other = torch.float32 if data.dtype != torch.float32 else torch.float64
    parameter.data = torch.empty(0, dtype=other, device=data.device)
    parameter.data = data


def _parameter(cut: Cut) -> nn.Parameter:
    parameter = getattr(cut.module, cut.parameter)
    if not isinstance(parameter, nn.Parameter):
        raise ValueError(f"{cut.name} is not a parameter but {type(parameter).__name__}")
    if not parameter.is_contiguous():
        parameter.data = parameter.data.contiguous()
    return parameter
