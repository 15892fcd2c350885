"""Width: the module's parameter *is* the compact tensor, so stock dense kernels run at the smaller size.

The bank holds full weights and optimizer state of all units, outside autograd. At a switch: compact -> bank,
choose, bank -> compact; in place (``copy_``) while the count is constant, so that optimizer tensors keep
their addresses. While the whole site is active there is no bank: the parameter is the full tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sat.optimizers import Elementwise, Reduced, described, scale_state, state_cuts
from sat.parts.bank import Bank
from sat.parts.base import Part, Scaled
from sat.parts.blocks import clear_, fill_empty_, gather, scale_, scatter_, sum_per_unit
from sat.parts.slices import Slice, cut_slice
from sat.structure import Cut, Gate, Site


class CompactSite(Part):
    """A site whose active units are stored one after the other, in rising order.

    Optimizer state is cut as :mod:`sat.optimizers` says it follows the parameter: a unit that stays keeps its state
    exactly, a fresh one starts at zero (or at the mean, where zero would mean a huge step), one that returns finds
    its old state. Scalars (``step``) belong to the whole tensor and are left alone. Buffers (running statistics of
    batch norms) are cut as parameters are.
    """

    def __init__(
        self, site: Site, optimizer: Optimizer | None, host_bank: bool = False, entry_moment: str = "mean"
    ) -> None:
        self.site = site
        self._entry_moment = entry_moment
        self.name = site.name
        self.units = site.units
        self.unit_flops = site.unit_flops
        self.floor = site.floor
        self.active = tuple(range(site.units))
        self._optimizer = optimizer
        self.bank = Bank(host_bank)
        self._tensors = _tensors(site)
        self._weights: list[Tensor] = []  # the bank; empty while the site is whole
        self._states: list[dict[str, Tensor]] = []
        self._unit_parameters = site.unit_parameters
        self.scaled: list[Scaled] = []

    @torch.no_grad()
    def switch(self, active: tuple[int, ...], fresh: Sequence[int] = ()) -> None:
        """See :meth:`Part.switch`.

        Raises:
            ValueError: optimizer state that is not described, or not of the shape of its description.
        """
        if active == self.active and not fresh:
            return
        self._store()
        for cut, full in self._outputs(self._weights) if fresh else ():
            clear_(full, cut, self._index(fresh, full))
        in_place = len(active) == len(self.active) < self.units
        whole = len(active) == self.units
        self.active = active
        for (tensor, cuts), full, states in zip(self._tensors, self._weights, self._states, strict=True):
            if in_place:
                if tensor.grad is not None:
                    tensor.grad.zero_()
                tensor.copy_(self._gather(full, cuts))
            else:
                _reshape(tensor, self._present(full if whole else self._gather(full, cuts), tensor))
            for key, bank in states.items():
                held = self._optimizer_state(tensor)
                along = self._state_cuts(key, bank, full, cuts)
                if in_place:
                    held[key].copy_(self._gather(bank, along))
                else:
                    held[key] = self._present(bank if whole else self._gather(bank, along), tensor)
        self._follow(len(active))
        if whole:
            self._weights, self._states = [], []

    @contextmanager
    def full(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """See :meth:`Part.full`: pointers are exchanged, the compact tensors stay untouched."""
        if not self._weights:
            yield
            return
        self._store(states)
        compact = [tensor.data for tensor, _ in self._tensors]
        with ExitStack() as afterwards:
            afterwards.callback(self._put_back, compact, [tensor.grad for tensor, _ in self._tensors])
            for (tensor, _), weight in zip(self._tensors, self._weights, strict=True):
                tensor.grad = None
                tensor.data = self._present(weight, tensor)
            self._follow(self.units)
            for (tensor, _), bank in zip(self._tensors, self._states, strict=True):
                if states and bank:
                    held = self._optimizer_state(tensor)
                    afterwards.callback(held.update, {key: held[key] for key in bank})
                    held.update(bank)
            if keep:
                afterwards.callback(self._keep, compact)
            yield

    def _put_back(self, compact: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        for (tensor, _), data, gradient in zip(self._tensors, compact, gradients, strict=True):
            tensor.grad = None  # of another shape, perhaps
            tensor.data = data
            tensor.grad = gradient
        self._follow(len(self.active))

    @torch.no_grad()
    def _keep(self, compact: Sequence[Tensor]) -> None:
        """What the full tensors have become goes to the bank and to the compact ones."""
        for (tensor, cuts), weight, data in zip(self._tensors, self._weights, compact, strict=True):
            self.bank.keep(weight, tensor.data)
            data.copy_(self._gather(tensor.data, cuts))

    def banked(self) -> Iterator[Tensor]:
        """See :meth:`Part.banked`: the full tensors of all units."""
        yield from self._weights
        for states in self._states:
            yield from states.values()

    def lent(self) -> Iterator[Tensor]:
        """See :meth:`Part.lent`: the full weights, beside which the compact ones stay."""
        yield from self._weights

    def cut_parameters(self) -> Iterator[tuple[nn.Parameter, tuple[Cut, ...]]]:
        """See :meth:`Part.cut_parameters`."""
        return self._parameters()

    @property
    def gated_modules(self) -> list[nn.Module]:
        """See :meth:`Part.gated_modules`."""
        return [gate.module for gate in self.site.gates]

    @property
    def modules(self) -> Iterator[nn.Module]:
        """See :meth:`Part.modules`."""
        return (cut.module for cut in self.site.cuts)

    def slices(self, factors: Mapping[int, float]) -> Iterator[Slice]:
        """See :meth:`Part.slices`."""
        return (cut_slice(parameter, cuts, self.active, factors) for parameter, cuts in self._parameters())

    def gated(self, gates: Tensor) -> list[RemovableHandle]:
        """See :meth:`Part.gated`: the gates stand before the output projections."""

        return [gate.module.register_forward_pre_hook(partial(_multiply, gate, gates)) for gate in self.site.gates]

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """See :meth:`Part.magnitudes`."""
        if self._weights:
            self._store(states=False)
        weights = self._weights or [tensor.data for tensor, _ in self._tensors]
        sums = [
            sum_per_unit(self._present(full, tensor).square(), cuts)
            for (tensor, cuts), full in zip(self._tensors, weights, strict=True)
            if isinstance(tensor, nn.Parameter)
        ]
        return torch.stack(sums).sum(0) / self._unit_parameters

    @torch.no_grad()
    def products(self) -> Tensor | None:
        """See :meth:`Part.products`."""
        sums = [
            sum_per_unit(parameter * parameter.grad, cuts)
            for parameter, cuts in self._parameters()
            if parameter.grad is not None
        ]
        return torch.stack(sums).sum(0) if sums else None

    @torch.no_grad()
    def start_state(self, entering: Sequence[int]) -> None:
        """Before a switch with which ``entering`` come in: those without history start from the mean of the active
        units, where their state asks for it."""
        if self._optimizer is None or not entering:
            return
        self._store()
        follows = described(self._optimizer)
        for (_, cuts), full, states in zip(self._tensors, self._weights, self._states, strict=True):
            for key, bank in states.items():
                kind = follows[key]
                if not isinstance(kind, Elementwise | Reduced):
                    continue
                if kind.entry == "mean" or (kind.power == 2 and self._entry_moment == "mean"):
                    along = self._state_cuts(key, bank, full, cuts)
                    fill_empty_(bank, along, self._index(self.active, bank), self._index(entering, bank))

    @torch.no_grad()
    def match_scale(self, fresh: Sequence[int], count: int) -> None:
        """Before a switch to ``count`` active units, ``fresh`` among them as initialised: keep the result's scale.

        The new units' output weights get the mean square of the active ones; then, if the count rises from k to n,
        all are multiplied by sqrt(k / n). If the units' contributions are uncorrelated, and alike in their hidden
        values, the variance of the site's result stays (RMS-scale consistency, SPARKLING, arXiv 2602.02472). What
        lies before the outputs then has gradients of sqrt(k / n), and so its moments.
        """
        self._store()
        share = min(1.0, len(self.active) / count) ** 0.5
        for (tensor, cuts), full in zip(self._tensors, self._weights, strict=True):
            outputs = [cut for cut in cuts if cut.output]
            new, known = self._index(fresh, full), self._index(self.active, full)
            for cut in outputs:
                squares = sum_per_unit(full.square(), [cut])
                ours, theirs = squares[known].mean(), squares[new].mean()
                if not full.is_meta and theirs > 0:
                    factor = float((ours / theirs).sqrt()) * share
                    scale_(full, cut, new, factor)
                    self.scaled.append(Scaled(cut.tensor, factor, (cut,), tuple(fresh)))
            if outputs:
                tensor.mul_(share)
                self.scaled.append(Scaled(outputs[0].tensor, share, tuple(cuts), self.active))
            elif self._optimizer is not None:
                scale_state(self._optimizer, tensor, share)

    @torch.no_grad()
    def scale_outputs(self, units: Sequence[int], factor: float) -> None:
        """See :meth:`Part.scale_outputs`."""
        assert len(self.active) == self.units, "the site must be whole"
        for cut, full in self._outputs([tensor.data for tensor, _ in self._tensors]):
            scale_(full, cut, self._index(units, full), factor)
            self.scaled.append(Scaled(cut.tensor, factor, (cut,), tuple(units)))

    def _outputs(self, weights: Sequence[Tensor]) -> Iterator[tuple[Cut, Tensor]]:
        for (_, cuts), full in zip(self._tensors, weights, strict=True):
            yield from ((cut, full) for cut in cuts if cut.output)

    def _parameters(self) -> Iterator[tuple[nn.Parameter, tuple[Cut, ...]]]:
        return ((tensor, cuts) for tensor, cuts in self._tensors if isinstance(tensor, nn.Parameter))

    def _store(self, states: bool = True) -> None:
        """Bring the bank up to date with the compact tensors, and with their optimizer state if it is to be looked
        at; opens it if the site is whole."""
        if not self._weights:
            self._weights = [self._home(tensor.data) for tensor, _ in self._tensors]
            self._states = [
                {key: self._home(value) for key, (value, _) in self._cuttable(tensor, cuts).items()}
                for tensor, cuts in self._tensors
            ]
            return
        for (tensor, cuts), full in zip(self._tensors, self._weights, strict=True):
            self._scatter(tensor.data, full, cuts)
        if not states:
            return
        for (tensor, cuts), bank in zip(self._tensors, self._states, strict=True):
            held = self._cuttable(tensor, cuts)
            for forgotten in set(bank) - set(held):
                del bank[forgotten]
            for key, (value, along) in held.items():
                if key not in bank:
                    shape = list(value.shape)
                    for cut in along:
                        shape[cut.dim] = self.units * sum(cut.sizes)
                    bank[key] = self._home(value.new_zeros(shape))
                self._scatter(value, bank[key], along)

    def _cuttable(self, tensor: Tensor, cuts: Sequence[Cut]) -> dict[str, tuple[Tensor, tuple[Cut, ...]]]:
        """The optimizer's state of a tensor that is cut with it, and where."""
        found = {}
        for key, value in (self._optimizer.state.get(tensor, {}) if self._optimizer else {}).items():
            along = self._state_cuts(key, value, tensor, cuts)
            if along:
                found[key] = (value, along)
        return found

    def _state_cuts(self, key: str, value: Any, tensor: Tensor, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
        assert self._optimizer is not None
        return state_cuts(key, value, tensor, cuts, self._optimizer)

    def _optimizer_state(self, tensor: Tensor) -> dict[str, Any]:
        assert self._optimizer is not None
        held: dict[str, Any] = self._optimizer.state[tensor]
        return held

    def _follow(self, active: int) -> None:
        for count in self.site.counts:
            setattr(count.module, count.attribute, count.per_unit * active)

    def _home(self, tensor: Tensor) -> Tensor:
        return self.bank.away(tensor)

    def _present(self, tensor: Tensor, like: Tensor) -> Tensor:
        return self.bank.back(tensor, like.device)

    def _index(self, units: Sequence[int], like: Tensor) -> Tensor:
        return torch.tensor(units, dtype=torch.long, device=like.device)

    def _gather(self, full: Tensor, cuts: Sequence[Cut]) -> Tensor:
        return gather(full, cuts, self._index(self.active, full))

    def _scatter(self, compact: Tensor, full: Tensor, cuts: Sequence[Cut]) -> None:
        scatter_(full, compact.to(full.device), cuts, self._index(self.active, full))


def _multiply(gate: Gate, gates: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden = args[0]
    shape = [1] * hidden.dim()
    shape[gate.dim] = -1
    return (hidden * gates.to(hidden.dtype).repeat_interleave(gate.size).view(shape), *args[1:])


def _reshape(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor data of another shape; a parameter forgets its gradient and gradient accumulator.

    The accumulator remembers the shape for as long as any graph holds it, for instance through a loop's last
    ``loss``; the next backward pass would then fail. ``set_data`` drops it only when the type changes
    (torch 2.13, ``VariableHooks::set_data``), so the type changes for a moment.
    """
    tensor.grad = None
    other = torch.float32 if data.dtype != torch.float32 else torch.float64
    tensor.data = torch.empty(0, dtype=other, device=data.device)
    tensor.data = data


def _tensors(site: Site) -> list[tuple[Tensor, tuple[Cut, ...]]]:
    """Every tensor of the site once, with all its cuts."""
    cuts: dict[int, list[Cut]] = {}
    for cut in site.cuts:
        length = cut.tensor.shape[cut.dim]
        if length != site.units * sum(cut.sizes):
            raise ValueError(
                f"{cut.name}: dimension {cut.dim} has {length} entries, but the site says {site.units} units of "
                f"{sum(cut.sizes)}"
            )
        cuts.setdefault(id(cut.tensor), []).append(cut)
    found = []
    for along in cuts.values():
        tensor = along[0].tensor
        if not tensor.is_leaf:
            raise ValueError(f"{along[0].name} is neither a parameter nor a buffer but {type(tensor).__name__}")
        if not tensor.is_contiguous():
            tensor.data = tensor.data.contiguous()
        found.append((tensor, tuple(along)))
    return found
