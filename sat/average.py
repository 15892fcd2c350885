"""Exponential moving average of the weights, under plain names, at the cost of the active units."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sat.attach import plain
from sat.controller import ATTACHED
from sat.parts import Part, Scaled
from sat.parts.blocks import gather, scatter_
from sat.structure import Cut

Cuts = Sequence[Cut]


class EMA:
    """Average of the weights of a model, sparsified or not: ``average = decay * average + (1 - decay) * weight``.

    Call :meth:`update` after ``optimizer.step()`` and before ``controller.step()``, which switches units for the next
    step: after it, those that left would lose their last update, and the average of those that came in would start at
    the zero output with which they enter. What is active is averaged; units that are out keep their average, and go on
    from it when they return. The average of a unit starts at its weights after its first step, and that of all else at
    the first update, as torch's does. Where SAT multiplies weights to keep the model's function (``entry`` ``split``
    and ``random``), their averages are multiplied as well. Buffers are not averaged: they are the model's. The
    averages lie on the parameters' device, in full shape, and once more in that of the active units.

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
        with plain(model, states=False, keep=False):
            self._full = {name: p.detach().clone() for name, p in model.named_parameters()}
            self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._seen: dict[str, set[int]] = {}  # by part: units whose average has begun
        self._live: list[tuple[nn.Parameter, Tensor]] = []  # what is in the model now, with its average
        self._at: tuple[tuple[int, ...], ...] | None = None  # active units when it was made
        self._stepped: tuple[tuple[int, ...], ...] | None = None  # those in the optimizer's last step, until an update
        self._cuts: dict[nn.Parameter, tuple[Cuts, tuple[int, ...]]] = {}
        self._parts: list[Part] = []
        self._heard = {part: len(part.scaled) for part in self._attached()}  # what the averages have in them already

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average.

        Raises:
            ValueError: units were switched between the optimizer's step and this update.
        """
        if self._stepped is not None and self._stepped != self._present():
            raise ValueError(
                "sat.EMA: units were switched between optimizer.step() and ema.update(), so the average would miss "
                "their last step; call ema.update() before controller.step() (or begin_step, or sat.densify_)"
            )
        self._stepped = None
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
        self._rescale()
        self._store()
        with plain(self.model, states=False, keep=False):
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
        full = self.averages()
        with plain(self.model, states=False):
            for name, parameter in self.model.named_parameters():
                parameter.copy_(full[name])

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
        self._live, self._at, self._stepped = [], None, None
        self._heard = {part: len(part.scaled) for part in self._attached()}

    def _attached(self) -> list[Part]:
        """The parts of the model's controller; those known, while it has none."""
        controller = getattr(self.model, ATTACHED, None)
        return self._parts if controller is None else controller.parts

    def _present(self) -> tuple[tuple[int, ...], ...]:
        return tuple(part.active for part in self._parts)

    def _follow(self) -> None:
        """After a switch: put away the averages of what left, take those of what is in now."""
        self._rescale()
        if self._attached() is not self._parts:
            self._meet(self._attached())
        present = self._present()
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
            with plain(self.model, states=False, keep=False):
                for part in self._parts:
                    self._copy(part, sorted(set(range(part.units)) - self._seen[part.name]))
            self._seen = {part.name: set(range(part.units)) for part in parts}
            self._live, self._at = [], None
        self._parts, self._stepped = parts, None
        if (optimizer := getattr(self.model, ATTACHED).optimizer) is not None:
            self._watch(optimizer)

    def _watch(self, optimizer: Optimizer) -> None:
        """Remember which units each step of the optimizer had; the optimizer does not keep this object alive."""
        mine = weakref.ref(self)

        def note(*_: Any) -> None:
            if (average := mine()) is not None:
                average._stepped = average._present()

        optimizer.register_step_post_hook(note)

    @torch.no_grad()
    def _rescale(self) -> None:
        """Averages of weights that were multiplied since the last look are multiplied too."""
        parts = list(dict.fromkeys([*self._parts, *self._attached()]))
        for event in [event for part in parts for event in part.scaled[self._heard.get(part, 0) :]]:
            self._multiply(event)
        self._heard = {part: len(part.scaled) for part in parts}

    def _multiply(self, event: Scaled) -> None:
        full = self._full[self._names[event.parameter]]
        if not event.cuts:
            full.mul_(event.factor)
            return
        self._store(event.parameter)
        index = torch.tensor(event.units, device=full.device)
        scatter_(full, gather(full, event.cuts, index) * event.factor, event.cuts, index)
        for parameter, average in self._live:
            if parameter is event.parameter:
                average.copy_(self._taken(parameter))

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

    def _store(self, only: Tensor | None = None) -> None:
        """Bring the full averages up to date with those in use: all, or that of one parameter."""
        for parameter, average in self._live:
            cuts, active = self._cuts.get(parameter, ((), ()))
            if cuts and (only is None or only is parameter):
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
