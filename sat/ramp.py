"""Gates of returning units, which rise to 1 over some steps so that a return is no jump in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sat.compiled import Uncompiled, uncompiled
from sat.parts import Part


class Ramp:
    """Rising gates by part and unit, over n steps.

    A returning unit's gate is 1/n in its first step back and 1 from its n-th on. A new one that can't enter with
    a zero output starts one step earlier, at 0: its entry changes nothing. Gates are hooks, which compiled code does
    not see: layers of ``model`` that hold one run uncompiled for as long as it rises.
    """

    def __init__(self, steps: int, model: nn.Module) -> None:
        self.steps = steps
        self._model = model
        self._rising: dict[str, dict[int, int]] = {}  # part -> unit -> steps done since its return, -1 if new
        self._hooks: dict[str, tuple[list[RemovableHandle | Uncompiled], Tensor]] = {}

    def start(self, part: Part, returning: Sequence[int], device: torch.device, new: Sequence[int] = ()) -> None:
        """After a switch of ``part``: units that left stop rising, ``returning`` and ``new`` ones begin."""
        kept = {unit: done for unit, done in self._rising.get(part.name, {}).items() if unit in part.active}
        if self.steps > 1:
            kept.update(dict.fromkeys(returning, 0))
            kept.update(dict.fromkeys(new, -1))
        self._rising[part.name] = kept
        self._install(part, device)

    def advance(self, parts: Sequence[Part]) -> None:
        """One step later."""
        for part in parts:
            rising = self._rising.get(part.name)
            if not rising:
                continue
            later = {unit: done + 1 for unit, done in rising.items() if done + 2 < self.steps}
            self._rising[part.name] = later
            if later:
                self._hooks[part.name][1].copy_(torch.tensor(self._present(part)))
            else:
                self._remove(part.name)

    def values(self, part: Part) -> dict[int, float]:
        """Gates below 1, by unit."""
        return {unit: (done + 1) / self.steps for unit, done in self._rising.get(part.name, {}).items()}

    @contextmanager
    def suspended(self, parts: Sequence[Part]) -> Iterator[None]:
        """No gates for a while (a probe brings its own)."""
        devices = {name: gates.device for name, (_, gates) in self._hooks.items()}
        for name in devices:
            self._remove(name)
        try:
            yield
        finally:
            for part in parts:
                if part.name in devices:
                    self._install(part, devices[part.name])

    def stop(self) -> None:
        """All gates at 1 from now on."""
        for name in list(self._hooks):
            self._remove(name)
        self._rising = {}

    def state(self) -> dict[str, Any]:
        """Steps done since the return, by part and unit."""
        return {name: dict(rising) for name, rising in self._rising.items() if rising}

    def load(self, state: dict[str, Any], parts: Sequence[Part], device: torch.device) -> None:
        """Continue from :meth:`state`; the parts have been switched already."""
        self.stop()
        self._rising = {name: dict(rising) for name, rising in state.items()}
        for part in parts:
            self._install(part, device)

    def _present(self, part: Part) -> list[float]:
        values = self.values(part)
        return [values.get(unit, 1.0) for unit in part.active]

    def _install(self, part: Part, device: torch.device) -> None:
        self._remove(part.name)
        if not self._rising.get(part.name):
            return
        gates = torch.tensor(self._present(part), device=device)
        eager = uncompiled(self._model, part.gated_modules)
        self._hooks[part.name] = ([*part.gated(gates), *eager], gates)

    def _remove(self, name: str) -> None:
        for handle in self._hooks.pop(name, ([], None))[0]:
            handle.remove()
