"""Exponential moving average of the weights, under plain names, at the cost of the active units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sat.attach import plain
from sat.controller import ATTACHED
from sat.parts import Part
from sat.parts.blocks import gather, scatter_
from sat.structure import Cut

Cuts = Sequence[Cut]


class EMA:
    """Average of the weights of a model, sparsified or not: ``average = decay * average + (1 - decay) * weight``.

    Call :meth:`update` after each ``optimizer.step()``. What is active is averaged; units that are out keep their
    average, and go on from it when they return. The average of a unit starts at its weights after its first step, and
    that of all else at the first update, as torch's does. Buffers are not averaged: they are the model's. The averages
    lie on the parameters' device, in full shape, and once more in that of the active units.

    ``torch.optim.swa_utils.AveragedModel`` pairs parameters by their place in the model and can't follow units.

    Args:
        model: the model; before or after :func:`sat.sparsify_`.
        decay: between 0 and 1.

    Raises:
        ValueError: ``decay`` outside 0..1, or parameters that are sharded.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"sat.EMA: decay must be between 0 and 1, not {decay!r}")
        if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
            raise ValueError("sat.EMA: the parameters are sharded over processes (FSDP), which it can't follow")
        self.model = model
        self.decay = decay
        self.updates = 0
        with plain(model):
            self._full = {name: p.detach().clone() for name, p in model.named_parameters()}
            self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._seen: dict[str, set[int]] = {}  # by part: units whose average has begun
        self._live: list[tuple[nn.Parameter, Tensor]] = []  # what is in the model now, with its average
        self._at: tuple[tuple[int, ...], ...] | None = None  # active units when it was made
        self._cuts: dict[nn.Parameter, tuple[Cuts, tuple[int, ...]]] = {}
        self._parts: list[Part] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self._follow()
        averages = [average for _, average in self._live]
        weights = [parameter.detach() for parameter, _ in self._live]
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay if self.updates else 1.0)
        self.updates += 1

    @torch.no_grad()
    def averages(self) -> dict[str, Tensor]:
        """The averaged parameters by their plain names, in full shape; copies.

        What has never been averaged is as it is in the model.
        """
        self._store()
        with plain(self.model):
            for part in self._parts:
                self._copy(part, sorted(set(range(part.units)) - self._seen[part.name]))
            if not self.updates:
                return {name: p.detach().clone() for name, p in self.model.named_parameters()}
        return {name: average.clone() for name, average in self._full.items()}

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with averaged weights in place of its own for a while, for evaluation.

        Units that have come in since the last update, for the first time, have no average yet and keep their weights.
        """
        seen = {name: set(units) for name, units in self._seen.items()}
        self._follow()
        own = [parameter.detach().clone() for parameter, _ in self._live]
        self._write()
        try:
            yield self.model
        finally:
            with torch.no_grad():
                for (parameter, _), weight in zip(self._live, own, strict=True):
                    parameter.copy_(weight)
            self._seen, self._at = seen, None  # looking begins no average

    @torch.no_grad()
    def apply_(self) -> None:
        """Make the averages the weights for good, those of units that are out too. Before :func:`sat.densify_`."""
        self._follow()
        full = self.averages()
        with plain(self.model):
            for name, parameter in self.model.named_parameters():
                parameter.copy_(full[name])
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        seen = {name: sorted(units) for name, units in self._seen.items()}
        return {"decay": self.decay, "updates": self.updates, "averages": self.averages(), "seen": seen}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; model and controller have been brought there already.

        Raises:
            ValueError: the averages are of another model.
        """
        ours = {name: tuple(average.shape) for name, average in self._full.items()}
        theirs = {name: tuple(average.shape) for name, average in state["averages"].items()}
        if ours != theirs:
            odd = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
            raise ValueError(
                f"this average is of another model: {odd} is {theirs.get(odd, 'missing')} there and "
                f"{ours.get(odd, 'missing')} here"
            )
        self.decay, self.updates = state["decay"], state["updates"]
        for name, average in self._full.items():
            average.copy_(state["averages"][name])
        self._seen = {name: set(units) for name, units in state["seen"].items()}
        self._live, self._at = [], None

    def _follow(self) -> None:
        """After a switch: put away the averages of what left, take those of what is in now."""
        controller = getattr(self.model, ATTACHED, None)
        if controller is not None and controller.parts is not self._parts:
            self._meet(controller.parts)
        present = tuple(part.active for part in self._parts)
        if present == self._at:
            return
        self._store()
        self._cuts = {p: (cuts, part.active) for part in self._parts for p, cuts in part.cut_parameters()}
        fresh = {part.name: set(part.active) - self._seen.get(part.name, set()) for part in self._parts}
        for part in self._parts:
            self._begin(part, sorted(fresh[part.name]))
            self._seen.setdefault(part.name, set()).update(part.active)
        self._live = [(p, self._taken(p)) for p in self.model.parameters()]
        self._at = present

    def _meet(self, parts: list[Part]) -> None:
        """The model has been sparsified. What was averaged before, plain or under another configuration, goes on."""
        if self._live:
            self._store()
            with plain(self.model):
                for part in self._parts:
                    self._copy(part, sorted(set(range(part.units)) - self._seen[part.name]))
            self._seen = {part.name: set(range(part.units)) for part in parts}
            self._live, self._at = [], None
        self._parts = parts

    def _begin(self, part: Part, fresh: Sequence[int]) -> None:
        """The averages of units that have come in start at the weights they have now."""
        for parameter, cuts in part.cut_parameters() if fresh else ():
            full = self._full[self._names[parameter]]
            inside = torch.tensor(part.active, device=full.device)
            places = torch.tensor([part.active.index(unit) for unit in fresh], device=full.device)
            average = gather(full, cuts, inside)
            _copy_units(average, parameter.detach(), cuts, places)
            scatter_(full, average, cuts, inside)
        for parameter in (parameter for unit in fresh for parameter in part.whole_parameters(unit)):
            self._full[self._names[parameter]].copy_(parameter)

    def _copy(self, part: Part, units: Sequence[int]) -> None:
        """Weights of ``units`` for averages; the part is full."""
        for parameter, cuts in part.cut_parameters() if units else ():
            full = self._full[self._names[parameter]]
            _copy_units(full, parameter.detach(), cuts, torch.tensor(units, device=full.device))
        for parameter in (parameter for unit in units for parameter in part.whole_parameters(unit)):
            self._full[self._names[parameter]].copy_(parameter)

    def _taken(self, parameter: nn.Parameter) -> Tensor:
        full = self._full[self._names[parameter]]
        cuts, active = self._cuts.get(parameter, ((), ()))
        return gather(full, cuts, torch.tensor(active, device=full.device)) if cuts else full

    def _store(self) -> None:
        """Bring the full averages up to date with those in use."""
        for parameter, average in self._live:
            cuts, active = self._cuts.get(parameter, ((), ()))
            if cuts:
                full = self._full[self._names[parameter]]
                scatter_(full, average, cuts, torch.tensor(active, device=full.device))

    @torch.no_grad()
    def _write(self) -> None:
        for parameter, average in self._live:
            parameter.copy_(average)


def _copy_units(to: Tensor, source: Tensor, cuts: Cuts, index: Tensor) -> None:
    """All that belongs to the units ``index``, along whichever cut."""
    for cut in cuts:
        scatter_(to, gather(source, [cut], index), [cut], index)
