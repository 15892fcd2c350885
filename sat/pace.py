"""How much of the optimizer's update each unit takes: a re-warm-up of new units, protection of trained ones.

A hook before the optimizer's step keeps a copy of the units concerned, one after it puts them part of the way from
the old values to the new. For any optimizer whose step is ``w - lr * d`` with ``d`` free of ``lr`` (SGD, momentum,
Adam, AdamW with its decoupled weight decay, Adafactor with a fixed rate) this is exactly a learning rate of its own
for these units, up to rounding; the optimizer's state is untouched, as it is by any learning rate. While no unit is
concerned the hooks do nothing, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sat.parts import Part
from sat.parts.slices import Slice


class Pace:
    """Shares of the updates, by part and unit.

    A unit that entered or returned takes j/n of its j-th update, n being ``rewarm_steps``. Units that were active
    before take ``protect`` of their updates for ``protect_steps`` steps after any unit came in. A unit that is still
    re-warming when others come in takes the smaller of the two.
    """

    def __init__(self, parts: Sequence[Part], rewarm_steps: int, protect_steps: int, protect: float) -> None:
        self._parts = parts
        self._rewarm_steps = rewarm_steps
        self._protect_steps = protect_steps
        self._protect = protect
        self._rising: dict[str, dict[int, int]] = {}  # part -> unit -> steps done since it came
        self._held: dict[str, list[int]] = {}  # part -> units that are protected
        self._left = 0  # steps of protection
        self._slices: list[tuple[Slice, Tensor]] = []  # with the values before the step
        self._hooks: list[Any] = []

    def attach(self, optimizer: Optimizer | None) -> None:
        """Hook into the optimizer's step, where there is anything to do."""
        if optimizer is not None and (self._rewarm_steps > 1 or self._protect_steps):
            self._hooks = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            ]

    def start(self, came: Mapping[str, Sequence[int]], stayed: Mapping[str, Sequence[int]]) -> None:
        """After a switch: ``came`` are units that entered or returned, ``stayed`` those active before and after."""
        for part in self._parts:
            rising = {u: done for u, done in self._rising.get(part.name, {}).items() if u in part.active}
            if self._rewarm_steps > 1:
                rising.update(dict.fromkeys(came.get(part.name, ()), 0))
            self._rising[part.name] = rising
            self._held[part.name] = [unit for unit in self._held.get(part.name, ()) if unit in part.active]
        if self._protect_steps and any(came.values()):
            self._held = {name: list(units) for name, units in stayed.items()}
            self._left = self._protect_steps

    def advance(self) -> None:
        """One step later."""
        self._rising = {
            name: {unit: done + 1 for unit, done in rising.items() if done + 2 < self._rewarm_steps}
            for name, rising in self._rising.items()
        }
        self._left = max(0, self._left - 1)
        if not self._left:
            self._held = {}

    def factors(self, part: Part) -> dict[int, float]:
        """Shares below 1, by unit."""
        found = dict.fromkeys(self._held.get(part.name, ()), self._protect)
        for unit, done in self._rising.get(part.name, {}).items():
            found[unit] = min(found.get(unit, 1.0), (done + 1) / self._rewarm_steps)
        return found

    def stop(self) -> None:
        """Whole updates from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._rising, self._held, self._left = [], {}, {}, 0

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rising": {name: dict(rising) for name, rising in self._rising.items() if rising},
            "held": {name: list(units) for name, units in self._held.items() if units},
            "left": self._left,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self._rising = {name: dict(rising) for name, rising in state["rising"].items()}
        self._held = {name: list(units) for name, units in state["held"].items()}
        self._left = state["left"]

    @torch.no_grad()
    def _before(self, *_: Any) -> None:
        self._slices = []
        for part in self._parts:
            factors = self.factors(part)
            if factors:
                self._slices += [(piece, piece.copy()) for piece in part.slices(factors)]

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        for piece, before in self._slices:
            piece.keep_share_(before)
        self._slices = []
